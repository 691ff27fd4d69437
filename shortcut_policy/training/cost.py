"""What training costs in network evaluations: counted on the loss itself, with a stand-in for the network."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from shortcut_policy.model import Model
from shortcut_policy.objectives import Draws
from shortcut_policy.objectives.base import cost_phases, teacher_phase


class Evaluations(NamedTuple):
    """Network evaluations of an update, for each row of its batch.

    Attributes:
        forward: All of them, those for targets included.
        derivative: Those of them that carry a forward-mode derivative along.
        backward: Those through which the gradient flows back.
        encoded: Rows that the encoder is asked for, by whichever weights,
        encoder_backward: and those of them through which the gradient flows back.
    """

    forward: float
    derivative: float
    backward: float
    encoded: float
    encoder_backward: float


class StandIn(nn.Module):
    """A step map that computes nothing and counts the rows that it is asked for.

    Args:
        device: Of its one weight, which lets the gradient flow.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), device=device))
        self.forward_rows, self.derivative_rows, self.backward_rows = 0, 0, 0

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Zeros like ``x`` (B, ...)."""
        self.forward_rows += len(x)
        if any(forward_ad.unpack_dual(value).tangent is not None for value in (x, t, d)):
            self.derivative_rows += len(x)
        answer = self.weight * torch.zeros_like(x)
        if answer.requires_grad:
            answer.register_hook(self._count_backward)
        return answer

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward_rows += len(gradient)


class StandInEncoder(nn.Module):
    """An encoder that computes nothing and counts the rows that it is asked for.

    Args:
        cond_dim: C, width of the condition.
        device: Of its one weight, which lets the gradient flow.
    """

    def __init__(self, cond_dim: int, device: torch.device) -> None:
        super().__init__()
        self.cond_dim = cond_dim
        self.weight = nn.Parameter(torch.zeros((), device=device))
        self.forward_rows, self.backward_rows = 0, 0

    def forward(self, given: Any) -> Tensor:
        """Zeros (B, C)."""
        rows = len(next(iter(given.values())) if isinstance(given, Mapping) else given)
        self.forward_rows += rows
        answer = self.weight * torch.zeros(rows, self.cond_dim, device=self.weight.device)
        if answer.requires_grad:
            self.backward_rows += rows
        return answer


def evaluations(model: Model, batch: Mapping[str, Any], progress: float) -> Evaluations:
    """Network evaluations of an update at this point of the training.

    Args:
        model: Is left as it is; its network may be large, and is not run.
        batch: As its data set gives one, of as many rows as an update has.
        progress: Part of the training done, in [0, 1].
    """
    student, ema = _with_stand_in(model), _with_stand_in(model).requires_grad_(False)
    teacher = ema if teacher_phase(model.objective, progress) else None
    draws = Draws(torch.Generator(model.device).manual_seed(0))
    with torch.enable_grad():
        losses, _ = student(**batch, ema=ema, draws=draws, progress=progress, teacher=teacher)
        losses.sum().backward()
    rows, networks = len(losses), [cast(StandIn, one.backbone) for one in (student, ema)]
    encoders = [cast(StandInEncoder, one.encoder) for one in (student, ema)]
    return Evaluations(
        sum(network.forward_rows for network in networks) / rows,
        sum(network.derivative_rows for network in networks) / rows,
        sum(network.backward_rows for network in networks) / rows,
        sum(encoder.forward_rows for encoder in encoders) / rows,
        sum(encoder.backward_rows for encoder in encoders) / rows,
    )


def evaluations_per_update(model: Model, batch: Mapping[str, Any], batch_size: int) -> int:
    """Rows that networks evaluate in an update of ``batch_size``, mean over the training, rounded.

    Args:
        model: See `evaluations`.
        batch: See there.
        batch_size: Rows of an update.
    """
    parts = cost_phases(model.objective)
    means = [(end - start) * evaluations(model, batch, (start + end) / 2).forward for start, end in parts]
    return round(batch_size * sum(means))


def _with_stand_in(model: Model) -> Model:
    """A copy of the model with stand-ins for its network and its encoder, which are not copied."""
    stand_ins = {
        id(model.backbone): StandIn(model.device),
        id(model.encoder): StandInEncoder(cast(int, model.encoder.cond_dim), model.device),
    }
    return copy.deepcopy(model, stand_ins).train()
