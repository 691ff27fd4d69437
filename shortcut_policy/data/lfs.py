"""Pointers of git LFS: what a clone without git-lfs has in place of large files."""

import os
from pathlib import Path

from shortcut_policy.errors import InputError

BEGINS = b"version https://git-lfs"


def is_pointer(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a pointer; not if there is no such file."""
    if not Path(path).is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(BEGINS)) == BEGINS


def refuse_pointer(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` if a file is a pointer."""
    if is_pointer(path):
        raise InputError(
            f"{path} is a pointer of git LFS and not the file itself: run 'git lfs pull' in the repository "
            "that it came from (after 'git lfs install')"
        )
