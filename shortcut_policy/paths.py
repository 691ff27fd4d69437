"""Where the files that belong to the package are, in a checkout and in an installed wheel."""

import errno
import fcntl
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from uuid import uuid4

PACKAGE_DIR = Path(__file__).resolve().parent
ASSETS_DIR = PACKAGE_DIR / "assets"
#: The wheel carries the configs inside the package; a checkout keeps them at its top level.
CONFIG_DIR = next(d for d in (PACKAGE_DIR / "configs", PACKAGE_DIR.parent / "configs") if d.is_dir())


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Where what takes long to make is kept for the next time; everything in it may be deleted.

    ``chosen`` if it is given, or else the environment variable ``SHORTCUT_POLICY_CACHE``, or else
    ``~/.cache/shortcut_policy`` (or that of ``XDG_CACHE_HOME``).
    """
    if chosen is None:
        usual = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "shortcut_policy")
        chosen = os.environ.get("SHORTCUT_POLICY_CACHE") or usual
    return written_out(chosen)


def written_out(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` and environment variables written out, which no shell has done in Python or quotes.

    A user or a variable that there is not stays as it was given.
    """
    return Path(os.path.expanduser(os.path.expandvars(os.fspath(path))))


@contextmanager
def atomic_path(path: str | Path, suffix: str = ".tmp") -> Iterator[Path]:
    """Yield a temporary path beside ``path`` which replaces it only if the block ends without an error.

    What a process that was killed has left of its own is used again.

    Args:
        path: Of the file.
        suffix: Of the temporary name, for writers that go by it.

    Raises:
        OSError: With the name of ``path``, if what went wrong has none.
    """
    path = Path(path)
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _own(path, suffix, _new_file)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path``: what is made in it is renamed to ``path``, and the rest removed.

    What a process that was killed has left of its own is removed.
    """
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, handle = _own(path, ".tmp", _new_folder)
        try:
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            os.close(handle)


@contextmanager
def atomic_path_alone(path: Path) -> Iterator[Path]:
    """`atomic_path` in a folder of its own, for writers that leave names of their own if they are killed.

    safetensors writes beside the name that it is given and renames.
    """
    with named(path), atomic_folder(path) as folder:
        temporary = folder / path.name
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)


@contextmanager
def named(path: Path, *parts: Path) -> Iterator[None]:
    """Say in an error of the system what was being written: it has no name, or that of what is not whole yet.

    Args:
        path: What was asked for.
        parts: Where it is until it is whole, beside hidden names ``.<name>.<anything>`` and what is in them,
            and the ``.partial`` files in a store of zarr.
    """
    try:
        yield
    except OSError as error:
        given = error.filename
        if error.errno is not None and (given is None or _is_part(given, path, parts)):
            error.filename = str(path)
            del error.filename2  # of a rename: the same now
        raise
    except Exception as error:
        # safetensors says in words alone what the system said.
        found = re.search(r"\(os error (\d+)\)", str(error))
        if found is None or isinstance(error, ValueError):
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_part(given: object, path: Path, parts: tuple[Path, ...]) -> bool:
    """Whether a file of an error is or lies in what becomes ``path``."""
    if not isinstance(given, str | os.PathLike):
        return False
    whole, file = Path(os.path.abspath(path)), Path(os.path.abspath(given))
    known = {Path(os.path.abspath(part)) for part in parts}
    return (file.suffix == ".partial" and whole in file.parents) or any(
        place in known or (place.parent == whole.parent and place.name.startswith(f".{whole.name}."))
        for place in (file, *file.parents)
    )


def _own(path: Path, suffix: str, make: Callable[[Path], int]) -> tuple[Path, int]:
    """An empty file or folder beside ``path`` that no living process has, as the system's lock on it says."""
    for number in count():
        temporary = path.with_name(f".{path.name}{f'.{number}' if number else ''}{suffix}")
        try:
            handle = make(temporary)
        except (FileExistsError, IsADirectoryError, PermissionError):
            if temporary.exists():  # somebody else's
                continue
            raise
        locked = _lock(handle, temporary)
        if locked:
            _empty(temporary)
            return temporary, handle
        os.close(handle)
        if locked is None:
            break
    temporary = path.with_name(f".{path.name}.{uuid4().hex}{suffix}")
    return temporary, make(temporary)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _new_folder(path: Path) -> int:
    path.mkdir(mode=0o700, exist_ok=True)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _lock(handle: int, path: Path) -> bool | None:
    """Lock a file or folder that is still there under its name; None where there are no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return path.exists() and os.path.samestat(os.fstat(handle), path.stat())


def _empty(path: Path) -> None:
    if path.is_file():
        os.truncate(path, 0)
        return
    for left in path.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def is_stored(file: Path) -> bool:
    """Whether a result of an earlier run lies in ``file``, which is then said to be reused."""
    found = file.is_file()
    if found:
        print(f"reused: {file}")
    return found


def write_atomic(path: str | Path, text: str) -> None:
    """Write ``text`` to ``path`` so that a reader sees either the old file or the whole new one."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_film(path: Path) -> None:
    """Make sure that an MP4 has its index, which ffmpeg writes last.

    On a full disk ffmpeg ends without it, and imageio-ffmpeg 0.8.1 does not say that it has.

    Raises:
        OSError: It has none, or is cut short.
    """
    size, at, found = path.stat().st_size, 0, False
    with path.open("rb") as file:
        while at + 16 <= size:
            file.seek(at)
            length, kind, large = struct.unpack(">I4sQ", file.read(16))
            length = large if length == 1 else length
            if length < 8:
                break
            at, found = at + length, found or kind == b"moov"
    if not found or at != size:
        raise OSError(errno.EIO, "the film was not written to its end", str(path))
