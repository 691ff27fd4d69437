"""Progressive distillation (Salimans and Ho, ICLR 2022) of a flow, as Frans et al. 2025 compare with."""

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_doubling_steps,
    check_first_phase,
    check_power_of_two,
    teacher_phase,
    without_gradient,
)
from shortcut_policy.objectives.errors import ErrorName, row_error
from shortcut_policy.objectives.flow_matching import FlowMatching
from shortcut_policy.objectives.paths import Straight, euler, interpolate
from shortcut_policy.objectives.step_map import StepMap


class ProgressiveDistillation(Objective):
    """In phase after phase, one step of the student learns two steps of the student of the phase before.

    The first phase of a run is flow matching; ``teacher=<checkpoint>`` replaces it. From its Euler steps of
    1/M the next phase learns steps of d = 2/M, the one after it d = 4/M, and the last, the log2(M)-th, d = 1;
    all of these phases are equally long. A training row costs one network evaluation in the first phase, then
    three, one of them with a gradient.

    Only the last size is still trained in the end. The network keeps its answers to the smaller ones as well
    as it happens to: for good samples of K steps take a checkpoint from the end of the phase with d = 1/K.

    Args:
        max_steps: M, a power of two from 2 on: Euler steps of the first teacher.
        error: Of the average velocity, see `row_error`; the flow of the first phase has ``l2``.
        first_phase: Share of the training that makes the teacher, in [0, 1); 0 with a teacher from outside.
    """

    path = Straight()

    def __init__(self, max_steps: int = 128, error: ErrorName = "l2", first_phase: float = 0.5) -> None:
        check_power_of_two(max_steps)
        if max_steps < 2:
            raise InputError(f"objective.max_steps={max_steps} must be at least 2: two steps become one")
        check_first_phase(first_phase)
        phases = max_steps.bit_length() - 1
        self.max_steps, self.error = max_steps, row_error(error)
        self.teacher_phases = tuple(first_phase + (1 - first_phase) * i / phases for i in range(phases))
        self.flow = FlowMatching()

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the velocity, then of the average velocity of two steps, mean of each row, (B,)."""
        if context.teacher is None or context.teacher_cond is None:
            return self.flow.loss(net, x_1, cond, context)
        phase = max(1, teacher_phase(self, context.progress))
        steps = self.max_steps // 2**phase
        x_0 = context.draws.normal_like(x_1)
        t = (context.draws.uniform(len(x_1)) * steps).floor() / steps
        x_t = interpolate(x_0, x_1, t)
        # The first teacher is a flow, which knows no step size but 0.
        told = 0.0 if phase == 1 else 0.5 / steps
        target = two_steps(context.teacher, x_t, t, 0.5 / steps, told, context.teacher_cond[:])
        return self.error(net(x_t, t, torch.full_like(t, 1 / steps), cond), target), {}

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Take ``steps`` steps of size 1/steps; deterministic in ``noise`` (B, ...)."""
        return euler(net, noise, cond, steps, d=1 / steps)

    def check_steps(self, steps: int) -> None:
        """A power of two up to M/2: the sizes that one of the phases learned."""
        check_doubling_steps(steps, self.max_steps // 2, "a progressively distilled policy")

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps


@without_gradient()
def two_steps(net: StepMap, x_t: Tensor, t: Tensor, half: float, told: float, cond: Tensor) -> Tensor:
    """Average velocity of two steps of size ``half`` from ``x_t`` (B, ...) at ``t`` (B,); no gradient.

    Args:
        told: The step size that the network is told.
    """
    size = torch.full_like(t, told)
    first = net(x_t, t, size, cond)
    second = net(x_t + half * first, t + half, size, cond)
    return (first + second) / 2
