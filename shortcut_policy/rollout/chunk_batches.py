"""Batched calls of a policy in which an episode's actions never depend on its neighbours."""

import math
import time
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces

from shortcut_policy.adaptive import Steps, check_steps
from shortcut_policy.control import chunk_generator
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy


class Acted(NamedTuple):
    """Action chunks of N episodes.

    Attributes:
        actions: (N, horizon - n_obs_steps + 1, A) in environment units, from the last observed step on.
        milliseconds: (N,), of the call that produced each.
        evaluations: (N,), network evaluations that each took.
        gaps: (N,), self-consistency gaps; None if the steps were fixed.
    """

    actions: np.ndarray
    milliseconds: np.ndarray
    evaluations: np.ndarray
    gaps: np.ndarray | None


class ChunkActor:
    """Asks the policy for the action chunks of many episodes, in batches where every episode keeps its row.

    Episode i sits in row i % ``batch_size`` of an inference batch that always has ``batch_size`` rows; the
    others are padding. A row's floating-point operations depend on the shape of the batch and on the row's
    place in it (through vectorisation and the split over threads), but never on what the other rows hold.
    So an episode's actions are the same bits whichever episodes happen to run beside it.

    Args:
        policy: The policy.
        episode_seeds: Seeds of all episodes of the rollout; an episode's index points into them.
        steps: Sampling steps; automatic ones are decided for each row by itself.
        seed: Of the sampling noise.
        batch_size: Rows of every inference batch.
        guidance: See `Policy.act`.

    Raises:
        InputError: the objective does not sample with ``steps``.
    """

    def __init__(
        self,
        policy: Policy,
        episode_seeds: Sequence[int],
        steps: Steps,
        seed: int,
        batch_size: int,
        guidance: float | None = None,
    ) -> None:
        check_steps(policy.objective, steps)
        self._policy, self._steps, self._guidance = policy, steps, guidance
        self._episode_seeds, self._seed, self._batch_size = episode_seeds, seed, batch_size

    def __call__(
        self,
        obs: dict[str, np.ndarray],
        episodes: np.ndarray,
        chunk: int,
        prefix: np.ndarray | None = None,
    ) -> Acted:
        """The chunks number ``chunk`` of the ``episodes`` (N,), increasing indices.

        Args:
            obs: Their observation stacks, (N, n_obs_steps, *shape) each.
            episodes: Indices of the episodes.
            chunk: Index of the chunk in its episode, the same for all.
            prefix: (N, k, A), see `Policy.act`.
        """
        last_observed = self._policy.n_obs_steps - 1
        shape = (len(episodes), self._policy.horizon - last_observed, self._policy.action_dim)
        actions = np.empty(shape, np.float32)
        milliseconds, gaps = np.empty(len(episodes)), np.empty(len(episodes))
        evaluations = np.empty(len(episodes), int)
        for _, members in groupby(range(len(episodes)), key=lambda n: episodes[n] // self._batch_size):
            block = list(members)
            rows = episodes[block] % self._batch_size
            batch = {name: self._spread(obs[name][block], rows) for name in self._policy.obs_shapes}
            generators = [torch.Generator()] * self._batch_size
            for row, episode in zip(rows, episodes[block], strict=True):
                generators[row] = chunk_generator(self._seed, self._episode_seeds[episode], chunk)
            start = time.perf_counter()
            given = None if prefix is None else self._spread(prefix[block], rows)
            found = self._policy.predict_with_cost(batch, self._steps, generators, self._guidance, given)
            # Copying to the host waits for the device, so the clock stops when the actions are there.
            batch_actions = found.x[:, last_observed:].cpu().numpy()
            milliseconds[block] = 1000 * (time.perf_counter() - start)
            actions[block] = batch_actions[rows]
            evaluations[block] = found.evaluations.cpu().numpy()[rows]
            gaps[block] = np.nan if found.gap is None else found.gap.cpu().numpy()[rows]
        return Acted(actions, milliseconds, evaluations, None if isinstance(self._steps, int) else gaps)

    def _spread(self, values: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """Put ``values`` (N, ...) into ``rows`` of a batch; padding repeats the first, to stay in range."""
        batch = np.repeat(values[:1], self._batch_size, axis=0)
        batch[rows] = values
        # Bytes stay bytes: as floats, a dark picture would pass for one that was divided by 255.
        kept = batch.astype(np.float32) if batch.dtype.kind == "f" else batch
        return torch.from_numpy(kept).to(self._policy.device)


def check_environment(policy: Policy, observations: spaces.Space, actions: spaces.Space) -> None:
    """Compare the spaces of an `ActionChunkEpisode` with what ``policy`` was trained on.

    Raises:
        InputError: an observation is missing or has another shape, or the actions have another dimension.
    """
    if not isinstance(observations, spaces.Dict) or actions.shape is None:
        raise InputError(
            f"the environment must have a dictionary of observations and array actions, not {observations} "
            f"and {actions}"
        )
    found = {name: space.shape[1:] for name, space in observations.items() if space.shape}
    expected = {name: tuple(shape) for name, shape in policy.obs_shapes.items()}
    action_dim = math.prod(actions.shape[1:])
    if any(found.get(name) != shape for name, shape in expected.items()) or action_dim != policy.action_dim:
        raise InputError(
            f"the policy was trained on task '{policy.metadata['task']['name']}' with observations "
            f"{_describe(expected)} and {policy.action_dim} action dimensions, but the environment gives "
            f"{_describe(found)} and takes {action_dim}: roll it out in the environment of its own task"
        )


def _describe(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
