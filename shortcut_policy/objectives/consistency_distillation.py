"""Consistency distillation (Song et al. 2023, algorithm 2) of a flow."""

from typing import Literal

import torch
from torch import Tensor

from shortcut_policy.objectives.base import (
    LossContext,
    Metrics,
    check_first_phase,
    without_gradient,
)
from shortcut_policy.objectives.consistency import Consistency
from shortcut_policy.objectives.errors import ErrorName
from shortcut_policy.objectives.flow_matching import FlowMatching
from shortcut_policy.objectives.paths import interpolate
from shortcut_policy.objectives.step_map import StepMap


class ConsistencyDistillation(Consistency):
    """The jump to the data from t agrees with the one after an Euler step of 1/M by a frozen flow.

    As `ConsistencyTraining` with the teacher's velocity in place of ``x_1 - x_0``, on a fixed grid of times.
    The first phase of a run is flow matching and makes the teacher; ``teacher=<checkpoint>`` replaces it. A
    training row costs one network evaluation in the first phase, then three, one of them with a gradient.

    Args:
        max_steps: M, a power of two: the teacher's steps, and the most steps that can be sampled.
        error: Of the velocity in the second phase, see `row_error`; the flow has ``l2``.
        target_weights: Weights that predict the data after the teacher's step: ``ema`` (paper) or ``online``.
        first_phase: Share of the training that makes the teacher, in [0, 1); 0 with a teacher from outside.
    """

    def __init__(
        self,
        max_steps: int = 128,
        error: ErrorName = "l2",
        target_weights: Literal["ema", "online"] = "ema",
        first_phase: float = 0.5,
    ) -> None:
        super().__init__(max_steps, error, target_weights)
        check_first_phase(first_phase)
        self.teacher_phases = (first_phase,)
        self.flow = FlowMatching()

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the velocity, then of the average velocity to the end, mean of each row, (B,)."""
        if context.teacher is None or context.teacher_cond is None:
            return self.flow.loss(net, x_1, cond, context)
        x_0 = context.draws.normal_like(x_1)
        t = (context.draws.uniform(len(x_1)) * self.max_steps).floor() / self.max_steps
        x_t = interpolate(x_0, x_1, t)
        with without_gradient():
            velocity = context.teacher(x_t, t, torch.zeros_like(t), context.teacher_cond[:])
        return self.consistency_losses(net, x_t, t, 1 / self.max_steps, velocity, cond, context), {}
