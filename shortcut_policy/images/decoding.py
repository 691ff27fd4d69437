"""From image files, in a directory or a zip, to arrays of pixels."""

import os
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from shortcut_policy.errors import InputError

#: Mode of a file -> the mode that is decoded, if none is asked for. Others have more than 8 bits.
MODES = {
    **{"1": "L", "L": "L", "LA": "L"},
    **{"P": "RGB", "RGB": "RGB", "RGBA": "RGB", "CMYK": "RGB", "YCbCr": "RGB"},
}
CHANNEL_MODES = {1: "L", 3: "RGB"}
#: Images that are decoded at a time.
CHUNK = 256
#: From so many images on, processes pay for the seconds that they take to start. Threads would share one
#: interpreter, which for small images does most of the work.
PARALLEL_FROM = 4096


@dataclass(frozen=True)
class Decoder:
    """Reads images of a directory or zip, in any process.

    Attributes:
        path: Of the directory or zip.
        size: Height and width: a centred square is cut out and resized. None: as they are, all of one size.
        channels: 3 for colour, 1 for grey; None: as they are, all of one kind.
        skip_unreadable: Leave files out that are no images, and tell which, in place of an error.
        workers: Processes; one for each core if None.
    """

    path: Path
    size: int | None = None
    channels: int | None = None
    skip_unreadable: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.channels not in (None, *CHANNEL_MODES):
            raise InputError(f"channels={self.channels} must be 1 (grey), 3 (colour) or null (as they are)")

    def decode(self, names: Sequence[str], title: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The pixels of files.

        Args:
            names: Of the files, relative to the folder.
            title: Of a progress bar; None for none.

        Returns:
            Images, (N, C, H, W) uint8, and which of ``names`` they are, (N,): all, unless some are skipped.

        Raises:
            InputError: a file cannot be read, or images differ in channels or size with no settings that
                make them equal (files are named).
        """
        found: list[np.ndarray | None] = []
        with tqdm(total=len(names), desc=title, unit="image", disable=title is None) as bar:
            for chunk in self._in_chunks(names):
                found += chunk
                bar.update(len(chunk))
        if any(image is None for image in found):
            skipped = [name for name, image in zip(names, found, strict=True) if image is None]
            tqdm.write(f"{self.path}: skipped {len(skipped)} unreadable: {', '.join(skipped[:5])}")
        kept = [row for row, image in enumerate(found) if image is not None]
        images = [image for image in found if image is not None]
        if not images:
            raise self._none_of(names)
        self._check_alike([names[row] for row in kept], images)
        return np.stack(images), np.array(kept, dtype=np.int64)

    def read(self, names: Sequence[str]) -> list[np.ndarray | None]:
        """Images, (C, H, W) uint8 each; None for one that is skipped."""
        return [self._image(name) for name in names]

    def first(self, names: Sequence[str]) -> np.ndarray:
        """The first image that can be read, (C, H, W) uint8.

        Raises:
            InputError: see `decode`.
        """
        for name in names:
            image = self._image(name)
            if image is not None:
                return image
        raise self._none_of(names)

    def _none_of(self, names: Sequence[str]) -> InputError:
        return InputError(f"{self.path}: none of {len(names)} files can be read as an image")

    def _in_chunks(self, names: Sequence[str]) -> Iterator[list[np.ndarray | None]]:
        chunks = [names[start : start + CHUNK] for start in range(0, len(names), CHUNK)]
        workers = self.workers or os.cpu_count() or 1
        if workers == 1 or len(names) < PARALLEL_FROM:
            yield from map(self.read, chunks)
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield from pool.map(self.read, chunks)

    def _image(self, name: str) -> np.ndarray | None:
        try:
            with Image.open(BytesIO(self._bytes(name))) as file:
                return self._pixels(name, file)
        except InputError:
            raise
        except Exception as error:  # Pillow and zipfile raise many kinds
            if self.skip_unreadable:
                return None
            reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
            raise InputError(
                f"{self.path}: {name} cannot be read as an image ({reason}); replace or remove it, or give "
                f"{setting('skip_unreadable=true')}"
            ) from error

    def _bytes(self, name: str) -> bytes:
        if self.path.is_dir():
            return (self.path / name).read_bytes()
        return _open_zip(self.path, self.path.stat().st_mtime_ns).read(name)

    def _pixels(self, name: str, file: Image.Image) -> np.ndarray:
        if file.mode not in MODES:
            raise InputError(
                f"{self.path}: {name} has mode {file.mode}, which is not 8 bits a channel; convert it to an "
                "8-bit PNG"
            )
        mode = MODES[file.mode] if self.channels is None else CHANNEL_MODES[self.channels]
        image = ImageOps.exif_transpose(file).convert(mode)
        if self.size is not None:
            image = ImageOps.fit(image, (self.size, self.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        return pixels[None] if mode == "L" else np.moveaxis(pixels, -1, 0)

    def _check_alike(self, names: Sequence[str], images: Sequence[np.ndarray]) -> None:
        first = images[0].shape
        for name, image in zip(names, images, strict=True):
            if image.shape[0] != first[0]:
                raise InputError(
                    f"{self.path} mixes images with different channels, {names[0]} ({first[0]}) and {name} "
                    f"({image.shape[0]}): give {setting('channels=1')} for grey or 3 for colour"
                )
            if image.shape != first:
                raise InputError(
                    f"{self.path} holds images of different sizes, {names[0]} ({first[1]}x{first[2]}) and "
                    f"{name} ({image.shape[1]}x{image.shape[2]}): give {setting('size=<pixels>')} to crop "
                    "and resize them"
                )


def setting(assigned: str) -> str:
    """How a setting of the folder of images is given on the command line."""
    return f"task.source.{assigned} (source.{assigned} in scripts/encode_latents.py)"


@lru_cache(maxsize=1)
def _open_zip(path: Path, changed: int) -> zipfile.ZipFile:
    """The zip as it was when it was last ``changed``; opened once in a process."""
    return zipfile.ZipFile(path)
