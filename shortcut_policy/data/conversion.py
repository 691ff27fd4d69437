"""Stored rows as a field's values: float32 numbers, or bytes for images however they are stored."""

import sys
from typing import Any

import numpy as np

from shortcut_policy.data.source import EpisodeSource, Field, episode_rows, find_row, pieces
from shortcut_policy.errors import InputError

#: Episodes from which one frame is looked at to tell images in 0..1 from images in 0..255.
SAMPLED_EPISODES = 64
#: Part of the range of an element by which float32 may change it without a word.
ROUGH = 1e-2
#: Floats up to this number are hardly pixels in 0..255.
DARK = 16.0
#: Pixels that are converted at a time: they stay in the cache of a core from one operation to the next.
PIXELS = 2**17


class Conversion:
    """Rows of a key as a field wants them, or an `InputError` that names the first row that cannot be used.

    Images are bytes afterwards. Channels are moved to where the field has them; floats in 0..1 and booleans
    are multiplied by 255. Which of the two ranges the floats of a key are in is decided from frames of all
    its episodes, and a frame that is in the other range is refused later. What is changed is said on stderr.

    Args:
        source: The episodes; a few frames are read if they are images of floats.
        field: See `Field`; it must fit the source (`Field.check`).

    Attributes:
        dtype: Of the values, float32 or uint8.
    """

    def __init__(self, source: EpisodeSource, field: Field) -> None:
        self.source, self.field = source, field
        self.is_image = field.normalize == "image"
        self.dtype = np.dtype(np.uint8 if self.is_image else np.float32)
        stored = source.shapes[field.key]
        order = field.axes(stored)
        self._axes = None if order is None or order == tuple(range(len(stored))) else order
        self._is_float = source.dtypes[field.key].kind == "f"
        is_bool = source.dtypes[field.key].kind == "b"
        #: Smallest and largest value of each element so far, as stored and in float32.
        self._low, self._high = np.array(np.inf), np.array(-np.inf)
        #: Largest value of a pixel as it is stored.
        self.top = 255
        #: Whether whole numbers, as of a mask, that say nothing of their range are all 0 and 1.
        self.hardly_bright = False
        #: The largest of floats of which bytes keep few values, such as depth in metres; or else None.
        self.dark: float | None = None
        if self.is_image and is_bool:
            self.top = 1
        elif self.is_image:
            largest = self._look()
            if 0 < largest <= 1:  # black frames alone tell nothing
                self.top, self.hardly_bright = (1, False) if self._is_float else (255, True)
            elif self._is_float and 1 < largest <= DARK:
                self.dark = largest

    @property
    def changes(self) -> str:
        """What is changed in the images, for a message; empty if nothing is."""
        stored, moved = list(self.source.shapes[self.field.key]), self._axes is not None
        parts = [f"{stored} per step become {list(self.field.shape)}"] if moved else []
        return " and ".join([*parts, *(["0..1 becomes 0..255"] if self.top == 1 else [])])

    @property
    def made_of(self) -> list[Any]:
        """The key, and what decides what becomes of its rows; plain JSON."""
        columns = None if self.field.columns is None else list(self.field.columns)
        return [self.field.key, columns, list(self._axes or ()), self.top]

    @property
    def keeps(self) -> bool:
        """Whether the values are the stored ones, as they are."""
        stored = self.source.dtypes[self.field.key]
        return self.field.columns is None and self._axes is None and stored == self.dtype == np.uint8

    def __call__(self, block: np.ndarray, start: int) -> np.ndarray:
        """Values of the rows from ``start`` on, (N, *stored shape) -> (N, *shape), contiguous.

        Raises:
            InputError: A value is not finite, or no pixel.
        """
        values = self.field.take(block)
        if self._axes is not None:
            values = values.transpose(0, *(axis + 1 for axis in self._axes))
        if self.is_image:
            return self._bytes(values, start)
        values = values.reshape(len(values), *self.field.shape)  # of one number, with its axis or without
        exact, values = values, np.ascontiguousarray(values, dtype=np.float32)
        bad = ~np.isfinite(values)
        if bad.any():
            where = self._where(start + int(np.argwhere(bad)[0][0]))
            raise InputError(f"{where} is not a finite number; drop or repair that episode")
        if exact.dtype.itemsize > 2 and exact.dtype != np.float32 and len(exact):
            low, high = (
                np.stack([extreme(x, axis=0) for x in (exact, values)]) for extreme in (np.min, np.max)
            )
            self._low, self._high = np.minimum(self._low, low), np.maximum(self._high, high)
        return values

    def say_rounded(self) -> None:
        """On stderr, which elements of all rows so far vary, and hardly as float32: times, large counters."""
        if np.ndim(self._low) == 0:  # nothing that could be rounded was seen
            return
        exact, kept = self._high - self._low
        lost = (exact > self.field.min_range) & (abs(kept - exact) > ROUGH * exact)
        if self.field.normalize != "identity":
            lost &= kept == 0  # of others that are scaled, `say_nearly_constant` speaks
        found = [tuple(map(int, at)) for at in np.argwhere(lost)]
        if found:
            at, more = found[0], f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            print(
                f"key '{self.field.key}' of {self.source.path}: element {list(at)}{more} lies in "
                f"{self._low[0][at]:.12g} to {self._high[0][at]:.12g}, {exact[at]:.3g} apart, of which "
                f"float32, in which it is learned, keeps {kept[at]:.3g}: take a constant off in the data",
                file=sys.stderr,
            )

    def _look(self) -> float:
        """The largest number in a frame of each of some episodes, or one that tells the range already."""
        episodes, largest = len(self.source.episode_ends), 0.0
        for e in np.unique(np.linspace(0, episodes - 1, min(episodes, SAMPLED_EPISODES)).round()):
            middle = sum(episode_rows(self.source, int(e))) // 2
            frame = self.field.take(self.source.read(self.field.key, middle, middle + 1))
            largest = max(largest, float(np.nanmax(frame, initial=0)))
            if largest > (DARK if self._is_float else 1):
                break
        return largest

    def _bytes(self, values: np.ndarray, start: int) -> np.ndarray:
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values)
        if values.dtype == bool:
            return 255 * values.astype(np.uint8, order="C")
        pixels = np.empty(values.shape, np.uint8)
        for part in pieces(0, len(values), int(np.prod(values.shape[1:])), PIXELS):
            rows = values[part.start : part.stop]
            self._check_range(rows, start + part.start)
            if self._is_float:
                rows = rows * rows.dtype.type(255 // self.top)
                np.rint(rows, out=rows)
            pixels[part.start : part.stop] = rows
        return pixels

    def _check_range(self, rows: np.ndarray, start: int) -> None:
        low, high = (extreme(rows.reshape(len(rows), -1), axis=1) for extreme in (np.min, np.max))
        outside = ~((low >= 0) & (high <= 255))  # NaN is outside too
        if outside.any():
            where = self._where(start + int(np.argmax(outside)))
            raise InputError(
                f"{where} is not a pixel value in 0..255; drop or repair that episode, or give the field "
                "normalize=limits if these are no pictures, but depth or the like"
            )
        if not self._is_float:
            return
        odd = high > 1 if self.top == 1 else (high > 0) & (high <= 1)
        if self.top == 255:  # a nearly black frame of whole numbers is one in 0..255
            odd[odd] = [bool((row % 1).any()) for row in rows[odd]]
        if odd.any():
            first = int(np.argmax(odd))
            raise InputError(
                f"{self._where(start + first)} has pixels up to {high[first]:.4g}, but the frames of other "
                f"episodes are in 0..{self.top}; store all of them in 0..255, as uint8"
            )

    def _where(self, row: int) -> str:
        episode, step = find_row(self.source, row)
        return f"key '{self.field.key}' of {self.source.path}, row {row} (episode {episode}, step {step})"


def check_rows(source: EpisodeSource, key: str, part: range, rows: np.ndarray) -> np.ndarray:
    """Rows that a source gave; what NumPy would stretch or leave out without a word is refused.

    Raises:
        InputError: They are not as many, or of another shape, no real numbers, or masked.
    """
    shape = (len(part), *source.shapes[key])
    where = f"rows {part.start} to {part.stop} of key '{key}' of {source.path}"
    if rows.shape != shape or rows.dtype.kind not in "biuf":
        raise InputError(
            f"{where} are {rows.dtype} of shape {list(rows.shape)}, and the source says "
            f"{source.dtypes[key]} of {list(shape)}: correct its read, shapes or episode_ends"
        )
    if np.ma.is_masked(rows):
        raise InputError(f"{where} hold numbers that are masked, for which nothing can stand: fill them in")
    return rows


def say_changes(conversion: Conversion) -> None:
    """Say on stderr how images are changed while they are loaded, if they are."""
    key, path = conversion.field.key, conversion.source.path
    if conversion.changes:
        print(f"images of key '{key}' of {path}: {conversion.changes} while they are loaded", file=sys.stderr)
    if conversion.dark is not None:
        print(
            f"images of key '{key}' of {path} hold floats up to {conversion.dark:.3g} in one frame each of "
            "some episodes, and become whole numbers in 0..255: if they are depth or the like, give the "
            "field normalize=limits",
            file=sys.stderr,
        )
    if conversion.hardly_bright:
        print(
            f"images of key '{key}' of {path} hold whole numbers up to 1, and are nearly black in 0..255: if "
            "they are masks, store them as booleans, or give the field normalize=identity",
            file=sys.stderr,
        )
