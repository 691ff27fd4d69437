"""Which format demonstrations have, and the source that reads them."""

from pathlib import Path
from typing import Any

from shortcut_policy.data.act_source import ActSource, is_act
from shortcut_policy.data.lerobot_recording import is_lerobot
from shortcut_policy.data.lerobot_source import LeRobotSource
from shortcut_policy.data.minari_source import MinariSource, is_minari
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.robomimic_source import RobomimicSource
from shortcut_policy.data.source import EpisodeSource, expand
from shortcut_policy.data.zarr_source import AbsentChunks, ZarrSource
from shortcut_policy.errors import InputError


def format_of(path: Path) -> str:
    """Format of what is there."""
    if is_lerobot(path):
        return "lerobot"
    if is_minari(path):
        return "minari"
    return "robomimic" if path.suffix in HDF5_SUFFIXES else "zarr"


def refuse_store_settings(path: str | Path, **given: Any) -> None:
    """Raise `InputError` if a setting of zarr stores is given with demonstrations of another format."""
    for setting, value in given.items():
        if value is not None:
            raise InputError(f"{setting} is a setting for zarr stores, and {path} is none: leave it out")


def open_demonstrations(
    path: str | Path, episode_ends: str | None = None, absent_chunks: AbsentChunks | None = None
) -> EpisodeSource:
    """The source of a store, a robomimic file, or a dataset of LeRobot, Minari or ACT, whichever it is.

    Args:
        path: Where.
        episode_ends: Of a zarr store, see `ZarrSource`,
        absent_chunks: as well.

    Raises:
        InputError: It cannot be read.
    """
    kind = format_of(expand(path))
    act = kind == "zarr" and is_act(expand(path))
    if kind == "zarr" and not act:
        return ZarrSource(path, episode_ends, absent_chunks)
    refuse_store_settings(path, episode_ends=episode_ends, absent_chunks=absent_chunks)
    if act:
        return ActSource(path)
    if kind == "robomimic":
        return RobomimicSource(path, poses=True)
    if kind == "lerobot":
        return LeRobotSource(path)
    return MinariSource(path)
