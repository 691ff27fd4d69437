"""Between the file formats of demonstrations, with a list of what a format cannot hold."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from shortcut_policy.data.formats import format_of, refuse_store_settings
from shortcut_policy.data.in_one_step import check_absent, in_one_step
from shortcut_policy.data.joined import join
from shortcut_policy.data.lerobot_recording import read_lerobot
from shortcut_policy.data.lerobot_writer import LeRobotSettings, lost_in_lerobot, write_lerobot
from shortcut_policy.data.minari_recording import lost_in_minari, read_minari, write_minari
from shortcut_policy.data.recording import Recording, one_sentence
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.robomimic_recording import read_robomimic, write_robomimic
from shortcut_policy.data.source import expand, file_stamps
from shortcut_policy.data.zarr_recording import lost_in_zarr, read_zarr, write_zarr
from shortcut_policy.data.zarr_source import AbsentChunks
from shortcut_policy.errors import InputError, reading
from shortcut_policy.paths import write_atomic

FORMATS = ("zarr", "robomimic", "lerobot", "minari")
#: Names that the folder of a Minari dataset has.
MINARI_NAME = re.compile(r".*-v\d+")


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion needs to know besides its files.

    Attributes:
        to: Format of the output, one of `FORMATS`; as its name says if None.
        lossy: Leave out what the output cannot hold, and write a list of it beside the output.
        env_args: File of JSON, for a robomimic file of what never was one.
        actions: Key of the actions of a zarr store that never was something else.
        episode_ends: Of a zarr store, see `ZarrSource`,
        absent_chunks: as well.
        lerobot: Of a LeRobot dataset.
    """

    to: str | None = None
    lossy: bool = False
    env_args: Any = None
    actions: str = "action"
    episode_ends: str | None = None
    absent_chunks: AbsentChunks | None = None
    lerobot: LeRobotSettings = field(default_factory=LeRobotSettings)


def convert(
    source: str | Path | Sequence[str | Path], output: str | Path, options: ConvertOptions | None = None
) -> Path:
    """Convert demonstrations to another format: all that they hold, or nothing.

    Args:
        source: What is converted, of any of the formats; or several of one format, whose demonstrations are
            joined in this order. The output may have the same format then.
        output: What it becomes; must not be there yet. It appears under this name when it is whole.
        options: See there; the defaults if None.

    Returns:
        Where it was written.

    Raises:
        InputError: An input cannot be read, has changed meanwhile or holds what the output cannot; inputs
            are of different robots; the output is there already or of the same format; the disk is full.
    """
    several = [source] if isinstance(source, str | os.PathLike) else source
    inputs = [expand(one) for one in several]
    output, options = expand(output), options or ConvertOptions()
    _check_inputs(inputs, output, to := format_to(output, options.to))
    recordings = []
    for one in inputs:
        with reading(one):
            recordings.append(_read(one, options, alone=len(inputs) == 1))
            recordings[-1].check_actions()
    with reading(", ".join(map(str, inputs))):
        recording = recordings[0] if len(inputs) == 1 else join(recordings)
        lost = _lost(recording, to, options)
    if lost and not options.lossy:
        raise InputError(
            f"{output}, of the format {to}, cannot hold all of {recording.source.path}: "
            f"{one_sentence(lost)}; choose another format, or leave these out with lossy=true"
        )
    stamps = [file_stamps(str(one)) for one in inputs]
    with in_one_step(output) as temporary:
        _write(recording, to, temporary, options)
        for one, stamp in zip(inputs, stamps, strict=True):
            if file_stamps(str(one)) != stamp:
                raise InputError(
                    f"{one} has changed while it was converted: convert it again when nothing writes to it"
                )
        if lost:
            # Before the output is there: the same command would not make the list that it lacks then.
            _list_lost(lost, recording.source.path, output)
    return output


def _check_inputs(inputs: list[Path], output: Path, to: str) -> None:
    """Raise `InputError` unless the output can be made of them, without a look at what they hold."""
    if not inputs:
        raise InputError("input names nothing: give a path, or several as input=[a.hdf5,b.hdf5]")
    places = [one.resolve() for one in inputs]
    if twice := [one for one, place in zip(inputs, places, strict=True) if places.count(place) > 1]:
        raise InputError(f"input names {twice[0]} twice: its demonstrations would count twice")
    of = format_of(inputs[0])
    if len(inputs) == 1 and of == to:
        raise InputError(
            f"input={inputs[0]} and output={output} are both of the format {to}: copy it, or choose another "
            f"format, to={' or '.join(name for name in FORMATS if name != of)}"
        )
    for one, place in zip(inputs, places, strict=True):
        if place in output.resolve().parents:
            raise InputError(f"output={output} lies inside input={one}: choose another place")
    check_absent(output)


def format_to(path: Path, to: str | None) -> str:
    """Format that a name asks for.

    Raises:
        InputError: ``to`` is no format.
    """
    if to is not None:
        if to not in FORMATS:
            raise InputError(f"to={to} is not one of {', '.join(FORMATS)}")
        return to
    if path.suffix in HDF5_SUFFIXES:
        return "robomimic"
    if path.suffix == ".lerobot":
        return "lerobot"
    return "minari" if path.suffix == ".minari" or MINARI_NAME.fullmatch(path.name) else "zarr"


def _read(path: Path, options: ConvertOptions, alone: bool) -> Recording:
    name = format_of(path)
    if name == "zarr":
        return read_zarr(path, options.actions, options.episode_ends, options.absent_chunks)
    refuse_store_settings(path, episode_ends=options.episode_ends, absent_chunks=options.absent_chunks)
    readers: dict[str, Callable[[Path], Recording]] = {
        "robomimic": read_robomimic,
        "minari": read_minari,
        "lerobot": partial(read_lerobot, alone=alone),
    }
    return readers[name](path)


def _lost(recording: Recording, to: str, options: ConvertOptions) -> list[str]:
    lost = list(recording.unheld)
    if to == "zarr":
        lost += lost_in_zarr(recording)
    if to == "minari":
        lost += lost_in_minari(recording)
    if to == "lerobot":
        lost += lost_in_lerobot(recording, options.lerobot)
    return lost


def _write(recording: Recording, to: str, output: Path, options: ConvertOptions) -> None:
    if to == "zarr":
        write_zarr(recording, output)
    elif to == "robomimic":
        write_robomimic(recording, output, options.env_args)
    elif to == "minari":
        write_minari(recording, output)
    else:
        write_lerobot(recording, output, options.lerobot)


def _list_lost(lost: list[str], source: str, output: Path) -> None:
    listing = output.with_name(f"{output.name}.lost.txt")
    write_atomic(listing, "\n".join([f"Left out of {output.name}, made of {source}:", *lost, ""]))
    print("\n  ".join([f"{output} cannot hold, and lacks (listed in {listing}):", *lost]))
