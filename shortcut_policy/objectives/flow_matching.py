"""Flow matching (Lipman et al. 2023; rectified flow, Liu et al. 2023): the limit d = 0 of the step map."""

import torch
from torch import Tensor

from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_step_range,
)
from shortcut_policy.objectives.errors import ErrorName, check_adaptive_power, row_error, weighted
from shortcut_policy.objectives.paths import Straight, euler, interpolate
from shortcut_policy.objectives.step_map import StepMap


class FlowMatching(Objective):
    """Regress the velocity ``x_1 - x_0`` at a uniform time on the straight path; sample by Euler steps.

    Args:
        error: Of the velocity, see `row_error`. Only ``l2`` learns the mean velocity, which carries noise to
            data; the others learn another average.
        adaptive_power: p. Rows are weighted by ``1 / (error + 0.01) ** p``, see `weighted`; 0, as in the
            papers, gives equal weights.
    """

    path = Straight()
    velocity_at_zero = True

    def __init__(self, error: ErrorName = "l2", adaptive_power: float = 0.0) -> None:
        check_adaptive_power(adaptive_power)
        self.error, self.adaptive_power = row_error(error), adaptive_power

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Weighted error of the velocity of each row, (B,)."""
        x_0 = context.draws.normal_like(x_1)
        t = context.draws.uniform(len(x_1))
        velocity = net(interpolate(x_0, x_1, t), t, torch.zeros_like(t), cond)
        return weighted(self.error(velocity, x_1 - x_0), self.adaptive_power), {}

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Integrate the ODE with ``steps`` Euler steps; deterministic in ``noise`` (B, ...)."""
        return euler(net, noise, cond, steps, d=0.0)

    def check_steps(self, steps: int) -> None:
        """Any whole number of steps from 1 on."""
        check_step_range(steps, None, "flow matching")

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps
