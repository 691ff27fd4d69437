"""Reflow (Liu, Gong, Liu: "Flow Straight and Fast", ICLR 2023): a flow learned from the pairs of another."""

import torch
from torch import Tensor

from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_first_phase,
    check_step_range,
    without_gradient,
)
from shortcut_policy.objectives.errors import ErrorName, row_error
from shortcut_policy.objectives.flow_matching import FlowMatching
from shortcut_policy.objectives.paths import Straight, euler, interpolate
from shortcut_policy.objectives.step_map import StepMap


class Reflow(Objective):
    """Regress ``x_1' - x_0`` on the straight path to the sample x_1' that a frozen flow makes of noise x_0.

    The pairs of a flow do not cross, so the flow learned from them is nearly straight, and one Euler step
    nearly enough. They are made on the fly, with new noise for every batch. The network is asked at d = 0: it
    stays a flow.

    The first phase of a run is flow matching and makes the teacher; ``teacher=<checkpoint>`` replaces it, as
    by a flow that was itself reflowed. A training row costs one network evaluation in the first phase, then
    1 + ``teacher_steps``, one of them with a gradient.

    Args:
        teacher_steps: Euler steps of the teacher's samples.
        error: Of the velocity in the second phase, see `row_error`; the first flow has ``l2``.
        first_phase: Share of the training that makes the teacher, in [0, 1); 0 with a teacher from outside.
    """

    path = Straight()
    velocity_at_zero = True

    def __init__(self, teacher_steps: int = 8, error: ErrorName = "l2", first_phase: float = 0.5) -> None:
        check_step_range(teacher_steps, None, "the teacher, as objective.teacher_steps")
        check_first_phase(first_phase)
        self.teacher_steps, self.error = teacher_steps, row_error(error)
        self.teacher_phases = (first_phase,)
        self.flow = FlowMatching()

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the velocity, mean of each row, (B,); ``x_1`` teaches in the first phase alone."""
        if context.teacher is None or context.teacher_cond is None:
            return self.flow.loss(net, x_1, cond, context)
        x_0 = context.draws.normal_like(x_1)
        t = context.draws.uniform(len(x_1))
        with without_gradient():
            sampled = euler(context.teacher, x_0, context.teacher_cond[:], self.teacher_steps, d=0.0)
        velocity = net(interpolate(x_0, sampled, t), t, torch.zeros_like(t), cond)
        return self.error(velocity, sampled - x_0), {}

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Integrate the straightened flow with ``steps`` Euler steps; deterministic in ``noise`` (B, ...)."""
        return euler(net, noise, cond, steps, d=0.0)

    def check_steps(self, steps: int) -> None:
        """Any whole number of steps from 1 on."""
        check_step_range(steps, None, "reflow")

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps
