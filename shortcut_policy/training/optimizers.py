"""What updates the weights: Muon for the matrices, AdamW for the rest; or AdamW for all."""

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from shortcut_policy.training.config import TrainerConfig

#: Newton-Schulz iterations of Muon. Five, its default, learn as much in 0.9 of the updates, each of which
#: takes 1.2 times as long with the 4M network on a CPU.
ITERATIONS = 3
#: A matrix with fewer rows or columns, such as the first and the last layer's, is left to AdamW.
SMALLEST_SIDE = 16


def make_optimizers(module: nn.Module, config: TrainerConfig) -> list[Optimizer]:
    """The optimizers of a training, each parameter in one of them.

    Muon (Jordan et al. 2024) takes steps whose matrices are orthogonalised, so that rare directions are
    learned as fast as frequent ones. Its steps are scaled to the size of AdamW's (Liu et al. 2025), so that
    learning rates compare. With ``config.optimizer="muon"`` it has all matrices but narrow ones, at
    ``matrix_rate`` times the learning rate of the others.

    Args:
        module: What is trained.
        config: Its ``optimizer``, ``learning_rate``, ``matrix_rate``, ``betas`` and ``weight_decay``.
    """
    parameters = list(module.parameters())
    matrices = [p for p in parameters if config.optimizer == "muon" and _is_wide(p)]
    taken = set(map(id, matrices))
    others = [p for p in parameters if id(p) not in taken]
    optimizers: list[Optimizer] = []
    if others:
        betas = (config.betas[0], config.betas[1])
        optimizers.append(
            AdamW(others, config.learning_rate, betas, weight_decay=config.weight_decay, fused=True)
        )
    if matrices:
        rate = config.matrix_rate * config.learning_rate
        optimizers.append(
            Muon(
                matrices,
                rate,
                weight_decay=config.weight_decay,
                ns_steps=ITERATIONS,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return optimizers


def _is_wide(parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) >= SMALLEST_SIDE
