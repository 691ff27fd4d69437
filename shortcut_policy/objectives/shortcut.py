"""Shortcut models (Frans, Hafner, Levine, Abbeel: "One Step Diffusion via Shortcut Models", ICLR 2025)."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import (
    Condition,
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_doubling_steps,
    check_power_of_two,
    without_gradient,
)
from shortcut_policy.objectives.errors import ErrorName, check_adaptive_power, row_error, weighted
from shortcut_policy.objectives.guidance import Guidance
from shortcut_policy.objectives.paths import GaussianPath, Straight, euler
from shortcut_policy.objectives.step_map import StepMap, expand_like
from shortcut_policy.settings import check_choice, check_number, check_whole


class Shortcut(Objective):
    """Flow matching at d = 0, and self-consistency: one step of d equals two steps of d / 2.

    One batch and one forward pass: 1/k of the rows regress on the network's own two half steps (or four
    quarter steps, and so on), the others on the velocity of the path. Sizes d are 1, 1/2, ... 1/M; the
    network is asked at d = 0 wherever d would be smaller than the smallest size that is trained.

    The defaults are the paper's. ``configs/objective/shortcut.yaml`` has what serves policies better.

    Args:
        bootstrap_every: k; one row in k is self-consistency. The paper says 4, the authors' code 8. A
            smaller k helps one-step samples and costs two more evaluations for each such row.
        bootstrap_rows: Whether those rows are ``taken`` from flow matching, as in the paper, or ``added`` to
            the batch: then flow matching has every row, and one in k is self-consistency as well, with noise
            of its own.
        max_steps: M, a power of two: the most steps that can be sampled.
        level_weights: Shares of the sizes d = 1, 1/2, ... 1/M among the self-consistency rows, up to
            log2(M) + 1 numbers that need not sum to one; uniform, as in the paper, if None. Steps shorter
            than the last size with a share are not trained: they are the flow's. A size with a share of 0
            before it is left out: no target may be made of such steps, and none can be sampled.
        target_steps: Smaller steps that a target is made of, a power of two; the paper's two. More of them
            make a target that has passed through fewer sizes, at one more network evaluation each.
        bootstrap_from: Part of the training, in [0, 1), before which all rows are flow matching: until the
            flow has settled, there is nothing to be consistent with.
        consistency_weight: Of the errors of the self-consistency rows, relative to those of the flow rows.
            None: whatever ``consistency_share`` makes it, so that self-consistency neither outweighs a flow
            that is far from fitted nor fades where its errors fall faster than the flow's.
        consistency_share: The most that those rows may add to the loss of a batch, as a part of the flow
            rows' loss: the weight of that batch is reduced until they do. Where the flow is far from fitted
            (a small network, few updates), self-consistency errors are large and a fixed weight takes the
            network away from the flow that they rest on. It is a ratio: at 1 both kinds may add the same,
            and above 1 self-consistency may outweigh the flow. None: no limit.
        adaptive_power: p. Flow rows are weighted by ``1 / (error + 0.01) ** p`` (SoFlow, section 3.3, with
            r = 1). 0.5 divides a row's error by about its root, so that a demonstrator's odd chunk pulls no
            harder than others: a pseudo-Huber error. 0, as in the paper, gives equal weights.
        target_weights: Make targets with the averaged weights (``ema``, the paper) or with the current ones
            (``online``). Averaged weights lag, and what the sizes learn from each other passes through them
            log2(M) + 1 times: a delay that weighs more in a run of ten thousand updates than in one of a
            million. With the paper's eight sizes, online targets come closer in one step on the two modes of
            ``tests/test_two_modes.py``; with three sizes, as ``shortcut.yaml`` has, averaged ones do no harm
            to the flow and bear a larger ``consistency_weight`` (docs/cost_of_one_step.md).
        target_clip: Clip x and the targets of the self-consistency rows to this absolute value (4 in the
            authors' code; nothing in the paper, and None here).
        flow_times: Times of the flow rows: ``continuous`` in [0, 1), or, as in the authors' code, multiples
            of 1/M (``discrete``).
        error: Of the average velocity, see `row_error`.
        path: Between noise and data; the straight one if None.
        guidance: Classifier-free guidance in the targets that come from d = 0; none if None. It takes two
            more evaluations for each row of d = 1/M.
    """

    path: GaussianPath
    step_conditioned = True

    def __init__(
        self,
        bootstrap_every: float = 4,
        bootstrap_rows: Literal["taken", "added"] = "taken",
        max_steps: int = 128,
        level_weights: Sequence[float] | None = None,
        target_steps: int = 2,
        bootstrap_from: float = 0.0,
        consistency_weight: float | None = 1.0,
        consistency_share: float | None = None,
        adaptive_power: float = 0.0,
        target_weights: Literal["ema", "online"] = "ema",
        target_clip: float | None = None,
        flow_times: Literal["continuous", "discrete"] = "continuous",
        error: ErrorName = "l2",
        path: GaussianPath | None = None,
        guidance: Guidance | None = None,
    ) -> None:
        check_power_of_two(max_steps)
        check_number(
            "objective.bootstrap_every", bootstrap_every, lambda k: k >= 1, "at least 1: one row in k"
        )
        check_choice("objective.bootstrap_rows", bootstrap_rows, ("taken", "added"))
        if bootstrap_rows == "taken" and bootstrap_every == 1:
            raise InputError(
                "objective.bootstrap_every=1 with objective.bootstrap_rows=taken leaves no row to flow "
                "matching, which self-consistency rests on: give bootstrap_every=2 or more, or "
                "bootstrap_rows=added"
            )
        check_choice("objective.target_weights", target_weights, ("ema", "online"))
        check_choice("objective.flow_times", flow_times, ("continuous", "discrete"))
        check_whole("objective.target_steps", target_steps, 2)
        if target_steps & (target_steps - 1):
            raise InputError(f"objective.target_steps={target_steps} must be 2, 4, 8 or another power of two")
        check_number(
            "objective.bootstrap_from",
            bootstrap_from,
            lambda share: 0 <= share < 1,
            "a share of the training, from 0 to below 1",
        )
        if consistency_weight is None and consistency_share is None:
            raise InputError(
                "objective.consistency_weight=null leaves the weight to objective.consistency_share, null as "
                "well: give one of them"
            )
        limits = (
            ("consistency_weight", consistency_weight),
            ("consistency_share", consistency_share),
            ("target_clip", target_clip),
        )
        for name, limit in limits:
            if limit is not None:
                check_number(
                    f"objective.{name}", limit, lambda number: number > 0, "above 0, or null for no limit"
                )
        check_adaptive_power(adaptive_power)
        for name, part, kind in (("path", path, GaussianPath), ("guidance", guidance, Guidance)):
            if not isinstance(part, kind | None):
                raise InputError(
                    f"objective.{name}={part} must be null or a mapping with _target_, one of the classes of "
                    f"{kind.__module__}"
                )
        levels = max_steps.bit_length()
        given = [1.0] * levels if level_weights is None else level_weights
        listed = isinstance(given, Sequence) and not isinstance(given, str)
        numbers = listed and all(isinstance(one, int | float) and 0 <= one < math.inf for one in given)
        if not numbers or not 1 <= len(given) <= levels or not any(given):
            raise InputError(
                f"objective.level_weights must be up to {levels} numbers from 0 on, for d = 1, 1/2, ... "
                f"1/{max_steps}, and not all 0; got {level_weights}"
            )
        weights = torch.tensor([float(one) for one in given])
        self.bootstrap_every, self.bootstrap_rows, self.max_steps = bootstrap_every, bootstrap_rows, max_steps
        self.target_steps, self.bootstrap_from = target_steps, bootstrap_from
        self.consistency_weight = math.inf if consistency_weight is None else consistency_weight
        self.consistency_share, self.adaptive_power = consistency_share, adaptive_power
        self.loss_changes = [bootstrap_from] if bootstrap_from else []
        weights = weights[: int(weights.nonzero().max()) + 1].double()
        self.smallest_step = 0.5 ** (len(weights) - 1)
        self.untrained = self._left_out(weights.tolist())
        for level in weights.nonzero().flatten().tolist():
            if 0.5**level / target_steps in self.untrained:
                raise InputError(
                    f"objective.level_weights={weights.tolist()} train steps of 1/{2**level} on targets of "
                    f"steps of 1/{2**level * target_steps}, whose share is 0: give these a share, or change "
                    f"objective.target_steps={target_steps}"
                )
        self.level_shares = torch.cumsum(weights / weights.sum(), 0).float()
        self.target_weights, self.target_clip, self.flow_times = target_weights, target_clip, flow_times
        self.error, self.path, self.guidance = row_error(error), path or Straight(), guidance
        self.path.check_ends()
        self.extra_cond_dim = 0 if guidance is None else guidance.extra_cond_dim
        self.capturable = guidance is None  # which asks only those rows twice that need it
        # Others expect the velocity of the straight path, under the observation alone.
        self.velocity_at_zero = isinstance(self.path, Straight) and guidance is None

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the average velocity of each row, (B,); paper, equation 5."""
        draws, rows = context.draws, len(x_1)
        x_0, u = draws.normal_like(x_1), draws.uniform(rows)
        started = context.progress >= self.bootstrap_from
        bootstrapped = round(rows * draws.world / self.bootstrap_every) if started else 0
        d = self.draw_step_sizes(draws.stratified(rows, bootstrapped))
        n = len(d)
        added = bootstrapped > 0 and self.bootstrap_rows == "added"
        flow = slice(0 if added else n, None)
        z_0, v = (draws.normal_like(x_1), draws.uniform(rows)) if added else (x_0, u)

        t = u[flow]
        if self.flow_times == "discrete":
            t = torch.floor(t * self.max_steps) / self.max_steps

        teacher, teacher_cond = self._teacher(net, cond, context)
        conds = cond[:n], cond[flow]
        if self.guidance is not None:
            scale = self.guidance.scales(draws.uniform(rows))[:n]
            present = draws.uniform(rows)[flow] >= self.guidance.dropout
            teacher = self.guidance.guided(teacher, scale)
            conds = (
                self.guidance.condition(conds[0], torch.ones_like(scale, dtype=torch.bool), scale),
                self.guidance.condition(conds[1], present, torch.ones_like(t)),
            )

        x, start, target = self._large_steps(teacher, z_0[:n], x_1[:n], v[:n], d, teacher_cond)
        x_t = torch.cat([x, self.path.point(x_0[flow], x_1[flow], t)])
        target = torch.cat([target, self.path.velocity(x_0[flow], x_1[flow], t)])
        told = torch.cat([d, torch.zeros_like(t)])
        errors = self.error(net(x_t, torch.cat([start, t]), told, torch.cat(conds)), target)
        parts = {"loss_consistency": errors[:n], "loss_flow": errors[n:]}
        flow_losses = weighted(errors[n:], self.adaptive_power)
        consistency = self._weight(errors[:n], flow_losses, draws.world) * errors[:n]
        if added:
            losses = flow_losses + F.pad(consistency, (0, rows - n))
        else:
            losses = torch.cat([consistency, flow_losses])
        return losses, {name: part.detach().mean() for name, part in parts.items() if len(part)}

    @without_gradient()
    def bootstrap_target(self, net: StepMap, x_t: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Average velocity of smaller steps, ``(s(x_t, t, d/2) + s(x', t + d/2, d/2)) / 2``; no gradient.

        The second step begins where the first one ends, at time t + d/2 (the paper prints t). With
        ``target_steps=4`` they are four quarters, and so on.

        Args:
            net: The step map that is trusted for the smaller steps.
            x_t: (B, ...).
            t: (B,) in [0, 1 - d].
            d: (B,) full step size.
            cond: (B, C).
        """
        part = d / self.target_steps
        told = self.told_step(part)
        x, velocities = x_t, []
        for i in range(self.target_steps):
            velocities.append(net(x, t + i * part, told, cond))
            x = self._clip(x + expand_like(part, x) * velocities[-1])
        return self._clip(torch.stack(velocities).mean(0))

    def taught_from(self, steps: int) -> float:
        """``bootstrap_from`` for the steps that self-consistency trains; shorter ones are the flow's."""
        return self.bootstrap_from if 1 / steps >= self.smallest_step else 0.0

    def missed(self, batch_size: int, updates: int) -> str | None:
        """Batches without a row of one of the two kinds, or no update after ``bootstrap_from``."""
        every, rows = self.bootstrap_every, round(batch_size / self.bootstrap_every)
        given = f"objective.bootstrap_every={every:g} and trainer.batch_size={batch_size}"
        if not rows:
            return (
                f"{given} make no row of a batch self-consistent, so that large steps are not trained: give "
                f"trainer.batch_size={math.floor(every / 2) + 1} or more"
            )
        if self.bootstrap_rows == "taken" and rows == batch_size:
            return f"{given} leave no row to flow matching: give a larger objective.bootstrap_every"
        if self.bootstrap_from > (updates - 1) / updates:
            return (
                f"objective.bootstrap_from={self.bootstrap_from:g} comes after the last of trainer.max_steps="
                f"{updates} updates, so that large steps are not trained: for more than a try, give more "
                "updates, or a smaller share"
            )
        return None

    def told_step(self, d: Tensor) -> Tensor:
        """The step size that the network is asked at: d, or 0 where d is smaller than all trained ones."""
        return torch.where(d < self.smallest_step, torch.zeros_like(d), d)

    def draw_step_sizes(self, u: Tensor) -> Tensor:
        """Step sizes 1, 1/2, ... 1/M by their shares, for numbers ``u`` (B,) in [0, 1)."""
        level = torch.zeros_like(u)
        for share in self.level_shares[:-1].tolist():
            level = level + (u >= share)
        return 0.5**level

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Take ``steps`` shortcuts of size 1/steps; deterministic in ``noise`` (B, ...)."""
        d = 1 / steps
        return euler(net, noise, cond, steps, d=d if d >= self.smallest_step else 0.0)

    def check_steps(self, steps: int) -> None:
        """A power of two up to M, of a size that was not left out and that guidance has reached."""
        check_doubling_steps(steps, self.max_steps, f"a shortcut policy with M = {self.max_steps}")
        if 1 / steps in self.untrained:
            raise InputError(
                f"steps={steps} cannot be sampled: this policy was trained without steps of 1/{steps} "
                "(a share of 0 in objective.level_weights)"
            )
        if self.guidance is not None and 1 / steps < self.smallest_step:
            raise InputError(
                f"steps={steps} cannot be sampled with guidance: steps shorter than {self.smallest_step:g} "
                f"are the flow's, which is not guided; give at most {round(1 / self.smallest_step)}"
            )

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def sampling_cond(self, cond: Tensor, guidance: float | None = None) -> Tensor:
        """With the channels of guidance, if there is any; its scale is chosen here if it is a range."""
        if self.guidance is None:
            return super().sampling_cond(cond, guidance)
        return self.guidance.sampling_cond(cond, guidance)

    def _left_out(self, level_weights: Sequence[float]) -> set[float]:
        """Step sizes, above the smallest one, that nothing trains."""
        return {0.5**level for level, weight in enumerate(level_weights) if not weight}

    def _teacher(self, net: StepMap, cond: Tensor, context: LossContext) -> tuple[StepMap, Condition]:
        """Who makes the targets of self-consistency, and the condition as it sees it."""
        return (context.ema, context.ema_cond) if self.target_weights == "ema" else (net, cond)

    def _large_steps(
        self, teacher: StepMap, x_0: Tensor, x_1: Tensor, u: Tensor, d: Tensor, cond: Condition
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Points (n, ...), times (n,) and targets (n, ...) of steps of d (n,), which may be none.

        Args:
            u: Numbers in [0, 1), (n,), that say from which multiple of d.
            cond: Of the batch, whose first rows these are.
        """
        start = d * torch.floor(u / d)
        x = self._clip(self.path.point(x_0, x_1, start))
        n = len(d)
        return x, start, self.bootstrap_target(teacher, x, start, d, cond[:n]) if n else x

    def _weight(self, consistency: Tensor, flow: Tensor, world: int) -> Tensor | float:
        """Of the self-consistency rows of a batch, from the errors of both kinds in all processes."""
        if self.consistency_share is None:
            return self.consistency_weight
        sums = torch.stack([consistency.detach().sum(), flow.detach().sum()])
        if world > 1:
            from accelerate.utils import reduce  # the trainer has it already then

            sums = reduce(sums)
        consistency_sum, flow_sum = sums
        # Errors that are nothing but rounding, or none, beside the flow's have no weight without bound.
        kind = torch.finfo(sums.dtype)
        least = flow_sum * kind.eps + kind.tiny
        weight: Tensor = self.consistency_share * flow_sum / torch.maximum(consistency_sum, least)
        return weight.clamp_max(self.consistency_weight)

    def _clip(self, x: Tensor) -> Tensor:
        return x if self.target_clip is None else x.clamp(-self.target_clip, self.target_clip)
