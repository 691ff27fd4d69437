"""What a set of demonstrations looks like to the rest of the library, whatever file it comes from."""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from shortcut_policy.errors import InputError
from shortcut_policy.paths import written_out
from shortcut_policy.settings import check_number, is_list

Normalization = Literal["limits", "gaussian", "identity", "image"]
#: A tenth of a millimetre where lengths are metres; Diffusion Policy's ``range_eps``, too.
MIN_RANGE = 1e-4
#: A step of a key that says it is larger is not read: memory would be made for it before anything is read.
MOST_STEP_BYTES = 2**30


class EpisodeSource(Protocol):
    """Episodes laid end to end: row i of every key is the same moment, an episode is a range of rows.

    A source may have more, which is used where it is there: ``stamp`` (see `SourceOfFiles`); ``decoded``,
    images that are in a file already (see `frame_file.SourceOfFrames`); ``chunk_rows``,
    key -> number of rows that can only be read together; and ``lacking``, key -> a sentence that says why it
    is not among the ``keys`` though some of it is stored.
    """

    path: str
    #: The arrays that can be read.
    keys: tuple[str, ...]
    #: Shape of one step of each key, without the row axis.
    shapes: dict[str, tuple[int, ...]]
    #: Type of each key as it is stored.
    dtypes: dict[str, np.dtype]
    #: (E,) int64, strictly increasing: episode e is the rows ``episode_ends[e - 1]`` to ``episode_ends[e]``.
    episode_ends: np.ndarray

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a key as stored, (stop - start, *shape)."""
        ...


def file_stamps(path: str, below: str = "") -> list[Any]:
    """Name, size and time of change of a file, or of all files ``below`` a folder; plain JSON."""
    root = Path(path)
    if root.is_dir():
        root = root / below
        files = sorted(Path(folder, name) for folder, _, names in os.walk(root) for name in names)
    else:
        files = [root]
    return stamps_of(files, root)


def stamps_of(files: Iterable[Path], root: Path) -> list[Any]:
    """``root`` as it really is, and name below it, size and time of change of each file; plain JSON."""
    # A link that leads nowhere counts as itself: who reads it says what is missing.
    status = ((file, file.stat() if file.exists() else file.lstat()) for file in files)
    return [str(root.resolve()), *([str(f.relative_to(root)), s.st_size, s.st_mtime_ns] for f, s in status)]


@runtime_checkable
class SourceOfFiles(Protocol):
    """A source whose rows are a function of files and of its arguments."""

    def stamp(self, key: str) -> list[Any] | None:
        """What decides the rows of a key, as plain JSON: files with sizes and times, and arguments.

        While the stamp of a key is the same, what was made of its rows is used again. None: it cannot be
        told.
        """
        ...


def speaks_for_read(source: EpisodeSource, method: str) -> bool:
    """Whether a method is of the same class as ``read``: a subclass may read otherwise than its base says."""
    kind = type(source)
    reads, speaks = (next(c for c in kind.__mro__ if name in vars(c)) for name in ("read", method))
    return reads is speaks


@dataclass(frozen=True)
class Field:
    """One observation or the action: where it is stored, its shape, how it is scaled for the network.

    Attributes:
        key: The stored array.
        shape: Shape of one step as the policy sees it, e.g. (2,), (9, 2) or (96, 96, 3).
        columns: Take these columns of the stored last axis, in this order; all of them if None.
        normalize: ``limits`` maps [min, max] of each element to [-1, 1]; ``gaussian`` maps each element to
            mean 0 and standard deviation 1; ``identity`` leaves it alone; ``image`` maps 0..255 to [-1, 1],
            whatever the data, and keeps the pixels as bytes until the policy sees them. Stored images may
            have their channels first where ``shape`` has them last and the other way round, and be floats in
            0..1 or 0..255, see `Conversion`.
        unscaled: Elements of the last axis of ``shape`` that are left alone, whatever ``normalize`` does to
            the others: the numbers of a rotation, which lie in [-1, 1] already and mean something together.
        min_range: An element whose values in the data differ by this much at most, in its own units, counts
            as constant: it holds the noise of a sensor, which scaled to [-1, 1] would outweigh all else.
    """

    key: str
    shape: tuple[int, ...]
    columns: tuple[int, ...] | None = None
    normalize: Normalization = "limits"
    unscaled: tuple[int, ...] = ()
    min_range: float = MIN_RANGE

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", _integers(self.key, "shape", self.shape, smallest=1))
        if self.columns is not None:
            object.__setattr__(self, "columns", _integers(self.key, "columns", self.columns, smallest=0))
            if not self.shape or len(self.columns or ()) != self.shape[-1]:
                raise InputError(
                    f"field '{self.key}': {len(self.columns or ())} columns are taken but its shape is "
                    f"{list(self.shape)}; the last number of the shape must be the number of columns"
                )
        if self.normalize not in get_args(Normalization):
            raise InputError(
                f"field '{self.key}': normalize={self.normalize!r} is not one of "
                f"{', '.join(get_args(Normalization))}"
            )
        object.__setattr__(self, "unscaled", _integers(self.key, "unscaled", self.unscaled, smallest=0))
        words = "a number from 0 on, in the units of the data"
        check_number(f"min_range of field '{self.key}'", self.min_range, lambda least: least >= 0, words)
        last = self.shape[-1] if self.shape else 0
        if self.unscaled and (self.normalize == "image" or max(self.unscaled) >= last):
            raise InputError(
                f"field '{self.key}': unscaled={list(self.unscaled)} must be numbers of elements of the last "
                f"axis of shape {list(self.shape)}, and not of an image"
            )

    def to_spec(self) -> dict[str, Any]:
        """The specification from which `shortcut_policy.build` makes this field again, plain JSON."""
        spec: dict[str, Any] = {"_target_": "shortcut_policy.data.Field", "key": self.key}
        spec["shape"] = list(self.shape)
        if self.columns is not None:
            spec["columns"] = list(self.columns)
        spec["normalize"] = self.normalize
        own = {"min_range": self.min_range} if self.min_range != MIN_RANGE else {}
        return spec | ({"unscaled": list(self.unscaled)} if self.unscaled else {}) | own

    @property
    def elements(self) -> list[int]:
        """Which of the stored last axis are taken: `columns`, or all."""
        return list(range(self.shape[-1]) if self.columns is None and self.shape else self.columns or ())

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The field's part of stored rows, (N, *stored shape) -> (N, *shape)."""
        return rows if self.columns is None else rows[..., list(self.columns)]

    def axes(self, stored: tuple[int, ...]) -> tuple[int, ...] | None:
        """The order of the axes of a stored step in which it has ``shape``, without a look at ``columns``.

        Only the channels of an image, the shorter one of its first and last axis, may be elsewhere than
        ``shape`` has them; and one number a step may be stored with an axis of its own or without. None if
        there is no such order.
        """
        if stored == self.shape or (self.columns is None and {stored, self.shape} == {(), (1,)}):
            return tuple(range(len(stored)))
        if self.normalize != "image" or self.columns is not None or not len(stored) == len(self.shape) == 3:
            return None
        order = (1, 2, 0) if self.shape[2] <= self.shape[0] else (2, 0, 1)
        return order if tuple(stored[axis] for axis in order) == self.shape else None

    def check(self, source: EpisodeSource) -> None:
        """Raise `InputError` unless the source holds this field: the key, a numeric type and the shape."""
        lacking: dict[str, str] = getattr(source, "lacking", {})
        if self.key in lacking:
            raise InputError(lacking[self.key])
        if self.key not in source.keys:
            raise InputError(
                f"{source.path} has no key '{self.key}'; it holds {', '.join(source.keys)}: correct the key "
                "in the task's config"
            )
        if source.dtypes[self.key].kind not in "biuf":
            raise InputError(
                f"key '{self.key}' of {source.path} holds {source.dtypes[self.key]}, which is not a number a "
                "policy can learn from; store it as float32 or uint8"
            )
        stored = source.shapes[self.key]
        if self.columns is None:
            fits = self.axes(stored) is not None
        else:
            fits = stored[:-1] == self.shape[:-1] and bool(stored) and max(self.columns) < stored[-1]
        if not fits and self.columns is None and self.normalize == "image":
            self._refuse_channels(source.path, stored)
        if not fits:
            columns = "" if self.columns is None else f" with columns {list(self.columns)}"
            raise InputError(
                f"key '{self.key}' of {source.path} has shape {list(stored)} per step, but the task expects "
                f"{list(self.shape)}{columns}; use the data of this task or correct the shape in its config"
            )

    def _refuse_channels(self, path: str, stored: tuple[int, ...]) -> None:
        """Raise `InputError` if images have the right size and another number of channels."""
        if not len(stored) == len(self.shape) == 3:
            return
        sizes = [(x[2], x[:2]) if x[2] <= x[0] else (x[0], x[1:]) for x in (stored, self.shape)]
        (found, size), (wanted, wanted_size) = sizes
        if size == wanted_size and found != wanted:
            more = found > wanted and stored[2] <= stored[0]
            take = f"take some of them (columns: {list(range(wanted))}) or " if more else ""
            raise InputError(
                f"key '{self.key}' of {path} holds images with {found} channels, but the task expects "
                f"{wanted}; {take}give the field {found} channels in the task's config"
            )


