"""What updates the weights: Muon for the matrices, AdamW for the rest; or AdamW for all."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim import AdamW, Optimizer

from shortcut_policy.training.config import TrainerConfig

#: Newton-Schulz iterations of Muon. Five, its default, learn as much in 0.9 of the updates, each of which
#: takes 1.2 times as long with the 4M network on a CPU.
ITERATIONS = 3
#: A matrix with fewer rows or columns, such as the first and the last layer's, is left to AdamW.
SMALLEST_SIDE = 16


class Muon(optim.Muon):
    """PyTorch's Muon in float32: iterations on the square Gram matrix, all matrices of a shape together.

    The same updates up to rounding. PyTorch computes them in bfloat16, which is right for a GPU; a CPU
    without tiles for bfloat16 takes longer for them than for the network (``benchmarks/training_step.py``).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            averages = [self._average(p) for p in parameters]
            shapes: dict[torch.Size, list[int]] = defaultdict(list)
            for i, gradient in enumerate(gradients):
                shapes[gradient.shape].append(i)
            each("lerp_")(averages, gradients, 1 - group["momentum"])
            each("mul_")(parameters, 1 - group["lr"] * group["weight_decay"])
            for shape, members in shapes.items():
                gradient = torch.stack([gradients[i] for i in members])
                direction = torch.stack([averages[i] for i in members])
                if group["nesterov"]:
                    direction = gradient.lerp_(direction, group["momentum"])
                direction = orthogonalise(
                    direction, group["ns_coefficients"], group["ns_steps"], group["eps"]
                )
                rate = group["lr"] * size_of_update(shape, group["adjust_lr_fn"])
                each("sub_")([parameters[i] for i in members], (rate * direction).unbind())
        return loss

    def _average(self, parameter: Tensor) -> Tensor:
        """The moving average of its gradients, under the name that PyTorch gives it in a training state."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        average: Tensor = state["momentum_buffer"]
        return average


def each(name: str) -> Callable[..., Any]:
    """A method of tensors such as ``mul_``, of all tensors of a list: at once where torch can do that.

    The functions that can have a name of their own in torch, which need not stay.
    """

    def one_by_one(tensors: Sequence[Tensor], *others: Any) -> None:
        for number, tensor in enumerate(tensors):
            own = [other[number] if isinstance(other, Sequence) else other for other in others]
            getattr(tensor, name)(*own)

    found: Callable[..., Any] = getattr(torch, f"_foreach_{name}", one_by_one)
    return found


def size_of_update(shape: Sequence[int], scaling: str | None) -> float:
    """What Muon multiplies its directions by, which are all of one size, for a matrix of this shape.

    Args:
        shape: Rows and columns.
        scaling: ``match_rms_adamw``, to the size of AdamW's updates (Liu et al. 2025); or Muon's own,
            ``original`` (Jordan et al. 2024).
    """
    rows, columns = shape
    if scaling == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def orthogonalise(x: Tensor, coefficients: Sequence[float], iterations: int, eps: float = 1e-7) -> Tensor:
    """Move all singular values of matrices ``x`` (B, m, n) towards 1, by Newton-Schulz iterations (Muon).

    An iteration is ``X <- (a + b G + c G^2) X`` with ``G = X X^T``. Here they run on the smaller of the two
    Gram matrices alone: its polynomials commute, so ``G <- P G P`` for ``P = a + b G + c G^2``, and X is
    multiplied once, by the product of all P.

    Args:
        x: The matrices.
        coefficients: a, b, c.
        iterations: How many.
        eps: The smallest norm that is divided by.
    """
    a, b, c = coefficients
    if x.shape[1] > x.shape[2]:
        return orthogonalise(x.mT, coefficients, iterations, eps).mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    gram, product = x @ x.mT, None
    for i in range(iterations):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if i < iterations - 1:
            gram = polynomial @ gram @ polynomial
    return x if product is None else product @ x


def make_optimizers(module: nn.Module, config: TrainerConfig) -> list[Optimizer]:
    """The optimizers of a training, each parameter in one of them.

    Muon (Jordan et al. 2024) takes steps whose matrices are orthogonalised, so that rare directions are
    learned as fast as frequent ones. Its steps are scaled to the size of AdamW's (Liu et al. 2025), so that
    learning rates compare. With ``config.optimizer="muon"`` it has all matrices but narrow ones, at
    ``matrix_rate`` times the learning rate of the others.

    Args:
        module: What is trained.
        config: Its ``optimizer``, ``learning_rate``, ``matrix_rate``, ``encoder_rate``, ``betas`` and
            ``weight_decay``.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in parameters if config.optimizer == "muon" and _is_wide(p)]
    taken = set(map(id, matrices))
    others = [p for p in parameters if id(p) not in taken]
    groups = partial(_groups, encoder=getattr(module, "encoder", None), factor=config.encoder_rate)
    optimizers: list[Optimizer] = []
    if others:
        optimizers.append(
            AdamW(
                groups(others),
                config.learning_rate,
                config.betas,
                weight_decay=config.weight_decay,
                fused=True,
            )
        )
    if matrices:
        rate = config.matrix_rate * config.learning_rate
        optimizers.append(
            Muon(
                groups(matrices),
                rate,
                weight_decay=config.weight_decay,
                ns_steps=ITERATIONS,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def _groups(parameters: list[nn.Parameter], encoder: nn.Module | None, factor: float) -> list[dict[str, Any]]:
    """One group of parameters, or the encoder's in one of its own where their learning rate is another."""
    if encoder is None or factor == 1.0:
        return [{"params": parameters}]
    own = set(map(id, encoder.parameters()))
    parts = [
        (1.0, [p for p in parameters if id(p) not in own]),
        (factor, [p for p in parameters if id(p) in own]),
    ]
    return [{"params": part, "factor": multiple} for multiple, part in parts if part]


def _is_wide(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) >= SMALLEST_SIDE
