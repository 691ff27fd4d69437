"""Grids of samples: columns share their noise and class, rows are numbers of steps, so that rows compare."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from einops import rearrange, repeat
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from shortcut_policy.build import build
from shortcut_policy.images.model import ImageModel
from shortcut_policy.model import Model
from shortcut_policy.objectives.base import allowed_steps
from shortcut_policy.paths import atomic_path
from shortcut_policy.training.batches import seeded_generator

#: Samples side by side; more begin a new band of rows.
COLUMNS = 20
#: Small images are enlarged to at least so many pixels a side.
SHOWN_SIDE = 32
#: Pixels between images, and height of the letters at the left.
GAP, LETTERS = 2, 14
WHITE = 255


def pictures_in(output: Path, steps: Sequence[int], seed: int) -> Callable[[Model, int], Path]:
    """What draws the samples of a training: ``<output>/samples/step_*.png``, always from the same noise.

    Args:
        output: Run folder.
        steps: Step counts; those that the objective cannot take are left out.
        seed: Of the noise.
    """

    def draw(model: Model, step: int) -> Path:
        assert isinstance(model, ImageModel)
        path = output / "samples" / f"step_{step:08d}.png"
        labels = torch.arange(COLUMNS) % len(model.class_names)
        rows = {}
        for count in allowed_steps(model.objective, steps):
            generators = [seeded_generator("cpu", seed, column) for column in range(COLUMNS)]
            rows[str(count)] = to_pixels(model, model.sample(labels, count, generators))
        save_grid(rows, path)
        return path

    return draw


def to_pixels(model: ImageModel, samples: Tensor) -> np.ndarray:
    """Samples (N, C, H, W) as uint8 pixels on the host: latents are decoded."""
    if model.decoder is not None:
        samples = build(model.decoder)(samples)
    return samples.cpu().numpy()


def save_grid(rows: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a PNG of rows of images with a title each, in bands of at most ``COLUMNS`` columns.

    Args:
        rows: Title -> uint8 (N, C, H, W), C = 1 or 3, all alike.
        path: File to write.
    """
    images = np.stack(list(rows.values()))
    bands = [images[:, first : first + COLUMNS] for first in range(0, images.shape[1], COLUMNS)]
    picture = np.concatenate([_with_titles(_lay_out(band), list(rows)) for band in bands])
    with atomic_path(path) as temporary:
        iio.imwrite(temporary, picture, extension=".png")


def _lay_out(images: np.ndarray) -> np.ndarray:
    """Rows of images (R, N, C, H, W) as one, (R height, COLUMNS width, 3), small ones enlarged."""
    factor = max(1, -(-SHOWN_SIDE // min(images.shape[-2:])))
    # As tensors: what einops learns of NumPy on the way would have a compiled network compiled again.
    stored, colours = torch.from_numpy(images), 4 - images.shape[2]
    large = repeat(stored, "r n c h w -> r n (h f) (w g) (c k)", f=factor, g=factor, k=colours)[..., :3]
    padding = (0, 0, GAP, GAP, GAP, GAP, 0, COLUMNS - images.shape[1])
    return rearrange(F.pad(large, padding, value=WHITE), "r n h w c -> (r h) (n w) c").numpy()


def _with_titles(picture: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    """A margin at the left with a title at the height of each row."""
    font = ImageFont.load_default(LETTERS)
    width = GAP + max(int(font.getlength(title)) for title in titles) + 2 * GAP
    margin = Image.new("RGB", (width, len(picture)), "white")
    height = len(picture) / len(titles)
    for number, title in enumerate(titles):
        place = (width - 2 * GAP, (number + 0.5) * height)
        ImageDraw.Draw(margin).text(place, title, fill="black", font=font, anchor="rm")
    return np.concatenate([np.asarray(margin), picture], axis=1)
