"""Writes the frames of an episode as a video, and looks at what became of them."""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from shortcut_policy.data.video import import_av
from shortcut_policy.errors import InputError

#: Frames from one that stands alone to the next: any is reached by decoding two.
GROUP = 2
#: The colours of standard definition, and that the file says so: libraries that go by what it says and those
#: that take every file for one of these agree.
COLOURS = {"color_primaries": 6, "color_trc": 6, "colorspace": 6, "color_range": 1}


@dataclass
class VideoErrors:
    """How far the frames of videos are from what was written, in levels of 0..255, by their parity.

    Attributes:
        even: Mean of each even frame.
        odd: Mean of each odd one.
    """

    even: list[float] = field(default_factory=list)
    odd: list[float] = field(default_factory=list)

    def add(self, errors: np.ndarray) -> None:
        """Errors (T,) of the frames of one video."""
        self.even += errors[::2].tolist()
        self.odd += errors[1::2].tolist()

    def sentence(self) -> str:
        """What a user should know of it."""
        even, odd = (float(np.mean(errors)) if errors else 0.0 for errors in (self.even, self.odd))
        return (
            f"the frames of the videos differ from the images by {even:.2f} (even) and {odd:.2f} (odd) of 255"
        )


def check_size(name: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless images (H, W, C) can be a video."""
    if shape[0] % 2 or shape[1] % 2:
        raise InputError(
            f"images of '{name}' are {shape[0]} x {shape[1]}, but videos need an even height and width: "
            "choose videos=false, or crop them"
        )


def write_video(path: Path, frames: np.ndarray, fps: float, crf: int) -> np.ndarray:
    """Write frames (T, H, W, 3) uint8 as H.264, and compare.

    Returns:
        Mean error of each frame (T,), in levels.

    Raises:
        InputError: The video does not hold what was written.
    """
    av = import_av()
    rate = Fraction(fps).limit_denominator(10_000)
    with av.open(str(path), "w") as file:
        options = {"crf": str(crf), "g": str(GROUP), "bf": "0"}
        stream = file.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        context = stream.codec_context
        for name, value in COLOURS.items():
            setattr(context, name, value)
        # Two threads or ten make other files.
        context.thread_count = 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG")
            frame.pts, frame.time_base = number, 1 / rate
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return _errors(path, frames)


def _errors(path: Path, frames: np.ndarray) -> np.ndarray:
    errors = []
    with import_av().open(str(path)) as file:
        for number, frame in enumerate(file.decode(video=0)):
            if number < len(frames):
                difference = frame.to_ndarray(format="rgb24").astype(np.int16) - frames[number]
                errors.append(float(np.abs(difference).mean()))
    if len(errors) != len(frames):
        raise InputError(
            f"the video {path.name} holds {len(errors)} frames instead of {len(frames)}; choose videos=false"
        )
    return np.array(errors)
