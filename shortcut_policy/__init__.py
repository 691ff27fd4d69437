"""One-step robot policies: shortcut models for imitation learning, beside Diffusion Policy in one harness."""

from typing import TYPE_CHECKING

from shortcut_policy.lazy import lazy_names

if TYPE_CHECKING:
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

# Every name above, once more for the interpreter: a program pays for what it uses, not for all of them.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Auto": "shortcut_policy.adaptive",
        "DemonstrationDataset": "shortcut_policy.data.dataset",
        "EpisodeWriter": "shortcut_policy.data.writer",
        "Field": "shortcut_policy.data.source",
        "InputError": "shortcut_policy.errors",
        "Policy": "shortcut_policy.policy",
        "Trainer": "shortcut_policy.training.trainer",
        "TrainerConfig": "shortcut_policy.training.config",
        "ZarrSource": "shortcut_policy.data.zarr_source",
        "load_policy": "shortcut_policy.policy",
        "recipe": "shortcut_policy.recipes",
        "save_policy": "shortcut_policy.policy",
    },
)
