"""Demonstrations: where they come from, how they are cut into windows, scaled and written."""

from typing import TYPE_CHECKING

from shortcut_policy.data.bundled import bundled
from shortcut_policy.lazy import lazy_names

if TYPE_CHECKING:
    from shortcut_policy.data.act_source import ActSource
    from shortcut_policy.data.dataset import Batch, DemonstrationDataset
    from shortcut_policy.data.env_args import EnvArgs
    from shortcut_policy.data.lerobot_source import LeRobotSource
    from shortcut_policy.data.minari_source import MinariSource
    from shortcut_policy.data.normalizer import Normalizer
    from shortcut_policy.data.robomimic_source import RobomimicSource
    from shortcut_policy.data.source import EpisodeSource, Field
    from shortcut_policy.data.writer import EpisodeWriter
    from shortcut_policy.data.zarr_source import ZarrSource

__all__ = [
    "ActSource",
    "Batch",
    "DemonstrationDataset",
    "EnvArgs",
    "EpisodeSource",
    "EpisodeWriter",
    "Field",
    "LeRobotSource",
    "MinariSource",
    "Normalizer",
    "RobomimicSource",
    "ZarrSource",
    "bundled",
]

# A policy needs a field and a normaliser, and not the libraries that read and write files of demonstrations.
__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ActSource": "shortcut_policy.data.act_source",
        "Batch": "shortcut_policy.data.dataset",
        "DemonstrationDataset": "shortcut_policy.data.dataset",
        "EnvArgs": "shortcut_policy.data.env_args",
        "EpisodeSource": "shortcut_policy.data.source",
        "EpisodeWriter": "shortcut_policy.data.writer",
        "Field": "shortcut_policy.data.source",
        "LeRobotSource": "shortcut_policy.data.lerobot_source",
        "MinariSource": "shortcut_policy.data.minari_source",
        "Normalizer": "shortcut_policy.data.normalizer",
        "RobomimicSource": "shortcut_policy.data.robomimic_source",
        "ZarrSource": "shortcut_policy.data.zarr_source",
    },
)
