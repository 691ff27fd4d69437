"""How good samples are: Frechet distance, precision and recall, and whether they show the class asked for.

All three compare features of samples with those of the training images (see `features`).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from shortcut_policy.images.classifier import fingerprint
from shortcut_policy.images.features import Features
from shortcut_policy.images.image_set import ImageSet
from shortcut_policy.paths import atomic_path, is_stored
from shortcut_policy.provenance import code_hash, library_versions, short_hash

#: Nearest neighbours that bound the support of a distribution (Kynkäänniemi et al. 2019, section 4).
NEIGHBOURS = 3
#: Images that have so many others.
FEWEST = NEIGHBOURS + 1
#: Features of each side that precision and recall are computed from, at most.
MOST_NEIGHBOURHOODS = 10_000
#: Resamples of the Frechet distance: each is a covariance of all features.
RESAMPLES = 200
BLOCK = 1024


@dataclass(frozen=True)
class Reference:
    """The real images as features.

    Attributes:
        features: (N, F).
        radii: Distance of some of them to their k-th nearest neighbour, (M,): those of `chosen`.
        key: Tells it from others: of other images or features, or measured by other code.
    """

    features: Tensor
    radii: Tensor
    key: str = ""


@dataclass(frozen=True)
class Quality:
    """What was measured of a set of samples, with what intervals are made from.

    Attributes:
        fd: Frechet distance of all samples to the real images.
        fd_draws: The same of samples drawn with replacement, (RESAMPLES,), moved to have ``fd`` as their
            mean: fewer distinct samples have a larger distance, which is no matter of chance.
        precise: Whether each of some samples lies among the real images, (M,).
        recalled: Whether each of some real images lies among the samples, (M,).
        correct: Whether each sample is what was asked for, (N,); empty where no one can tell.
    """

    fd: float
    fd_draws: np.ndarray
    precise: np.ndarray
    recalled: np.ndarray
    correct: np.ndarray


def reference(features: Features, images: ImageSet, cache: Path) -> Reference:
    """The statistics of real images, computed once and kept in ``cache``."""
    measured_by = (
        code_hash(__name__),
        code_hash(Features.__module__),
        library_versions("torch", "torchmetrics"),
    )
    key = short_hash(features.key, fingerprint(images), measured_by)
    file = cache / f"reference_{key}.npz"
    if not is_stored(file):
        found = features.of(images.images)
        with atomic_path(file) as temporary, temporary.open("wb") as handle:
            np.savez(handle, features=found.numpy(), radii=_radii(chosen(found)).numpy())
    with np.load(file) as stored:
        return Reference(torch.from_numpy(stored["features"]), torch.from_numpy(stored["radii"]), key)


def measure(
    features: Features, real: Reference, samples: np.ndarray, labels: np.ndarray | None, seed: int = 0
) -> Quality:
    """Measure samples.

    Args:
        features: Of images.
        real: `reference` with the same features.
        samples: (N, C, H, W), of the type of the real images.
        labels: The class that each was asked to show, (N,); None if unconditional.
        seed: Of the bootstrap.
    """
    found, classes = features.of(samples), features.classes(samples)
    few, real_few = chosen(found), chosen(real.features)
    correct = np.zeros(0, bool) if labels is None or classes is None else np.equal(classes, labels)
    distance = frechet_distance(found, real.features)
    return Quality(
        distance,
        _bootstrap(found, real.features, distance, seed),
        _within(few, real_few, real.radii),
        _within(real_few, few, _radii(few)),
        correct,
    )


def frechet_distance(samples: Tensor, real: Tensor) -> float:
    """Frechet distance of two normal distributions with the moments of features, (N, F) and (M, F)."""
    metric = _metric(real)
    metric.update(samples.double(), real=False)
    return float(metric.compute())


def chosen(features: Tensor) -> Tensor:
    """At most `MOST_NEIGHBOURHOODS` of the features, evenly spread over them."""
    return features[:: -(-len(features) // MOST_NEIGHBOURHOODS)]


def _metric(real: Tensor) -> FrechetInceptionDistance:
    """The metric, told the real features: its network is the identity."""
    identity = nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]
    metric = FrechetInceptionDistance(identity, reset_real_features=False)
    metric.update(real.double(), real=True)
    return metric


def _bootstrap(samples: Tensor, real: Tensor, distance: float, seed: int) -> np.ndarray:
    metric, generator = _metric(real), torch.Generator().manual_seed(seed)
    draws = []
    for _ in range(RESAMPLES):
        metric.reset()
        rows = torch.randint(len(samples), (len(samples),), generator=generator)
        metric.update(samples[rows].double(), real=False)
        draws.append(float(metric.compute()))
    return np.array(draws) - np.mean(draws) + distance


def _radii(features: Tensor) -> Tensor:
    """Distance of each feature (N, F) to its k-th nearest neighbour among the others, (N,)."""
    # The nearest of all is the feature itself.
    nearest = [torch.cdist(part, features).kthvalue(NEIGHBOURS + 1).values for part in features.split(BLOCK)]
    return torch.cat(nearest)


def _within(points: Tensor, centres: Tensor, radii: Tensor) -> np.ndarray:
    """Whether each of ``points`` (N, F) lies in a ball round ``centres`` (M, F) with ``radii`` (M,); (N,)."""
    return torch.cat([(torch.cdist(part, centres) <= radii).any(1) for part in points.split(BLOCK)]).numpy()
