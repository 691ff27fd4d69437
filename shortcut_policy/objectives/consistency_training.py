"""Consistency training (Song et al. 2023) on the straight path, and improved (Song and Dhariwal 2024)."""

from bisect import bisect_right
from typing import Literal

import torch
from torch import Tensor

from shortcut_policy.objectives.base import (
    LossContext,
    Metrics,
)
from shortcut_policy.objectives.consistency import Consistency
from shortcut_policy.objectives.errors import ErrorName
from shortcut_policy.objectives.paths import interpolate
from shortcut_policy.objectives.step_map import StepMap
from shortcut_policy.settings import check_choice

#: Mean and standard deviation of the logarithm of the noise level (Song and Dhariwal 2024, section 3.5).
LOG_NOISE_MEAN, LOG_NOISE_STD = -1.1, 2.0


class ConsistencyTraining(Consistency):
    """The jump to the data from t agrees with the one from t + dt, on the straight line to one data point.

    Both points have the same noise, so the step between them is ``dt (x_1 - x_0)``; see `consistency_target`.
    The times are multiples of dt, which halves over training: 1, 1/2, ... 1/M, each for the same share of it.
    A training row costs two network evaluations, one of them with a gradient.

    As the shortcut paper trains it: ``error=l2, times=uniform, target_weights=ema``, and 64 for M, where its
    formula with 128 ends. The improved form: ``pseudo_huber, lognormal, online``.

    Args:
        max_steps: M, a power of two: the most bins, and the most steps that can be sampled.
        error: Of the velocity, see `row_error`.
        times: ``uniform``, or ``lognormal`` in the noise level (1 - t) / t, with more of the times near data.
        target_weights: Weights that predict the data from t + dt: ``ema`` or ``online``.
    """

    def __init__(
        self,
        max_steps: int = 64,
        error: ErrorName = "l2",
        times: Literal["uniform", "lognormal"] = "uniform",
        target_weights: Literal["ema", "online"] = "ema",
    ) -> None:
        super().__init__(max_steps, error, target_weights)
        check_choice("objective.times", times, ("uniform", "lognormal"))
        self.times = times
        stages = max_steps.bit_length()
        self.loss_changes = [stage / stages for stage in range(1, stages)]

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the average velocity to the end, mean of each row, (B,)."""
        x_0 = context.draws.normal_like(x_1)
        u = context.draws.uniform(len(x_1))
        if self.times == "lognormal":
            # The noise level is exp(-logit(t)), so t is the logistic function of a normal number.
            u = torch.sigmoid(LOG_NOISE_STD * context.draws.normal_like(u) - LOG_NOISE_MEAN)
        bins = self.bins(context.progress)
        t = (u * bins).floor().clamp(max=bins - 1) / bins
        x_t, velocity = interpolate(x_0, x_1, t), x_1 - x_0
        return self.consistency_losses(net, x_t, t, 1 / bins, velocity, cond, context), {}

    def bins(self, progress: float) -> int:
        """Number of time steps at this point of the training: doubles from 1 to M."""
        return 2 ** bisect_right(self.loss_changes, progress)
