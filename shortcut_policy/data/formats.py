"""Which format demonstrations have, and the source that reads them."""

from pathlib import Path

from shortcut_policy.data.lerobot_recording import is_lerobot
from shortcut_policy.data.lerobot_source import LeRobotSource
from shortcut_policy.data.minari_source import MinariSource, is_minari
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.robomimic_source import RobomimicSource
from shortcut_policy.data.source import EpisodeSource, expand
from shortcut_policy.data.zarr_source import ZarrSource


def format_of(path: Path) -> str:
    """Format of what is there."""
    if is_lerobot(path):
        return "lerobot"
    if is_minari(path):
        return "minari"
    return "robomimic" if path.suffix in HDF5_SUFFIXES else "zarr"


def open_demonstrations(path: str | Path) -> EpisodeSource:
    """The source of a store, a robomimic file, or a dataset of LeRobot or Minari, whichever it is.

    Raises:
        InputError: It cannot be read.
    """
    kind = format_of(expand(path))
    if kind == "robomimic":
        return RobomimicSource(path, poses=True)
    if kind == "lerobot":
        return LeRobotSource(path)
    return MinariSource(path) if kind == "minari" else ZarrSource(path)
