"""Averaged weights, which forget quickly while a training is young."""

from collections.abc import Callable
from functools import partial

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from shortcut_policy.training.config import TrainerConfig

Weights = tuple[Tensor, ...] | list[Tensor]


def averaging(config: TrainerConfig) -> Callable[[Weights, Weights, Tensor | int], None]:
    """What `torch.optim.swa_utils.AveragedModel` takes as ``multi_avg_fn``.

    Args:
        config: Its ``ema_power`` and ``ema_max_decay``.
    """
    return partial(_average, config.ema_power, config.ema_max_decay)


def _average(
    power: float, max_decay: float, averaged: Weights, current: Weights, count: Tensor | int
) -> None:
    decay = min(1 - (1 + int(count)) ** -power, max_decay)
    get_ema_multi_avg_fn(decay)(averaged, current, count)
