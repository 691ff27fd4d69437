"""Minimal iterative policy (Pan et al.: "Much Ado About Noising", 2025): regression in two steps."""

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_step_range,
)
from shortcut_policy.objectives.errors import ErrorName, row_error
from shortcut_policy.objectives.paths import interpolate
from shortcut_policy.objectives.step_map import StepMap, same_time


class MIP(Objective):
    """Regress on the data twice: from nothing, and from the data under a little noise.

    A control for generative policies: it computes in two supervised steps and is trained with noise, as they
    are, but it fits no distribution. The network predicts the data itself, told that it jumps from t to the
    end (d = 1 - t): at t = 0 from zeros, at ``t = refine_time`` from ``refine_time * x_1 + (1 - refine_time)
    * noise``. Sampling takes both steps and draws no noise: the second starts from ``refine_time`` times the
    first one's estimate. A sample of one step is that first estimate, plain regression.

    A training row costs two forward and two backward evaluations, one for each step.

    Args:
        refine_time: Where the second step starts, t* in the paper, 0.9.
        error: See `row_error`.
    """

    def __init__(self, refine_time: float = 0.9, error: ErrorName = "l2") -> None:
        if not 0 < refine_time < 1:
            raise InputError(f"objective.refine_time={refine_time} must lie between 0 (noise) and 1 (data)")
        self.refine_time = refine_time
        self.error = row_error(error)

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Mean of the errors of the two steps, of each row, (B,); the paper adds them."""
        t = x_1.new_full(x_1.shape[:1], self.refine_time)
        noisy = interpolate(context.draws.normal_like(x_1), x_1, t)
        x, times = torch.cat([torch.zeros_like(x_1), noisy]), torch.cat([torch.zeros_like(t), t])
        data = net(x, times, 1 - times, torch.cat([cond, cond]))
        estimate, refined = (self.error(part, x_1) for part in data.chunk(2))
        metrics = {"error_estimate": estimate.detach().mean(), "error_refined": refined.detach().mean()}
        return (estimate + refined) / 2, metrics

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """The estimate, refined if ``steps`` is 2; the values of ``noise`` (B, ...) are not used."""
        t = same_time(0.0, noise)
        estimate = net(torch.zeros_like(noise), t, 1 - t, cond)
        if steps == 1:
            return estimate
        t = same_time(self.refine_time, noise)
        return net(self.refine_time * estimate, t, 1 - t, cond)

    def check_steps(self, steps: int) -> None:
        """The estimate alone, or both steps."""
        check_step_range(steps, 2, "MIP, which has two steps")

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps
