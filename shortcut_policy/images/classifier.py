"""A small classifier, trained on the images themselves, as judge of samples where no Inception weights are.

Its features measure distances (FD-classifier), its answers whether a sample shows the class that was asked
for. Trained once for given images and settings; kept in a cache.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from shortcut_policy.errors import InputError
from shortcut_policy.images.image_set import ImageSet, ImageSource
from shortcut_policy.paths import atomic_path_alone, is_stored
from shortcut_policy.provenance import code_hash, library_versions, short_hash
from shortcut_policy.settings import Count, Positive, Seed

#: Smallest height and width that the convolutions reduce images to.
SMALLEST = 4
#: Pixels by which training images are shifted at most, for every 32 of their width.
SHIFT = 4


@dataclass(frozen=True)
class ClassifierSettings:
    """How a classifier is made.

    Attributes:
        width: Channels after the first layer; each halving doubles them, up to four times as many.
        patch: Pixels, in height and in width, that the first layer merges: 2 is several times as fast as 1.
        epochs: Passes through the training images.
        batch_size: Images of an update.
        learning_rate: Peak of AdamW's, in one cycle.
        flip: Mirror every other training image.
        seed: Of weights, order and distortions.
    """

    width: Count = 32
    patch: Count = 1
    epochs: Count = 30
    batch_size: Count = 64
    learning_rate: Positive = 3e-3
    flip: bool = False
    seed: Seed = 0


class Classifier(nn.Module):
    """Convolutions, the mean over the image, one linear layer.

    Args:
        channels: C of an image.
        size: Its height and width.
        classes: How many.
        width: See `ClassifierSettings`,
        patch: as well.

    Attributes:
        num_features: Channels of `features`.
        key: Tells it from classifiers of other images and settings.
        accuracy: On held-out images, in [0, 1]; -1 before it is measured.
        seconds: That training took.
    """

    def __init__(self, channels: int, size: int, classes: int, width: int = 32, patch: int = 1) -> None:
        super().__init__()
        merge: list[nn.Module] = [] if patch == 1 else [nn.PixelUnshuffle(patch)]
        layers = [*merge, _convolution(channels * patch**2, width)]
        inside, size = width, size // patch
        while size > SMALLEST:
            size //= 2
            outside = min(2 * inside, 4 * width)
            layers += [nn.MaxPool2d(2), _convolution(inside, outside), _convolution(outside, outside)]
            inside = outside
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(inside, classes)
        self.num_features = inside
        self.key, self.accuracy, self.seconds = "", -1.0, 0.0

    def features(self, images: Tensor) -> Tensor:
        """What it sees in images, (B, C, H, W) uint8 or float32, as (B, num_features)."""
        x = images / 127.5 - 1 if images.dtype == torch.uint8 else images
        # The order of axes that convolutions are fastest in.
        return self.body(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the classes, (B, classes)."""
        return self.head(self.features(images))


def trained_classifier(
    source: ImageSource, settings: ClassifierSettings, cache: Path, device: str | torch.device = "cpu"
) -> Classifier:
    """The classifier of these images and settings, from the cache if it is there.

    Raises:
        InputError: the classes of the images are unknown, or none is held out to measure its accuracy.
    """
    if source.train.labels is None or not len(source.test):
        raise InputError(
            f"{source.path} has no classes or no held-out images, which a classifier needs: give "
            "features=inception with its weights, or images in class folders with test_fraction above 0"
        )
    _, channels, size, _ = source.train.images.shape
    network = Classifier(channels, size, len(source.train.class_names), settings.width, settings.patch)
    network.key = _key(source, settings)
    file = cache / f"classifier_{network.key}.safetensors"
    if not is_stored(file):
        fit(network, source, settings, device)
        described = {"accuracy": str(network.accuracy), "seconds": str(network.seconds)}
        with atomic_path_alone(file) as temporary:
            save_file(network.state_dict(), temporary, described | {"settings": json.dumps(asdict(settings))})
    network.load_state_dict(load_file(file))
    with safe_open(file, "pt") as stored:
        network.accuracy = float(stored.metadata()["accuracy"])
        network.seconds = float(stored.metadata()["seconds"])
    return network.to(device).eval()


def fit(
    network: Classifier, source: ImageSource, settings: ClassifierSettings, device: str | torch.device
) -> None:
    """Train ``network`` from new weights, and measure its accuracy on the held-out images."""
    started = time.perf_counter()
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        network.apply(_reset)
    network.to(device).train()
    generator = torch.Generator().manual_seed(settings.seed)
    images, labels = _tensors(source.train, device)
    updates = max(1, len(images) // settings.batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=updates
    )
    for _ in tqdm(range(settings.epochs), desc="classifier", unit="epoch"):
        order = torch.randperm(len(images), generator=generator)
        for number in range(updates):
            rows = order[number * settings.batch_size :][: settings.batch_size].to(device)
            distorted = _distort(images[rows], settings.flip, generator)
            loss = F.cross_entropy(network(distorted), labels[rows], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.seconds = time.perf_counter() - started
    network.eval()
    network.accuracy = accuracy(network, source.test, device)


@torch.no_grad()
def accuracy(network: Classifier, images: ImageSet, device: str | torch.device) -> float:
    """Share of labelled images that the classifier names right."""
    pixels, labels = _tensors(images, device)
    guesses = torch.cat([network(part).argmax(1) for part in pixels.split(512)])
    return float((guesses == labels).float().mean())


def fingerprint(images: ImageSet) -> str:
    """Short hash of images and labels."""
    digest = hashlib.sha256(str(images.images.shape).encode())
    digest.update(np.ascontiguousarray(images.images).data)
    if images.labels is not None:
        digest.update(images.labels.data)
    return digest.hexdigest()[:16]


def _convolution(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()
    )


def _reset(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear):
        module.reset_parameters()


def _tensors(images: ImageSet, device: str | torch.device) -> tuple[Tensor, Tensor]:
    assert images.labels is not None
    return torch.from_numpy(images.images).to(device), torch.from_numpy(images.labels).to(device)


def _distort(images: Tensor, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image at random, and with ``flip`` mirror half of them."""
    most = SHIFT * images.shape[-1] // 32
    rows = torch.arange(len(images))
    down, right = torch.randint(2 * most + 1, (2, len(images)), generator=generator)
    windows = F.pad(images, [most] * 4).unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    shifted = windows[rows, :, down, right]
    mirrored = torch.rand(len(images), generator=generator) < 0.5 * flip
    return torch.where(mirrored.to(images.device)[:, None, None, None], shifted.flip(-1), shifted)


def _key(source: ImageSource, settings: ClassifierSettings) -> str:
    images = fingerprint(source.train), fingerprint(source.test)
    return short_hash(images, asdict(settings), code_hash(__name__), library_versions("torch", "numpy"))
