"""SoFlow (Luo, Yuan, Liu: "SoFlow: Solution Flow Models for One-Step Generative Modeling", ICLR 2026)."""

from math import ceil, log2
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from shortcut_policy.objectives.average_velocity import AverageVelocity
from shortcut_policy.objectives.base import (
    Draws,
    LossContext,
    Metrics,
    draw_times,
    loss_phase,
)
from shortcut_policy.objectives.consistency import consistency_target
from shortcut_policy.objectives.errors import l2, weighted
from shortcut_policy.objectives.paths import interpolate
from shortcut_policy.objectives.step_map import StepMap
from shortcut_policy.settings import check_choice, check_number

#: Of the paper's times, for the flow rows and the two ends of an interval: mean and standard deviation of the
#: logit. The paper counts time from the data, so that its means have the other sign.
FLOW_LOGIT, START_LOGIT, END_LOGIT = (0.2, 1.0), (-0.2, 0.8), (1.0, 0.8)
#: Shortest interval of a consistency row, as in the authors' code.
SHORTEST = 1e-4


class Rows(NamedTuple):
    """What the network is asked for R rows, and the answer that it should give.

    Attributes:
        x_t: Where steps begin, (R, ...).
        t: Noise levels, (R,) in [0, 1].
        d: Sizes of the steps, (R,) in [0, 1]; 0 for flow matching.
        target: Average velocities, (R, ...).
        cond: (R, C).
    """

    x_t: Tensor
    t: Tensor
    d: Tensor
    target: Tensor
    cond: Tensor


