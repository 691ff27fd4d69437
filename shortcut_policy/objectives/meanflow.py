"""MeanFlow (Geng, Deng, Bai, Kolter, He: "Mean Flows for One-step Generative Modeling", 2025)."""

from typing import Literal

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.average_velocity import AverageVelocity
from shortcut_policy.objectives.base import (
    LossContext,
    Metrics,
    draw_times,
    without_gradient,
)
from shortcut_policy.objectives.errors import ErrorName, row_error, weighted
from shortcut_policy.objectives.paths import interpolate
from shortcut_policy.objectives.step_map import StepMap, expand_like

#: Of the paper's time distribution: mean and deviation of the logit of t, which grows towards the data.
LOGIT = (0.4, 1.0)
#: Keeps the weight of a row without error finite; the paper's c.
WEIGHT_OFFSET = 1e-3


class MeanFlow(AverageVelocity):
    """Regress on the slope of the network's own average velocity instead of on two half steps.

    Differentiating ``(e - t) s = integral of v over [t, e]`` in t, with the end point ``e = t + d`` fixed,
    gives the target ``v + d * ds/dt`` (paper, equation 6): ``ds/dt`` is the derivative of the network along
    (v, 1, -1) in (x, t, d), computed in forward mode, and v is the velocity of the straight path.

    A share of the rows has d > 0, the others d = 0, where the target is v itself and no derivative is taken.
    A training row costs one forward and one backward evaluation, a row with d > 0 one forward-mode derivative
    more, which takes about as long as five forward evaluations of the UNet.

    The derivative in t passes through the embedding of t. Where that has high frequencies it is wild, and
    nothing is learned: leave ``backbone.time_scale`` at 10; at 1000 this objective fails.

    The paper's settings are for images: ``interval_share=0.25, times=logit_normal, adaptive_power=1``. On the
    two modes of ``tests/test_two_modes.py`` they leave one-step samples at a distance of 0.13 to 0.18 from
    the data, those here at 0.07 (shortcut models: 0.11).

    Args:
        interval_share: Of the rows that have d > 0.
        times: Distribution of the two times of which the earlier is t and the later t + d: ``uniform`` or
            ``logit_normal``, which hardly ever meets the ends.
        adaptive_power: Rows are weighted by ``1 / (error + 1e-3) ** adaptive_power`` (paper, section 4.3).
            Equal weights, 0, are the ones under which the mean velocity has the smallest loss.
        error: Of the average velocity, see `row_error`.
    """

    def __init__(
        self,
        interval_share: float = 0.5,
        times: Literal["uniform", "logit_normal"] = "uniform",
        adaptive_power: float = 0.0,
        error: ErrorName = "l2",
    ) -> None:
        if not 0 <= interval_share <= 1:
            raise InputError(f"objective.interval_share={interval_share} must be a share, from 0 to 1")
        super().__init__(times, adaptive_power)
        self.interval_share = interval_share
        self.error = row_error(error)

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Weighted error of the average velocity of each row, (B,); paper, equations 9 to 11."""
        draws, rows = context.draws, len(x_1)
        x_0 = draws.normal_like(x_1)
        logit = LOGIT if self.times == "logit_normal" else None
        t, end = torch.stack([draw_times(draws, rows, logit) for _ in range(2)]).sort(dim=0).values
        n = draws.local(round(rows * draws.world * self.interval_share))
        d = torch.cat([(end - t)[:n], torch.zeros_like(t[n:])])

        x_t, target = interpolate(x_0, x_1, t), x_1 - x_0
        if n:
            target[:n] = self.mean_target(net, x_t[:n], t[:n], d[:n], target[:n], cond[:n])
        errors = self.error(net(x_t, t, d, cond), target)
        parts = {"error_interval": errors[:n], "error_flow": errors[n:]}
        metrics = {name: part.detach().mean() for name, part in parts.items() if len(part)}
        return weighted(errors, self.adaptive_power, offset=WEIGHT_OFFSET), metrics

    @without_gradient()
    def mean_target(
        self, net: StepMap, x_t: Tensor, t: Tensor, d: Tensor, velocity: Tensor, cond: Tensor
    ) -> Tensor:
        """Average velocity over [t, t + d], ``velocity + d * ds/dt``; no gradient.

        Args:
            net: The step map s.
            x_t: (B, ...).
            t: (B,).
            d: (B,).
            velocity: At (x_t, t), (B, ...).
            cond: (B, C).
        """
        # What is compiled takes kernels without such a derivative. (As a decorator, this would load the
        # compiler for everybody.) Autocast does not see the tensors of torch.func, and these are small
        # differences of large numbers.
        eager = torch.compiler.set_stance("force_eager")
        with eager, torch.autocast(x_t.device.type, enabled=False):
            slope = torch.func.jvp(
                lambda x, t, d: net(x, t, d, cond.to(x_t.dtype)),
                (x_t, t, d),
                (velocity, torch.ones_like(t), -torch.ones_like(d)),
            )[1]
        return velocity + expand_like(d, x_t) * slope
