"""What can be set about training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from shortcut_policy.errors import InputError


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
        betas: Of AdamW.
        weight_decay: Of both.
        max_grad_norm: Gradients are scaled down to this norm.
        ema_power: The averaged weights forget with decay ``1 - (1 + n) ** -ema_power`` after n updates,
        ema_max_decay: but never slower than this.
        precision: ``bf16`` for the matrix products, ``fp32``, or ``auto``: bf16 on GPUs that have it and on
            CPUs with tiles for it (AMX); elsewhere it is slower than fp32.
        compile: Run the network through ``torch.compile``: a minute or more of start-up, faster updates.
        cuda_graph: On a single GPU, with data in memory, launch the gradients of an update as a whole.
        log_every: Updates between lines of the log.
        validate_every: Updates between validations on held-out windows; 0 for never.
        validation_steps: Step counts whose action error is measured there.
        validation_windows: At most this many held-out windows.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints that are kept,
        keep_best: and the best others: by the score of the last rollouts, or without these by action error,
        keep_every: and those of updates that are a multiple of this, for curves over the training.
        rollout_every: Updates between rollouts in the task's environment; 0 for never.
        rollout_steps: Step counts that are rolled out.
        rollout_episodes: Episodes of each.
        rollout_seed: Environment seed of the first; not the one of the final evaluation.
    """

    max_steps: int = 7_000
    batch_size: int = 128
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: float = 1e-3
    matrix_rate: float = 2.0
    warmup_steps: int = 500
    betas: Sequence[float] = (0.95, 0.999)
    weight_decay: float = 1e-6
    max_grad_norm: float = 1.0
    ema_power: float = 0.75
    ema_max_decay: float = 0.9999
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    cuda_graph: bool = True
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
        for name in ("max_steps", "batch_size", "log_every", "checkpoint_every", "keep_last"):
            if getattr(self, name) < 1:
                raise InputError(f"trainer.{name}={getattr(self, name)} must be at least 1")
        if self.precision not in ("auto", "bf16", "fp32"):
            raise InputError(f"trainer.precision={self.precision} must be auto, bf16 or fp32")
        if self.optimizer not in ("muon", "adamw"):
            raise InputError(f"trainer.optimizer={self.optimizer} must be muon or adamw")
        if self.matrix_rate <= 0:
            raise InputError(f"trainer.matrix_rate={self.matrix_rate} must be above 0")
        if self.learning_rate <= 0 or self.max_grad_norm <= 0:
            raise InputError(
                f"trainer.learning_rate={self.learning_rate} and trainer.max_grad_norm={self.max_grad_norm} "
                "must be above 0"
            )
        if not 0 <= self.ema_max_decay < 1:
            raise InputError(f"trainer.ema_max_decay={self.ema_max_decay} must be at least 0 and below 1")

    @property
    def computes_bf16(self) -> bool:
        """What ``precision`` means on this machine."""
        fast = torch.cuda.is_bf16_supported() if torch.cuda.is_available() else _cpu_computes_bf16()
        return self.precision == "bf16" or (self.precision == "auto" and fast)


#: What may differ between a run and its continuation: it does not reach the weights.
FREE_TO_CHANGE = ("output", "resume", "wandb", "cpu", "trainer.cuda_graph")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys: the way to name a setting on the command line."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    parts = [flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: item for part in parts for key, item in part.items()}


def compared(config: Mapping[str, Any], ignored: Sequence[str] = FREE_TO_CHANGE) -> dict[str, Any]:
    """`flatten` a configuration, without the settings ``ignored`` and all below them."""
    return {
        key: value
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in ignored)
    }


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting by name in which two flat configurations differ, and its two values; None if none."""
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            return key, old.get(key), new.get(key)
    return None


def _cpu_computes_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.cpu._is_amx_tile_supported()
