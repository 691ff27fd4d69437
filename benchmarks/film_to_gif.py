"""Turn a film of rollouts, or several of one size side by side, into a GIF of the documentation.

python benchmarks/film_to_gif.py outputs/pusht/shortcut_1_step.mp4 docs/figures/pusht_one_step.gif
"""

import argparse
import tempfile
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from PIL import Image

from shortcut_policy.rollout.recorder import tile_videos


def main() -> None:
    """Read, thin out, shrink, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("films", type=Path, nargs="+")
    parser.add_argument("gif", type=Path)
    parser.add_argument("--width", type=int, default=720)
    parser.add_argument("--every", type=int, default=3, help="keep each n-th frame")
    parser.add_argument("--frames", type=int, default=70, help="at most")
    parser.add_argument("--colours", type=int, default=32)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (film, *others) = arguments.films
        if others:
            film = Path(folder) / "film.mp4"
            tile_videos(arguments.films, film)
        frames = iio.imread(film, plugin="FFMPEG")[:: arguments.every][: arguments.frames]
    images = [_shrink(frame, arguments.width) for frame in frames]
    palette = images[0].quantize(arguments.colours)
    images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    arguments.gif.parent.mkdir(parents=True, exist_ok=True)
    images[0].save(
        arguments.gif, save_all=True, append_images=images[1:], duration=100, loop=0, optimize=True
    )
    print(f"{arguments.gif}: {len(images)} frames, {arguments.gif.stat().st_size / 1e6:.2f} MB")


def _shrink(frame: np.ndarray, width: int) -> Image.Image:
    image = Image.fromarray(frame)
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main()
