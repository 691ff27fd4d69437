"""A distribution in the plane whose truth is known: what few steps can and cannot do, after seconds of training.

It is a task like any other (``configs/task/two_modes.yaml``): its points are the demonstrations, one action
each, under an observation that says nothing. So the trainer, objectives and checkpoints are those of every task.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.stats import wasserstein_distance

from shortcut_policy.policy import Policy

#: Points on each side of a comparison.
SAMPLES = 4000


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


def sample(policy: Policy, steps: int, n: int = SAMPLES, seed: int = 1) -> np.ndarray:
    """Points that a policy makes in ``steps`` steps, (n, 2)."""
    nothing = {name: torch.zeros(n, policy.n_obs_steps, *shape) for name, shape in policy.obs_shapes.items()}
    return policy.act(nothing, steps, torch.Generator().manual_seed(seed))[:, 0].numpy()


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, directions: int = 32) -> float:
    """Wasserstein-1 distance of point sets (n, 2), the mean over directions of the half circle."""
    angles = np.linspace(0, np.pi, directions, endpoint=False)
    axes = np.stack([np.cos(angles), np.sin(angles)])
    return float(np.mean([wasserstein_distance(a @ axis, b @ axis) for axis in axes.T]))
