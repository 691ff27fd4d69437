"""A distribution in the plane whose truth is known: what few steps can and cannot do, in seconds of training.

It is a task like any other (``task=two_modes``): its points are the demonstrations, one action each, under an
observation that says nothing. Trainer, objectives and checkpoints are those of every task.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import wasserstein_distance

from shortcut_policy.build import build
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy

#: Points on each side of a comparison.
SAMPLES = 4000
#: Step counts that are compared.
STEPS = (1, 2, 4, 32)
_DATA_SEED = 2


class Mixture:
    """Points of a mixture of equal round Gaussians, as an episode source (see `data.EpisodeSource`).

    Args:
        modes: Centres, (K, 2).
        width: Standard deviation of each Gaussian.
        points: In all, over the episodes.
        episodes: The points are dealt into so many, of which some can be held out.
        seed: Of the points.
    """

    def __init__(
        self,
        modes: Sequence[Sequence[float]],
        width: float,
        points: int = 20_000,
        episodes: int = 20,
        seed: int = 0,
    ) -> None:
        self.path = f"mixture_of_{len(modes)}"
        self.modes, self.width = np.asarray(modes, np.float64), width
        self.rows = {
            "point": self.draw(points, np.random.default_rng(seed)),
            "nothing": np.zeros((points, 1), np.float32),
        }
        self.keys = tuple(self.rows)
        self.shapes = {key: rows.shape[1:] for key, rows in self.rows.items()}
        self.dtypes = {key: rows.dtype for key, rows in self.rows.items()}
        self.episode_ends = np.linspace(0, points, episodes + 1)[1:].astype(np.int64)

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of ``point``, (N, 2), or ``nothing``, (N, 1)."""
        return self.rows[key][start:stop]

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """New points of the distribution, (n, 2) float32."""
        centres = self.modes[rng.integers(len(self.modes), size=n)]
        return (centres + self.width * rng.standard_normal((n, 2))).astype(np.float32)


def source_of(config: Mapping[str, Any]) -> Mixture | None:
    """The points that a run learned from, by its stored configuration; None if its task is not a toy."""
    source = config["task"]["source"]
    # Looked up by name: a stored configuration must not choose what is built.
    if source.get("_target_") != f"{Mixture.__module__}.{Mixture.__name__}":
        return None
    found: Mixture = build(source)
    return found


def sample(policy: Policy, steps: int, n: int = SAMPLES, seed: int = 1) -> np.ndarray:
    """Points that a policy makes in ``steps`` steps, (n, 2)."""
    nothing = {name: torch.zeros(n, policy.n_obs_steps, *shape) for name, shape in policy.obs_shapes.items()}
    return policy.act(nothing, steps, torch.Generator().manual_seed(seed))[:, 0].numpy()


def distance_to_data(points: np.ndarray, source: Mixture) -> float:
    """Sliced Wasserstein-1 distance of ``points`` (n, 2) to as many new points of the distribution.

    The mean over 32 directions of the half circle. Of perfect samples it is not 0: see `sampling_error`.
    """
    data = source.draw(len(points), np.random.default_rng(_DATA_SEED))
    angles = np.linspace(0, np.pi, 32, endpoint=False)
    axes = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.mean([wasserstein_distance(points @ axis, data @ axis) for axis in axes.T]))


def sampling_error(source: Mixture, n: int = SAMPLES) -> float:
    """The distance of perfect samples: of new points to new points, mean of ten draws."""
    draws = [source.draw(n, np.random.default_rng((_DATA_SEED, i))) for i in range(10)]
    return float(np.mean([distance_to_data(draw, source) for draw in draws]))


def distances(policy: Policy, source: Mixture) -> dict[int, float]:
    """Steps -> `distance_to_data`, for those of ``STEPS`` that the policy can take."""
    found = {}
    for steps in STEPS:
        try:
            found[steps] = distance_to_data(sample(policy, steps), source)
        except InputError:
            continue
    return found