def check_key(source: EpisodeSource, key: str, lacking: Mapping[str, str]) -> None:
    """Raise `InputError` unless a source can read a key; ``lacking`` says of those that are there why not."""
    if key in lacking:
        raise InputError(lacking[key])
    if key not in source.keys:
        raise InputError(f"{source.path} has no key '{key}'; it holds {', '.join(source.keys)}")


def episode_rows(source: EpisodeSource, episode: int) -> tuple[int, int]:
    """First row of an episode, and the row after its last one."""
    return int(source.episode_ends[episode - 1]) if episode else 0, int(source.episode_ends[episode])


def find_row(source: EpisodeSource, row: int) -> tuple[int, int]:
    """The episode that a row belongs to, and which of its steps it is."""
    episode = int(np.searchsorted(source.episode_ends, row, side="right"))
    return episode, row - episode_rows(source, episode)[0]


def too_large(shape: Iterable[int], dtype: np.dtype) -> str | None:
    """What speaks against steps of this shape, for after the name of a key; nothing against any real one."""
    shape = list(shape)
    size = math.prod(map(int, shape)) * dtype.itemsize
    if size <= MOST_STEP_BYTES:
        return None
    return (
        f"has {size / 2**30:.3g} GiB a step by its shape {shape}, which is damaged or of no demonstrations: "
        "restore it from a copy"
    )


def row_bytes(source: EpisodeSource, key: str) -> int:
    """Bytes of one step of a key as stored."""
    return int(np.prod(source.shapes[key])) * source.dtypes[key].itemsize


def whole_chunks(source: EpisodeSource, key: str, start: int, stop: int, most: int) -> Iterator[range]:
    """Rows ``start`` to ``stop`` in parts of about ``most`` bytes as stored, which end where chunks do."""
    rows = getattr(source, "chunk_rows", {}).get(key, 1)
    aligned = min(-(-start // rows) * rows, stop)
    if start < aligned:
        yield range(start, aligned)
    yield from pieces(aligned, stop, row_bytes(source, key), most, rows)


def pieces(start: int, stop: int, each: int, most: int, multiple: int = 1) -> Iterator[range]:
    """Rows ``start`` to ``stop`` in parts that fit into memory.

    Args:
        start: First row.
        stop: Row after the last one.
        each: Bytes of a row.
        most: Bytes of a part, if that is a row at least.
        multiple: The number of rows of all parts but the last is a multiple of this.
    """
    size = multiple * max(1, most // max(1, each * multiple))
    return (range(at, min(at + size, stop)) for at in range(start, stop, size))


def source_setting(assigned: str) -> str:
    """How a setting of a zarr store is given on the command lines that read one, for errors."""
    return f"+task.source.{assigned} ({assigned} in scripts/convert.py and scripts/view.py)"


def expand(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` and environment variables written out.

    Raises:
        InputError: It is no path.
    """
    if not isinstance(path, str | os.PathLike):
        several = "; scripts/convert.py input=[...] joins several files" if is_list(path) else ""
        raise InputError(f"{path} is given where the path of a file or folder has to be{several}")
    return written_out(path)


def _integers(key: str, name: str, values: Any, smallest: int) -> tuple[int, ...]:
    numbers = list(values) if isinstance(values, Iterable) else [values]
    whole = all(isinstance(x, int) or (isinstance(x, Real) and float(x).is_integer()) for x in numbers)
    if not isinstance(values, Iterable) or not whole or min(numbers, default=smallest) < smallest:
        raise InputError(f"field '{key}': {name}={values} must be a list of whole numbers from {smallest} up")
    return tuple(int(number) for number in numbers)
