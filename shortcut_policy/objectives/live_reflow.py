"""Live reflow (Frans et al. 2025, section 5): a flow and its straightened copy, trained at the same time."""

import torch
from torch import Tensor

from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_step_range,
    without_gradient,
)
from shortcut_policy.objectives.errors import ErrorName, row_error
from shortcut_policy.objectives.paths import Straight, euler, interpolate
from shortcut_policy.objectives.step_map import StepMap
from shortcut_policy.settings import check_number


class LiveReflow(Objective):
    """Flow matching, with a part of the rows reflowed: straight lines to samples of the averaged network.

    One network holds both: told d = 0 it is the flow, which makes the samples; told d = 1 it is the flow that
    is learned from them, see `Reflow`, which is sampled in the end. A training row costs on average
    ``1 + target_steps / reflow_every`` network evaluations, one of them with a gradient.

    Args:
        reflow_every: k; one row in k is reflowed, the others are flow matching.
        target_steps: Euler steps of the samples that those rows learn from.
        error: Of the velocity of reflowed rows, see `row_error`; the flow has ``l2``.
    """

    path = Straight()
    velocity_at_zero = True

    def __init__(self, reflow_every: float = 4, target_steps: int = 8, error: ErrorName = "l2") -> None:
        check_number(
            "objective.reflow_every",
            reflow_every,
            lambda k: k > 1,
            "above 1: one row in k is reflowed, and the samples that it learns from come from the flow that "
            "the others train",
        )
        check_step_range(target_steps, None, "the targets, as objective.target_steps")
        self.reflow_every, self.target_steps = reflow_every, target_steps
        self.error, self.flow_error = row_error(error), row_error("l2")

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the velocity, mean of each row, (B,)."""
        draws, rows = context.draws, len(x_1)
        x_0, t = draws.normal_like(x_1), draws.uniform(rows)
        n = draws.local(round(rows * draws.world / self.reflow_every))
        with without_gradient():
            sampled = euler(context.ema, x_0[:n], context.ema_cond[:n], self.target_steps, d=0.0)
        end = torch.cat([sampled, x_1[n:]])
        told = torch.zeros_like(t)
        told[:n] = 1.0
        predicted, target = net(interpolate(x_0, end, t), t, told, cond), end - x_0
        reflowed = self.error(predicted[:n], target[:n])
        flow = self.flow_error(predicted[n:], target[n:])
        parts = {"loss_reflow": reflowed, "loss_flow": flow}
        metrics = {name: part.detach().mean() for name, part in parts.items() if len(part)}
        return torch.cat([reflowed, flow]), metrics

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """Integrate the straightened flow with ``steps`` Euler steps; deterministic in ``noise`` (B, ...)."""
        return euler(net, noise, cond, steps, d=1.0)

    def check_steps(self, steps: int) -> None:
        """Any whole number of steps from 1 on."""
        check_step_range(steps, None, "live reflow")

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps
