"""Folders of images: which files there are, of which class, to learn from or held out.

The layout is ImageFolder's, ``<class>/<name>.png``, in a directory or a zip. Folders ``train`` and ``test``
(or ``val``) may stand above the classes; without them a seeded share of the images is held out. Images right
in the folder have no class.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from shortcut_policy.data.archive import check_members
from shortcut_policy.data.source import expand
from shortcut_policy.errors import InputError, reading
from shortcut_policy.images.decoding import Decoder

SUFFIXES = (".png", ".jpg", ".jpeg")
LAYOUT = "put PNG or JPEG files into one folder for each class, <class>/<name>.png"
#: Folder above the classes -> part of the data.
PARTS = {"train": "train", "test": "test", "val": "test"}


@dataclass(frozen=True)
class Split:
    """The files of one part of an image folder.

    Attributes:
        names: Of the files, relative to the folder.
        labels: Class of each, (N,) int64; None without class folders.
    """

    names: Sequence[str]
    labels: np.ndarray | None


class ImageFolder:
    """A directory or zip of images, found but not decoded.

    Args:
        path: Of it; ``~`` and environment variables are expanded.
        size: See `Decoder`,
        channels: as well,
        skip_unreadable: as well,
        workers: as well.
        test_fraction: Share that is held out, in [0, 1), where no folder says so.
        seed: Of that.

    Attributes:
        decoder: Reads the files.
        class_names: In the order of the labels; empty without class folders.
        splits: "train" and "test".

    Raises:
        InputError: there is no such path, no image, or no training image, or a zip has members outside of it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        size: int | None = None,
        channels: int | None = None,
        skip_unreadable: bool = False,
        workers: int | None = None,
        test_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        if not 0 <= test_fraction < 1:
            raise InputError(f"test_fraction={test_fraction} must be at least 0 and below 1")
        self.path = expand(path)
        self.decoder = Decoder(self.path, size, channels, skip_unreadable, workers)
        self._settings = [size, channels, skip_unreadable, test_fraction, seed]
        with reading(self.path):
            self._stamps = self._find()
        places = _places(list(self._stamps))
        self.class_names = tuple(sorted({own for _, own in places.values()} - {""}))
        self._check_places(places)
        divided = any(part for part, _ in places.values())
        held_out = set() if divided else _held_out(list(places), test_fraction, seed)
        parts = {
            name: part or ("test" if name in held_out else "train") for name, (part, _) in places.items()
        }
        self.splits = {
            part: self._split({name: own for name, (_, own) in places.items() if parts[name] == part})
            for part in ("train", "test")
        }

    @property
    def fingerprint(self) -> str:
        """Of content and settings: by the checksums in a zip, by sizes and times of change in a directory."""
        described = json.dumps([self._stamps, self._settings])
        return hashlib.sha256(described.encode()).hexdigest()[:16]

    def _find(self) -> dict[str, list[int]]:
        """Image files by name, with what tells whether they changed."""
        if self.path.is_dir():
            files = sorted(path for path in self.path.rglob("*") if _is_image(path.name))
            stats = {path.relative_to(self.path).as_posix(): path.stat() for path in files}
            found = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
        elif zipfile.is_zipfile(self.path):
            with zipfile.ZipFile(self.path) as archive:
                entries = sorted(check_members(archive, self.path), key=lambda entry: entry.filename)
            found = {
                entry.filename: [entry.file_size, entry.CRC]
                for entry in entries
                # macOS adds a hidden twin of every file.
                if _is_image(PurePosixPath(entry.filename).name) and "__MACOSX" not in entry.filename
            }
        else:
            raise InputError(f"{self.path} is neither a folder nor a zip of images; {LAYOUT}")
        if not found:
            raise InputError(f"{self.path} holds no images (files named {', '.join(SUFFIXES)}); {LAYOUT}")
        return found

    def _check_places(self, places: Mapping[str, tuple[str, str]]) -> None:
        divided = any(part for part, _ in places.values())
        for name, (part, own) in places.items():
            if self.class_names and not own:
                raise InputError(
                    f"{self.path}: {name} is in no class folder, while others are; {LAYOUT}, or all files "
                    "into one folder to train without classes"
                )
            if divided and not part:
                raise InputError(
                    f"{self.path}: {name} is neither in train nor in test, while others are; move or remove "
                    "it"
                )
        if divided and not any(part == "train" for part, _ in places.values()):
            raise InputError(f"{self.path} holds no images to train on: its folder train is missing or empty")

    def _split(self, classes: Mapping[str, str]) -> Split:
        """The files of a part, from the class of each."""
        number = {name: label for label, name in enumerate(self.class_names)}
        labels = np.array([number[own] for own in classes.values()], dtype=np.int64) if number else None
        return Split(list(classes), labels)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _places(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Name -> part ("train", "test", or "" where no folder says so) and class ("" where none does)."""
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    # People zip a folder as often as what is in it.
    while all(len(parts) > 1 for parts in folders.values()) and len({p[0] for p in folders.values()}) == 1:
        if next(iter(folders.values()))[0] in PARTS:
            break
        folders = {name: parts[1:] for name, parts in folders.items()}
    divided = any(parts and parts[0] in PARTS for parts in folders.values())
    places = {}
    for name, parts in folders.items():
        part = PARTS.get(parts[0], "") if divided and parts else ""
        inside = parts[1:] if part else parts
        places[name] = (part, inside[0] if inside else "")
    return places


def _held_out(names: Sequence[str], fraction: float, seed: int) -> set[str]:
    """A share of ``names``, drawn with ``seed``."""
    order = np.random.default_rng(seed).permutation(len(names))
    return {names[row] for row in order[: round(fraction * len(names))]}
