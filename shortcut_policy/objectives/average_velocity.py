"""What MeanFlow and SoFlow share: a network that knows the average velocity over any interval."""

from typing import Literal

from torch import Tensor

from shortcut_policy.objectives.base import (
    Generators,
    Objective,
    check_step_range,
)
from shortcut_policy.objectives.errors import check_adaptive_power
from shortcut_policy.objectives.paths import Straight, euler
from shortcut_policy.objectives.step_map import StepMap
from shortcut_policy.settings import check_choice


class AverageVelocity(Objective):
    """Base of both: steps of any size from any time, trained on intervals between two random times.

    Args:
        times: Distribution of the times, ``uniform`` or ``logit_normal``.
        adaptive_power: Power of a row's error in its weight, from 0 on.
    """

    path = Straight()
    velocity_at_zero = True
    step_conditioned = True

    def __init__(self, times: Literal["uniform", "logit_normal"], adaptive_power: float) -> None:
        check_choice("objective.times", times, ("logit_normal", "uniform"))
        check_adaptive_power(adaptive_power)
        self.times, self.adaptive_power = times, adaptive_power

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Take ``steps`` steps of size 1/steps; deterministic in ``noise`` (B, ...)."""
        return euler(net, noise, cond, steps, d=1 / steps)

    def check_steps(self, steps: int) -> None:
        """Any whole number of steps from 1 on."""
        check_step_range(steps, None, type(self).__name__)

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps
