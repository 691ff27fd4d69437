"""One-step robot policies: shortcut models for imitation learning, beside Diffusion Policy in one harness."""

from shortcut_policy.adaptive import Auto
from shortcut_policy.data import DemonstrationDataset, EpisodeWriter, Field, ZarrSource
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy, load_policy, save_policy
from shortcut_policy.recipes import recipe
from shortcut_policy.training import Trainer, TrainerConfig

__all__ = [
    "Auto",
    "DemonstrationDataset",
    "EpisodeWriter",
    "Field",
    "InputError",
    "Policy",
    "Trainer",
    "TrainerConfig",
    "ZarrSource",
    "load_policy",
    "recipe",
    "save_policy",
]
