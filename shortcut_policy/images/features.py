"""What images are compared by: features of Inception where its weights are, else of a classifier of ours.

A Frechet distance means nothing without its features, so they bring its name: ``FID`` is one of Inception's,
``FD-classifier`` one of the classifier's. Numbers of different names cannot be compared, nor can those of
FD-classifier on different data.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.data.source import expand
from shortcut_policy.errors import InputError
from shortcut_policy.images.classifier import Classifier, ClassifierSettings, trained_classifier
from shortcut_policy.images.image_set import ImageSource
from shortcut_policy.provenance import code_hash, short_hash

BATCH = 512


@dataclass(frozen=True)
class Features:
    """A feature network under its name.

    Attributes:
        name: ``FID`` or ``FD-classifier``: what a Frechet distance of these features is called.
        key: Tells it, by weights and code, from other networks, for caches.
        network: Images (B, C, H, W) uint8 to features (B, F).
        device: Of the network.
        classifier: Tells the class of a sample; None if there is none.
    """

    name: str
    key: str
    network: Callable[[Tensor], Tensor]
    device: str | torch.device = "cpu"
    classifier: Classifier | None = None

    @torch.no_grad()
    def of(self, images: np.ndarray) -> Tensor:
        """Features of images (N, C, H, W), (N, F) float32 on the CPU."""
        parts = torch.from_numpy(images).split(BATCH)
        return torch.cat([self.network(part.to(self.device)).float().cpu() for part in parts])

    @torch.no_grad()
    def classes(self, images: np.ndarray) -> np.ndarray | None:
        """The class that the classifier sees in each image, (N,); None without one."""
        if self.classifier is None:
            return None
        parts = torch.from_numpy(images).split(BATCH)
        return torch.cat([self.classifier(part.to(self.device)).argmax(1).cpu() for part in parts]).numpy()


def make_features(
    kind: Literal["classifier", "inception"],
    source: ImageSource,
    settings: ClassifierSettings,
    cache: Path,
    inception_weights: str | None = None,
    device: str | torch.device = "cpu",
) -> Features:
    """The features by which images of ``source`` are judged.

    Args:
        kind: ``inception``, or ``classifier`` for one that is trained on the images.
        source: The images.
        settings: Of the classifier.
        cache: Folder that keeps it.
        inception_weights: TorchScript file of Inception, as StyleGAN2-ADA and EDM measure with
            (``inception-2015-12-05.pt``): takes (B, 3, H, W) uint8 of any size, gives (B, 2048).
        device: For both.

    Raises:
        InputError: the weights are not there, or a classifier cannot be trained on these images.
    """
    if kind == "inception":
        return _inception(inception_weights, device)
    if kind != "classifier":
        raise InputError(f"features={kind} must be classifier or inception")
    classifier = trained_classifier(source, settings, cache, device)
    return Features("FD-classifier", classifier.key, classifier.features, device, classifier)


def _inception(weights: str | None, device: str | torch.device) -> Features:
    path = expand(weights or "inception-2015-12-05.pt")
    if not path.is_file():
        raise InputError(
            f"features=inception needs its weights, and there is no file {path}: give inception_weights=<the "
            "TorchScript file inception-2015-12-05.pt>, or features=classifier"
        )
    network = torch.jit.load(str(path), map_location=device).eval()

    def features(images: Tensor) -> Tensor:
        colour = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        return network(colour, return_features=True)

    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Features("FID", short_hash(path.name, content, code_hash(__name__)), features, device)