class SoFlow(AverageVelocity):
    """Consistency of steps of every size with the velocity of the row's own data point, without derivatives.

    One step of d from x_t ends where a small step along the row's velocity, ``r d``, and one of ``(1 - r) d``
    from there end: the average velocity over [t, t + d] has the target ``r v + (1 - r) s(x', t + r d,
    (1 - r) d)`` with ``x' = x_t + r d v`` (paper, equation 11, for the straight path and its Euler form).
    Only the expectation of v over all data that lead through x_t counts, as in flow matching and in
    consistency training, which is this with ``t + d = 1`` for every row. The limit r -> 0 is `MeanFlow`.

    A share of the rows are such, the others are flow matching, d = 0. A row costs one evaluation with a
    gradient, a consistency row one more without. In the paper, and by default, they are rows of the batch;
    they can be added to it, so that the flow has all of it.

    The paper's settings are for images: ``consistency_share=0.25, times=logit_normal, adaptive_power=1``. On
    the two modes of ``tests/test_two_modes.py`` they leave one-step samples at a distance of 0.19 to 0.22
    from the data, those here at 0.07.

    Args:
        consistency_share: Of the rows that have d > 0, as a part of the batch.
        largest_part: r in the beginning, in (0, 1]. It is halved at equal intervals of the training (the
            paper lowers it exponentially at every update), until it is
        smallest_part: r in the end, in (0, largest_part].
        times: Distribution of the time of a flow row and of the two ends of an interval: ``uniform`` or
            ``logit_normal``, which hardly ever meets the ends of the path.
        consistency_rows: Whether they are ``taken`` from flow matching or ``added`` to the batch: its first
            rows once more, with other noise.
        adaptive_power: p. Rows are weighted by ``1 / (error / r**2 + 0.01) ** p``, flow rows with r = 1
            (paper, section 3.3); 0 gives equal weights.
    """

    def __init__(
        self,
        consistency_share: float = 0.5,
        largest_part: float = 0.1,
        smallest_part: float = 0.002,
        times: Literal["uniform", "logit_normal"] = "uniform",
        adaptive_power: float = 0.5,
        consistency_rows: Literal["taken", "added"] = "taken",
    ) -> None:
        check_number(
            "objective.consistency_share", consistency_share, lambda x: 0 <= x <= 1, "a share, from 0 to 1"
        )
        check_number("objective.largest_part", largest_part, lambda r: 0 < r <= 1, "above 0 and not above 1")
        check_number(
            "objective.smallest_part",
            smallest_part,
            lambda r: 0 < r <= largest_part,
            f"above 0 and not above objective.largest_part={largest_part}",
        )
        super().__init__(times, adaptive_power)
        check_choice("objective.consistency_rows", consistency_rows, ("taken", "added"))
        self.consistency_share, self.consistency_rows = consistency_share, consistency_rows
        self.largest_part, self.smallest_part = largest_part, smallest_part
        stages = 1 + ceil(log2(largest_part / smallest_part))
        self.loss_changes = [stage / stages for stage in range(1, stages)]

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Weighted error of the average velocity of each row, (B,); with that of the added ones."""
        rows = self.rows(net, x_1, cond, context)
        errors = l2(net(rows.x_t, rows.t, rows.d, rows.cond), rows.target)
        losses = self.weighted(errors, rows.d, context.progress)
        return self.by_row(losses, len(x_1)), self.metrics(errors, len(x_1), context.draws)

    def missed(self, batch_size: int, updates: int, key: str = "objective") -> str | None:
        """Batches without a step; ``key`` is where this objective stands in the settings."""
        if not self.consistency_share or round(batch_size * self.consistency_share):
            return None
        return (
            f"{key}.consistency_share={self.consistency_share:g} of trainer.batch_size={batch_size} rows "
            "is none, so that steps are not trained: give more rows or a larger share"
        )

    def rows(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> Rows:
        """Those of a batch of B, consistency rows first; more than B where these are added."""
        draws, rows = context.draws, len(x_1)
        x_0 = draws.normal_like(x_1)
        n = self.steps_in(rows, draws)
        flow, one, other = (
            draw_times(draws, rows, logit if self.times == "logit_normal" else None)
            for logit in (FLOW_LOGIT, START_LOGIT, END_LOGIT)
        )
        start, end = torch.minimum(one, other)[:n].clamp(max=1 - SHORTEST), torch.maximum(one, other)[:n]
        if self.consistency_rows == "added":
            x_0 = torch.cat([draws.normal_like(x_1)[:n], x_0])
            x_1, cond = torch.cat([x_1[:n], x_1]), torch.cat([cond[:n], cond])
        else:
            flow = flow[n:]
        t = torch.cat([start, flow])
        d = F.pad((end - start).clamp(min=SHORTEST), (0, len(flow)))
        part = self.part(context.progress)
        x_t, target = interpolate(x_0, x_1, t), x_1 - x_0
        if n:
            target[:n] = consistency_target(net, x_t[:n], t[:n], d[:n], part * d[:n], target[:n], cond[:n])
        return Rows(x_t, t, d, target, cond)

    def by_row(self, losses: Tensor, rows: int) -> Tensor:
        """Losses of all R rows as those of the batch's, (B,): what was added counts with its first rows."""
        n = len(losses) - rows
        return losses[n:] + F.pad(losses[:n], (0, rows - n))

    def weighted(self, errors: Tensor, d: Tensor, progress: float) -> Tensor:
        """The loss of rows with these errors, (B,), of steps of these sizes, (B,)."""
        # A target differs from the network's answer by about r times what the velocity does.
        scale = torch.where(d > 0, self.part(progress), 1.0)
        return weighted(errors, self.adaptive_power, scale) / scale

    def metrics(self, errors: Tensor, rows: int, draws: Draws) -> Metrics:
        """Mean errors of steps and of flow rows, (), for those of all R rows of a batch of so many."""
        n = self.steps_in(rows, draws)
        parts = {"error_consistency": errors[:n], "error_flow": errors[n:]}
        return {name: group.detach().mean() for name, group in parts.items() if len(group)}

    def steps_in(self, rows: int, draws: Draws) -> int:
        """How many rows are steps of d > 0, of a batch of so many: the first ones."""
        return draws.local(round(rows * draws.world * self.consistency_share))

    def part(self, progress: float) -> float:
        """r at this point of the training."""
        return max(self.largest_part / 2 ** loss_phase(self, progress), self.smallest_part)
