"""One-step robot policies: shortcut models for imitation learning, beside Diffusion Policy in one harness."""

from shortcut_policy.adaptive import Auto
from shortcut_policy.data import DemonstrationDataset, EpisodeWriter, Field, ZarrSource
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy, load_policy, save_policy

__all__ = [
    "Auto",
    "DemonstrationDataset",
    "EpisodeWriter",
    "Field",
    "InputError",
    "Policy",
    "ZarrSource",
    "load_policy",
    "save_policy",
]
