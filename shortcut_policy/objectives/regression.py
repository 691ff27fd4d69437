"""Plain regression, the control for every generative policy: the step map at x = 0, t = 0, d = 1."""

import torch
from torch import Tensor

from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_step_range,
)
from shortcut_policy.objectives.errors import ErrorName, row_error
from shortcut_policy.objectives.step_map import StepMap, same_time


class Regression(Objective):
    """Predict the data from the condition alone; ``l2`` learns its mean, ``l1`` its median.

    Args:
        error: See `row_error`.
    """

    def __init__(self, error: ErrorName = "l2") -> None:
        self.error = row_error(error)

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the prediction of each row, (B,)."""
        return self.error(self._predict(net, torch.zeros_like(x_1), cond), x_1), {}

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """The prediction; the values of ``noise`` (B, ...) are not used."""
        return self._predict(net, torch.zeros_like(noise), cond)

    def check_steps(self, steps: int) -> None:
        """One evaluation is all there is."""
        check_step_range(steps, 1, "regression, which has one step")

    def network_evaluations(self, steps: int) -> int:
        """Always one."""
        return 1

    @staticmethod
    def _predict(net: StepMap, zeros: Tensor, cond: Tensor) -> Tensor:
        t = same_time(0.0, zeros)
        return net(zeros, t, torch.ones_like(t), cond)
