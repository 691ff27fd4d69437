"""Where the files that belong to the package are, in a checkout and in an installed wheel."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    return Path(os.path.expandvars(os.fspath(chosen))).expanduser()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` which replaces it only if the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
