"""Frames of video files, by their number: one decoder for what is learned from and for what is seen at play.

PyAV reads the files, from version 17 on: it converts colours as a file says, and earlier ones took every file
for BT.601, whose colours differ by up to 23 levels from those of a file of BT.709.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.errors import InputError

if TYPE_CHECKING:
    from av.container import InputContainer

#: PyAV converts colours as the file says from this version on.
OLDEST_AV = 17
#: Format in which FFmpeg gives the pixels, by number of channels.
FORMATS = {1: "gray", 3: "rgb24"}


@dataclass(frozen=True)
class Video:
    """What is in a video file, found without decoding a frame.

    Attributes:
        path: The file.
        size: Height and width in pixels.
        time_base: Seconds of a tick.
        ticks: (F,) int64, when each frame is shown, increasing.
        keys: (K,) int64, numbers of the frames at which decoding can begin.
        key_decoding: (K,) int64, when these are decoded, in ticks.
    """

    path: Path
    size: tuple[int, int]
    time_base: Fraction
    ticks: np.ndarray
    keys: np.ndarray
    key_decoding: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """(F,) float64, when each frame is shown, in seconds."""
        return self.ticks * float(self.time_base)

    @property
    def fps(self) -> float | None:
        """Frames a second, of most of the file; None of a single frame."""
        return 1 / float(np.median(np.diff(self.times))) if len(self.ticks) > 1 else None


def import_av() -> Any:
    """The module of PyAV; `InputError` where the extra is not installed, or an old version is."""
    try:
        import av
    except ImportError as error:
        raise InputError(
            "videos need PyAV, which is not installed: pip install 'shortcut-policy[lerobot]'"
        ) from error
    if int(av.__version__.split(".")[0]) < OLDEST_AV:
        raise InputError(
            f"PyAV {av.__version__} is installed, which gives wrong colours for some videos; version "
            f"{OLDEST_AV} is needed: pip install 'shortcut-policy[lerobot]'"
        )
    return av


def find_frames(path: Path) -> Video:
    """Look through a file for its frames.

    Raises:
        InputError: There is no such file, it is damaged or holds no video.
    """
    frames = []
    with _opened(path) as container:
        stream = container.streams.video[0]
        for packet in container.demux(stream):
            if packet.size and packet.pts is not None and not packet.is_discard:
                decoded_at = packet.pts if packet.dts is None else packet.dts
                frames.append((packet.pts, packet.is_keyframe, decoded_at))
        size, time_base = (stream.height, stream.width), stream.time_base
    if not frames or time_base is None:
        raise InputError(f"{path} holds no frame; record or convert it again")
    frames.sort()
    ticks, is_key, decoding = (np.array(column) for column in zip(*frames, strict=True))
    keys = np.flatnonzero(is_key)
    if len(keys) == 0 or keys[0] != 0:
        raise InputError(f"{path} does not begin with a frame that can be decoded alone; convert it again")
    return Video(path, size, time_base, ticks, keys, decoding[keys])


def read_frames(video: Video, start: int, stop: int, channels: int = 3) -> np.ndarray:
    """Frames ``start`` to ``stop`` of a file, (stop - start, H, W, channels) uint8.

    Args:
        video: See `find_frames`.
        start: Number of the first one.
        stop: The number after that of the last one.
        channels: 3 for red, green and blue in this order, or 1.

    Raises:
        InputError: A frame is missing or cannot be decoded.
    """
    frames = np.empty((stop - start, *video.size, channels), np.uint8)
    key = int(np.searchsorted(video.keys, start, side="right")) - 1
    missing = set(video.ticks[start:stop].tolist())
    # One for all frames, in one thread: `frame.to_ndarray(format)` makes both anew, several times as slow.
    convert = import_av().video.reformatter.VideoReformatter()
    with _opened(video.path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1  # who calls decodes several parts at a time
        if key:
            container.seek(int(video.key_decoding[key]), stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts in missing:
                missing.remove(frame.pts)
                number = int(np.searchsorted(video.ticks, frame.pts))
                pixels = convert.reformat(frame, format=FORMATS[channels], threads=1).to_ndarray()
                frames[number - start] = pixels.reshape(frames.shape[1:])
            if not missing:
                break
    if missing:
        number = int(np.searchsorted(video.ticks, min(missing)))
        raise InputError(f"{video.path}: frame {number} cannot be decoded; restore the file from a copy")
    return frames


@contextmanager
def _opened(path: Path) -> Iterator["InputContainer"]:
    av = import_av()
    refuse_pointer(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path} holds no video; give the file of a camera")
            yield container
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; copy or fetch the whole dataset again") from error
    except InputError:
        raise
    except Exception as error:  # also of a stream without a decoder, which lacks half its attributes
        raise InputError(
            f"{path} cannot be read as a video ({error}); it is damaged or not written to its end: restore "
            "it from a copy"
        ) from error
