"""Demonstrations: where they come from, how they are cut into windows, scaled and written."""

from shortcut_policy.data.bundled import bundled
from shortcut_policy.data.dataset import Batch, DemonstrationDataset
from shortcut_policy.data.normalizer import Normalizer
from shortcut_policy.data.robomimic_source import EnvArgs, RobomimicSource
from shortcut_policy.data.source import EpisodeSource, Field
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.data.zarr_source import ZarrSource

__all__ = [
    "Batch",
    "DemonstrationDataset",
    "EnvArgs",
    "EpisodeSource",
    "EpisodeWriter",
    "Field",
    "Normalizer",
    "RobomimicSource",
    "ZarrSource",
    "bundled",
]
