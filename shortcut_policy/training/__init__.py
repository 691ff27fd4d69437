"""One training loop for every objective, backbone and task."""

from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.trainer import Trainer

__all__ = ["Trainer", "TrainerConfig"]
