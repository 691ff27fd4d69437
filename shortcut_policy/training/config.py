"""What can be set about training."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Real
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import torch

from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_choice

#: What a number must be, in words, and whether it is.
Bound = tuple[str, Callable[[float], bool]]
ANY: Bound = ("", lambda number: True)
FROM_0: Bound = (" from 0 on", lambda number: 0 <= number < math.inf)
FROM_1: Bound = (" from 1 on", lambda number: number >= 1)
ABOVE_0: Bound = (" above 0", lambda number: 0 < number < math.inf)
#: Those of all settings of a type, and of the settings that differ.
BOUNDS: Mapping[Any, Bound] = {
    int: FROM_1,
    float: ABOVE_0,
    **dict.fromkeys(("warmup_steps", "keep_best", "keep_every", "rollout_seed"), FROM_0),
    **dict.fromkeys(("validate_every", "rollout_every"), ANY),
    **dict.fromkeys(("weight_decay", "ema_power"), FROM_0),
    **dict.fromkeys(("betas", "ema_max_decay"), (" from 0 to below 1", lambda number: 0 <= number < 1)),
    "max_grad_norm": (" above 0", lambda number: number > 0),
}


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of the training loop; ``configs/trainer/`` holds the defaults that were found to serve.

    Attributes:
        max_steps: Updates in all.
        batch_size: Windows of an update, over all processes together.
        optimizer: ``muon`` for the network's matrices and AdamW for the rest, or ``adamw`` for all.
        learning_rate: Peak of AdamW's; linear warm-up over ``warmup_steps``, then a cosine to 0.
        matrix_rate: Muon's learning rate, as a multiple of that.
        warmup_steps: Updates of the warm-up.
        betas: Of AdamW, two.
        weight_decay: Of both.
        max_grad_norm: Gradients are scaled down to this norm; inf leaves them as they are.
        ema_power: The averaged weights forget with decay ``1 - (1 + n) ** -ema_power`` after n updates,
        ema_max_decay: but never slower than this.
        precision: ``bf16`` for the matrix products, ``fp32``, or ``auto``: bf16 on GPUs that have it and on
            CPUs with tiles for it (AMX); elsewhere it is slower than fp32.
        compile: Run the network through ``torch.compile``: a minute or more of start-up, faster updates.
        cuda_graph: On a single GPU, with data in memory, launch the gradients of an update as a whole.
        threads: That compute: a number, or ``auto`` for PyTorch's own (``OMP_NUM_THREADS``, or one a core),
            and on a CPU fewer while other programs use the cores, see `threads.Threads`. Sums are rounded
            otherwise with another number of threads: a training that was disturbed is as good as one that
            was not, but equal to it in every bit only with a number.
        log_every: Updates between lines of the log.
        validate_every: Updates between validations on held-out windows; 0 for never.
        validation_steps: Step counts whose action error is measured there.
        validation_windows: So many held-out windows are measured, or all there are if they are fewer: every
            k-th one, with k = held out / this, rounded down. So there may be almost twice as many.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints that are kept,
        keep_best: and the best others: by the score of the last rollouts, or without these by action error,
        keep_every: and those of updates that are a multiple of this, for curves over the training.
        rollout_every: Updates between rollouts in the task's environment; 0 for never.
        rollout_steps: Step counts that are rolled out; those that the objective cannot take are left out.
        rollout_episodes: Episodes of each.
        rollout_seed: Environment seed of the first; not the one of the final evaluation.
    """

    max_steps: int = 7_000
    batch_size: int = 128
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 1e-3
    matrix_rate: float = 2.0
    warmup_steps: int = 500
    betas: tuple[float, float] = (0.95, 0.999)
    weight_decay: float = 1e-6
    max_grad_norm: float = 1.0
    ema_power: float = 0.75
    ema_max_decay: float = 0.9999
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    cuda_graph: bool = True
    threads: int | Literal["auto"] = "auto"
    log_every: int = 50
    validate_every: int = 1000
    validation_steps: Sequence[int] = (1, 4, 16)
    validation_windows: int = 512
    checkpoint_every: int = 250
    keep_last: int = 5
    keep_best: int = 1
    keep_every: int | None = None
    rollout_every: int = 0
    rollout_steps: Sequence[int] = (1,)
    rollout_episodes: int = 20
    rollout_seed: int = 50_000

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = _checked(setting.name, setting.type, getattr(self, setting.name))
            object.__setattr__(self, setting.name, value)  # frozen

    @property
    def computes_bf16(self) -> bool:
        """What ``precision`` means on this machine."""
        fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else _cpu_computes_bf16()
        return self.precision == "bf16" or (self.precision == "auto" and fast)


#: What may differ between a run and its continuation. But for two it does not reach the weights: noise is
#: drawn on the device that trains (`cpu`), so that a run that changes between GPU and CPU goes on with other
#: noise, and with other `threads` the last digits differ.
FREE_TO_CHANGE = ("output", "resume", "wandb", "cpu", "trainer.cuda_graph", "trainer.threads")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys: the way to name a setting on the command line."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    parts = [flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: item for part in parts for key, item in part.items()}


def compared(config: Mapping[str, Any], ignored: Sequence[str] = FREE_TO_CHANGE) -> dict[str, Any]:
    """`flatten` a configuration, without the settings ``ignored`` and all below them.

    Of the data only the name of the file is kept: where it lies is a machine's affair.
    """
    settings = {
        key: value
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in ignored)
    }
    if isinstance(path := settings.get("task.source.path"), str):
        settings["task.source.path"] = Path(path).name
    return settings


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting by name in which two flat configurations differ, and its two values; None if none."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return key, old.get(key), new.get(key)
    return None


def _checked(name: str, kind: Any, value: Any) -> Any:
    """A setting, its numbers as the type that it is declared with: a whole one may be written as 1e4.

    Raises:
        InputError: It is not of this type, or beyond `BOUNDS`.
    """
    key, form, parts = f"trainer.{name}", get_origin(kind), get_args(kind)
    if kind is bool or form is Literal:
        check_choice(key, value, parts or (True, False))
        return value
    if value is None and NoneType in parts:
        return None
    if name == "threads" and value == "auto":
        return value
    number, listed = parts[0] if parts else kind, form in (Sequence, tuple)
    words, holds = BOUNDS.get(name, BOUNDS[number])
    values = value if listed and _is_list(value) else [value]
    formed = listed == _is_list(value) and (form is not tuple or len(values) == len(parts))
    if formed and all(_is_number(one, number) and holds(one) for one in values):
        return tuple(map(number, values)) if listed else number(value)
    noun = "whole number" if number is int else "number"
    if listed:
        noun = f"list of {'two ' if form is tuple else ''}{noun}s"
    null = ", or null" if NoneType in parts else ", or auto" if name == "threads" else ""
    raise InputError(f"{key}={value} must be a {noun}{words}{null}")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_number(value: Any, kind: type) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool)
    return number and (kind is float or float(value).is_integer())


def _cpu_computes_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.cpu._is_amx_tile_supported()
