"""What the two ways to train a consistency model share: the jump to the end, its target and its sampler.

A consistency model (Song et al. 2023) predicts the data from any point of a trajectory. As a step map it is
asked for the one step that ends at t = 1: ``x_1 = x_t + (1 - t) net(x_t, t, 1 - t)``.
"""

from typing import Literal

import torch
from torch import Tensor

from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Objective,
    check_doubling_steps,
    check_power_of_two,
    normal_noise,
    without_gradient,
)
from shortcut_policy.objectives.errors import ErrorName, row_error
from shortcut_policy.objectives.paths import Straight, interpolate
from shortcut_policy.objectives.step_map import StepMap, expand_like, same_time
from shortcut_policy.settings import check_choice


class Consistency(Objective):
    """Base of both: the jump from t must end where the jump from a little later ends.

    Args:
        max_steps: M, a power of two: the finest spacing of times is 1/M.
        error: Of the velocity, see `row_error`.
        target_weights: Weights that predict the data from the later point: ``ema`` or ``online``.
    """

    path = Straight()

    def __init__(self, max_steps: int, error: ErrorName, target_weights: Literal["ema", "online"]) -> None:
        check_power_of_two(max_steps)
        check_choice("objective.target_weights", target_weights, ("ema", "online"))
        self.max_steps, self.error, self.target_weights = max_steps, row_error(error), target_weights

    def consistency_losses(
        self,
        net: StepMap,
        x_t: Tensor,
        t: Tensor,
        dt: float,
        velocity: Tensor,
        cond: Tensor,
        context: LossContext,
    ) -> Tensor:
        """Error of the jump from ``x_t`` (B, ...) at ``t`` (B,) against the one after a step, (B,).

        Args:
            dt: Size of that step, at most 1 - t.
            velocity: Its direction, (B, ...).
        """
        averaged = self.target_weights == "ema"
        trusted, trusted_cond = (context.ema, context.ema_cond[:]) if averaged else (net, cond)
        d = 1 - t
        target = consistency_target(trusted, x_t, t, d, torch.full_like(t, dt), velocity, trusted_cond)
        return self.error(net(x_t, t, d, cond), target)

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Jump to the data; for each further step, go back to t = i/steps with new noise and jump again.

        Multistep consistency sampling (Song et al. 2023, algorithm 1). One step is deterministic in ``noise``
        (B, ...); more draw theirs from ``generator``.
        """
        x_1 = noise + net(noise, *_jump_from(0.0, noise), cond)
        for i in range(1, steps):
            t, d = _jump_from(i / steps, noise)
            fresh = normal_noise(noise.shape, generator, noise.device).to(noise.dtype)
            x_t = interpolate(fresh, x_1, t)
            x_1 = x_t + expand_like(d, x_t) * net(x_t, t, d, cond)
        return x_1

    def check_steps(self, steps: int) -> None:
        """A power of two up to M, so that every jump begins at a time that was trained."""
        check_doubling_steps(steps, self.max_steps, "a consistency policy")

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps


@without_gradient()
def consistency_target(
    net: StepMap, x_t: Tensor, t: Tensor, d: Tensor, dt: Tensor, velocity: Tensor, cond: Tensor
) -> Tensor:
    """Average velocity over [t, t + d] after a first step along ``velocity``; no gradient.

    ``(dt v + (d - dt) net(x', t + dt, d - dt)) / d`` with ``x' = x_t + dt v``. For ``d = 1 - t`` it is the
    velocity ``(x_1 - x_t) / (1 - t)`` to the data that the network predicts from x', without cancellation.

    Args:
        net: The step map that is trusted from t + dt on.
        x_t: (B, ...).
        t: (B,) in [0, 1 - d].
        d: (B,) above 0.
        dt: Size of the first step, (B,), at most d.
        velocity: (B, ...).
        cond: (B, C).
    """
    first, rest = expand_like(dt, x_t), d - dt
    after = net(x_t + first * velocity, t + dt, rest, cond)
    return (first * velocity + expand_like(rest, x_t) * after) / expand_like(d, x_t)


def _jump_from(t: float, x: Tensor) -> tuple[Tensor, Tensor]:
    """Time and step size of the jump to the end, each (B,)."""
    time = same_time(t, x)
    return time, 1 - time
