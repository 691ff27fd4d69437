"""What made a number: the command, the commit, the code and the libraries."""

import hashlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from shortcut_policy.paths import PACKAGE_DIR

OWN_PACKAGES = ("shortcut_policy", "shortcut_envs")
#: Libraries whose arithmetic is part of a result, where they are installed.
LIBRARIES = (
    *("torch", "numpy", "scipy", "diffusers", "torchmetrics"),
    *("gymnasium", "pymunk", "shapely", "robosuite", "mujoco"),
)


def command_line() -> str:
    """The command that runs now, as one would type it."""
    program = Path(sys.argv[0])
    name = os.path.relpath(program) if program.suffix == ".py" else program.name
    return shlex.join([*(["python"] if program.suffix == ".py" else []), name, *sys.argv[1:]])


def commit() -> str:
    """Commit of the source in use, "+" behind it if files differ from it; "unknown" outside a checkout."""
    git = ["git", "-C", str(PACKAGE_DIR.parent)]
    try:
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", str(PACKAGE_DIR / "__init__.py")], capture_output=True
        )
        if tracked.returncode:
            return "unknown"
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run(
            [*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def short_hash(*parts: Any) -> str:
    """16 hexadecimal digits that tell plain values from others; the order of mappings does not count."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def library_versions(*names: str) -> dict[str, str]:
    """Versions of Python (without the last number, which mends faults) and of libraries, if they are here.

    Args:
        names: Of the libraries; all `LIBRARIES` if none are named.
    """
    found = {"python": "{}.{}".format(*sys.version_info)}
    for name in names or LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def own_code() -> str:
    """Hash of all sources of this library and its environments, as they are on disk."""
    return short_hash([code_hash(package) for package in OWN_PACKAGES])


@cache
def code_hash(module: str) -> str | None:
    """Hash of the source of a module, or of all sources of the package that it is; None if none are found.

    It does not import the module, but for the packages above it.
    """
    files = [(name, hashlib.sha256(path.read_bytes()).hexdigest()) for name, path in _sources(module)]
    return short_hash(files) if files else None


def _sources(module: str) -> Iterable[tuple[str, Path]]:
    """Names, which do not depend on where they lie, and paths of source files."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # such as that of __main__
        spec = None
    origin = spec.origin if spec is not None else getattr(sys.modules.get(module), "__file__", None)
    if origin is None or not Path(origin).is_file():
        return []
    path = Path(origin)
    if path.name != "__init__.py":
        return [(path.name, path)]
    return [(file.relative_to(path.parent).as_posix(), file) for file in sorted(path.parent.rglob("*.py"))]
