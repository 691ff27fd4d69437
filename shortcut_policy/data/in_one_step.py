"""Outputs that appear under their name when they are whole: half a dataset looks like a whole one."""

import errno
import shutil
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shortcut_policy.errors import InputError
from shortcut_policy.locks import writer_lock
from shortcut_policy.paths import named

#: A disk with less free room is full.
FULL_BYTES = 2**20
#: How the system says that there is no more room: on the disk, for this user, or in one file.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def in_one_step(output: Path) -> Iterator[Path]:
    """Where to write what then appears as ``output``; whatever goes wrong leaves nothing behind.

    What is not whole yet is in the hidden folder ``.<name>.partial`` beside it. A process that was killed
    leaves that folder, and the next one removes it; the lock of `writer_lock` keeps that of a running one.

    Raises:
        InputError: The output is there already, or is being written to; the disk is full, or fails while
            it writes the output.
    """
    check_absent(output)
    partial = _partial(output)
    with writer_lock(output) as lock:
        check_absent(output)
        if partial.exists():
            if not lock.held:
                raise InputError(f"{partial} is there: if no other program writes to {output}, delete it")
            shutil.rmtree(partial)
            print(f"removed {partial}, which a run that was killed has left", file=sys.stderr)
        try:
            with named(output):
                _make(partial, output)
                yield partial / output.name
                if output.exists():
                    raise InputError(f"{output} has been made meanwhile; delete it or choose another output")
                (partial / output.name).rename(output)
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # ends the bar that shows how far it was
            print(file=sys.stderr)
            said = str(error).replace(str(partial / output.name), str(output))  # of HDF5, and of writers
            if _is_full(error, output.parent):
                raise InputError(
                    f"there is no space left for {output} ({said}): nothing was written; free some, or "
                    "choose another disk"
                ) from error
            if isinstance(error, OSError) and error.filename == str(output):
                raise InputError(
                    f"{output} cannot be made ({error.strerror}): nothing was written; look after its "
                    "disk and that of its input, or choose another place, and give the command again"
                ) from error
            if isinstance(error, InputError) and said != str(error):
                raise InputError(said) from error
            raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_absent(output: Path) -> None:
    """Refuse an output that is there; what is left of a process that was killed right after it is removed.

    Raises:
        InputError: It is there.
    """
    if not output.exists():
        return
    partial = _partial(output)
    if partial.exists() or output.with_name(f".{output.name}.lock").exists():
        with suppress(InputError, OSError), writer_lock(output):  # releasing it removes its file
            partial.rmdir()
    raise InputError(f"{output} is there already; delete it or choose another output")


def _partial(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _make(partial: Path, output: Path) -> None:
    try:
        partial.mkdir()
    except FileNotFoundError as error:  # of a folder that is there: it is not of a disk
        raise InputError(f"{output} cannot be made in {output.parent}: choose another place") from error


def _is_full(error: Exception, folder: Path) -> bool:
    """Whether an error is one of room; HDF5 says so in words alone, and in several."""
    number = getattr(error, "errno", None)
    if number is not None or not isinstance(error, OSError | RuntimeError):
        return number in NO_ROOM
    return shutil.disk_usage(folder).free < FULL_BYTES
