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
#: Rows of a matrix that are orthogonalised together.
BLOCK = 64
#: A matrix with fewer rows or columns, such as the first and the last layer's, is left to AdamW.
SMALLEST_SIDE = 16


class Muon(optim.Muon):
    """PyTorch's Muon in float32, each block of `BLOCK` rows of a matrix by itself.

    A row is what one output of a layer asks of its inputs. Orthogonalising 64 of them at a time in place of
    all costs a fraction, the less the larger the network is, and learns as much (docs/cost_of_one_step.md).
    Iterations run on the square Gram matrices, of all blocks together. PyTorch computes in bfloat16, which is
    right for a GPU; a CPU without tiles for bfloat16 takes longer for that than for the network.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all parameters that have a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            gradients = [p.grad for p in parameters]
            averages = [self._average(p) for p in parameters]
            each("lerp_")(averages, gradients, 1 - group["momentum"])
            each("mul_")(parameters, 1 - group["lr"] * group["weight_decay"])
            sizes: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = defaultdict(list)
            for parameter, gradient, average in zip(parameters, gradients, averages, strict=True):
                direction = gradient.lerp(average, group["momentum"]) if group["nesterov"] else average
                own, blocks = in_blocks(parameter), in_blocks(direction)
                wide = blocks.shape[1] <= blocks.shape[2]
                gram = blocks @ blocks.mT if wide else blocks.mT @ blocks
                sizes[gram.shape[1]].append((own, blocks, gram))
            for members in sizes.values():
                grams = torch.cat([gram for _, _, gram in members])
                factors = orthogonaliser(
                    grams, group["ns_coefficients"], group["ns_steps"], group["eps"]
                ).split([len(gram) for _, _, gram in members])
                for (own, blocks, _), factor in zip(members, factors, strict=True):
                    scaled = -group["lr"] * size_of_update(own.shape[1:], group["adjust_lr_fn"]) * factor
                    if blocks.shape[1] <= blocks.shape[2]:
                        own.baddbmm_(scaled, blocks)
                    else:
                        own.baddbmm_(blocks, scaled)
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


def in_blocks(matrix: Tensor) -> Tensor:
    """A view of (m, n) as (m / r, r, n), r the largest divisor of m up to `BLOCK`, or m if all are small."""
    rows = len(matrix)
    fitting = [r for r in range(min(BLOCK, rows), SMALLEST_SIDE - 1, -1) if rows % r == 0]
    return matrix.unflatten(0, (-1, fitting[0] if fitting else rows))


def orthogonaliser(gram: Tensor, coefficients: Sequence[float], iterations: int, eps: float = 1e-7) -> Tensor:
    """What moves all singular values of X towards 1 when X is multiplied by it, by Newton-Schulz iterations.

    An iteration of Muon is ``X <- (a + b G + c G^2) X`` with ``G = X X^T``. Here they run on G alone: its
    polynomials commute, so ``G <- P G P`` for ``P = a + b G + c G^2``, and X is multiplied once, by the
    product of all P.

    Args:
        gram: G = X X^T of matrices X of any norm, (B, m, m).
        coefficients: a, b, c.
        iterations: How many.
        eps: The smallest norm of X that is divided by.

    Returns:
        (B, m, m), symmetric up to rounding.
    """
    a, b, c = coefficients
    norm = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt().clamp(min=eps)[:, None, None]
    gram, product = gram / norm**2, None
    for i in range(iterations):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=1, dim2=2).add_(a)
        product = polynomial if product is None else polynomial @ product
        if i < iterations - 1:
            gram = polynomial @ gram @ polynomial
    assert product is not None, "iterations is at least 1"
    return product / norm


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
