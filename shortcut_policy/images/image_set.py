"""Images or latents in memory with their classes: what every source of images returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortcut_policy.errors import InputError


@dataclass(frozen=True)
class ImageSet:
    """Images of one shape.

    Attributes:
        images: (N, C, H, W); uint8 pixels, or float32 latents.
        labels: Class of each, int64 (N,), numbers into ``class_names``; None if the classes are unknown.
        class_names: Name of each class; empty if the classes are unknown.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype not in (np.uint8, np.float32):
            raise InputError(
                f"images have shape {self.images.shape} and type {self.images.dtype}; expected (N, C, H, W) "
                "as uint8 pixels or float32 latents"
            )
        if self.labels is not None and self.labels.shape != self.images.shape[:1]:
            raise InputError(
                f"{len(self.images)} images have labels of shape {self.labels.shape}; expected one each"
            )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class ImageSource:
    """A data set of images as ``configs/task`` names it.

    Attributes:
        path: Where it is from: names it in messages and in what a checkpoint says of itself.
        train: What is learned.
        test: What is held out, for losses and quality; may hold no image.
        decoder: For latents, the specification (see `build`) of what makes pixels of them: called with
            float32 (N, C, H, W) on any device, it returns uint8 (N, C', H', W') there.
    """

    path: str
    train: ImageSet
    test: ImageSet
    decoder: Mapping[str, Any] | None = None
