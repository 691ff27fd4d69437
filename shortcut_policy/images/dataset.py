"""Batches of images, with the interface that the trainer knows from demonstrations."""

from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.data import Normalizer
from shortcut_policy.errors import InputError
from shortcut_policy.images.image_set import ImageSource
from shortcut_policy.images.model import image_fields


class ImageBatch(TypedDict):
    """What `ImageDataset.batch` returns."""

    images: Tensor
    labels: Tensor


class ImageDataset:
    """Images and classes on the device that computes, as they are stored: a byte a value for pixels.

    Args:
        source: What is learned and what is held out.
        flip: Whether a model of them mirrors a half of them in training.

    Attributes:
        train: Numbers of the training images, int64 (N,).
        val: The same for those that are held out; may be empty.
        device: Where batches are made.
        in_memory: True: images are kept there.

    Raises:
        InputError: There is no training image, or what is held out has another shape or type.
    """

    in_memory = True

    def __init__(self, source: ImageSource, flip: bool) -> None:
        parts = source.train, *([source.test] if len(source.test) else [])
        kinds = {(part.images.shape[1:], part.images.dtype.name) for part in parts}
        if not len(source.train) or len(kinds) > 1:
            raise InputError(
                f"{source.path} has {len(source.train)} training images, and its images are of "
                f"{' and of '.join(sorted(map(str, kinds)))}: there must be at least one, all of one shape"
            )
        self.source, self.flip = source, flip
        self.device = torch.device("cpu")
        self._images = torch.from_numpy(np.concatenate([part.images for part in parts]))
        classes = [np.zeros(len(p), np.int64) if p.labels is None else p.labels for p in parts]
        self._labels = torch.from_numpy(np.concatenate(classes))
        numbers = torch.arange(len(self._images))
        self.train, self.val = numbers[: len(source.train)], numbers[len(source.train) :]

    def batch(self, rows: Tensor) -> ImageBatch:
        """Images (B, C, H, W) as stored and classes int64 (B,), on ``device``.

        Args:
            rows: (B,) of ``train`` or ``val``.
        """
        rows = rows.to(self.device)
        return {"images": self._images[rows], "labels": self._labels[rows]}

    def fit_normalizer(self) -> Normalizer:
        """The scaling of these images, which needs no statistics."""
        images = self.spec["images"]
        return Normalizer(image_fields(images["shape"], images["dtype"]), {})

    def to(self, device: str | torch.device) -> "ImageDataset":
        """Move images and classes; returns self."""
        self.device = torch.device(device)
        self._images, self._labels = self._images.to(device), self._labels.to(device)
        self.train, self.val = self.train.to(device), self.val.to(device)
        return self

    @property
    def spec(self) -> dict[str, Any]:
        """What the specification of a model of these images says of them, see `ImageModel.from_spec`."""
        stored = self.source.train.images
        images = {
            "shape": list(stored.shape[1:]),
            "dtype": stored.dtype.name,
            "class_names": list(self.source.train.class_names) or ["any"],
            "flip": self.flip,
            "decoder": None if self.source.decoder is None else dict(self.source.decoder),
        }
        return {"_target_": "shortcut_policy.images.model.ImageModel", "images": images}

    @property
    def size(self) -> dict[str, int]:
        """What a checkpoint says of how much it learned from."""
        return {"train_images": len(self.train)}
