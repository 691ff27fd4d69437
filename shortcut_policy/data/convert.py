"""Between the file formats of demonstrations, with a list of what a format cannot hold."""

import errno
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shortcut_policy.data.formats import format_of
from shortcut_policy.data.lerobot_recording import read_lerobot
from shortcut_policy.data.lerobot_writer import LeRobotSettings, lost_in_lerobot, write_lerobot
from shortcut_policy.data.minari_recording import lost_in_minari, read_minari, write_minari
from shortcut_policy.data.recording import Recording, one_sentence
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.robomimic_recording import read_robomimic, write_robomimic
from shortcut_policy.data.source import expand, file_stamps
from shortcut_policy.data.zarr_recording import read_zarr, write_zarr
from shortcut_policy.errors import InputError, reading
from shortcut_policy.paths import write_atomic

FORMATS = ("zarr", "robomimic", "lerobot", "minari")
#: Names that the folder of a Minari dataset has.
MINARI_NAME = re.compile(r".*-v\d+")
#: A disk with less free room is full.
FULL_BYTES = 2**20


@dataclass(frozen=True)
class ConvertOptions:
    """What a conversion needs to know besides its files.

    Attributes:
        to: Format of the output, one of `FORMATS`; as its name says if None.
        lossy: Leave out what the output cannot hold, and write a list of it beside the output.
        env_args: File of JSON, for a robomimic file of what never was one.
        actions: Key of the actions of a zarr store that never was something else.
        lerobot: Of a LeRobot dataset.
    """

    to: str | None = None
    lossy: bool = False
    env_args: Any = None
    actions: str = "action"
    lerobot: LeRobotSettings = field(default_factory=LeRobotSettings)


def convert(source: str | Path, output: str | Path, options: ConvertOptions | None = None) -> Path:
    """Convert demonstrations to another format: all that they hold, or nothing.

    Args:
        source: What is converted, of any of the formats.
        output: What it becomes; must not be there yet. It appears under this name when it is whole.
        options: See there; the defaults if None.

    Returns:
        Where it was written.

    Raises:
        InputError: The input cannot be read, has changed meanwhile or holds what the output cannot; the
            output is there already or of the same format; the disk is full.
    """
    source, output, options = expand(source), expand(output), options or ConvertOptions()
    of, to = format_of(source), format_to(output, options.to)
    if of == to:
        raise InputError(
            f"input={source} and output={output} are both of the format {to}: copy it, or choose another "
            f"format, to={' or '.join(name for name in FORMATS if name != of)}"
        )
    if source.resolve() in output.resolve().parents:
        raise InputError(f"output={output} lies inside input={source}: choose another place")
    if output.exists():
        raise InputError(f"{output} is there already; delete it or choose another output")
    with reading(source):
        recording = _read(of, source, options)
        recording.check_actions()
        lost = _lost(recording, to, options)
    if lost and not options.lossy:
        raise InputError(
            f"{output}, of the format {to}, cannot hold all of {source}: {one_sentence(lost)}; choose "
            "another format, or leave these out with lossy=true"
        )
    stamps = file_stamps(str(source))
    with _in_one_step(output) as temporary:
        _write(recording, to, temporary, options)
        if file_stamps(str(source)) != stamps:
            raise InputError(
                f"{source} has changed while it was converted: convert it again when nothing writes to it"
            )
    if lost:
        _say_lost(lost, source, output)
    return output


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


def _read(name: str, path: Path, options: ConvertOptions) -> Recording:
    if name == "zarr":
        return read_zarr(path, options.actions)
    return {"robomimic": read_robomimic, "minari": read_minari, "lerobot": read_lerobot}[name](path)


def _lost(recording: Recording, to: str, options: ConvertOptions) -> list[str]:
    lost = list(recording.unheld)
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


@contextmanager
def _in_one_step(output: Path) -> Iterator[Path]:
    """Where to write what then appears as ``output``: half a dataset looks like a whole one."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        temporary = Path(folder, output.name)
        try:
            yield temporary
            if output.exists():
                raise InputError(f"{output} has been made meanwhile; delete it or choose another output")
            temporary.rename(output)
        except Exception as error:
            print(file=sys.stderr)  # after the bar that shows how far it was
            # HDF5 says in words alone that it ran out of room, and in several.
            full = shutil.disk_usage(output.parent).free < FULL_BYTES
            full &= isinstance(error, OSError | RuntimeError)
            if full or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(
                    f"there is no space left for {output} ({error}): nothing was written; free some, or "
                    "choose another disk"
                ) from error
            raise


def _say_lost(lost: list[str], source: Path, output: Path) -> None:
    listing = output.with_name(f"{output.name}.lost.txt")
    write_atomic(listing, "\n".join([f"Left out of {output.name}, made of {source}:", *lost, ""]))
    print("\n  ".join([f"{output} cannot hold, and lacks (listed in {listing}):", *lost]))
