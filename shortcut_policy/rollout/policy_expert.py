"""A trained policy as the expert that records demonstrations: ``scripts/collect.py expert=policy``."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.adaptive import say_untaught
from shortcut_policy.errors import InputError, exits_are_errors
from shortcut_policy.fingerprint import weights_hash
from shortcut_policy.policy import load_policy
from shortcut_policy.rollout.chunk_batches import check_environment
from shortcut_policy.rollout.episode import ActionChunkEpisode, CutAfter, read_end, read_success
from shortcut_policy.rollout.evaluate import environment_maker, task_of
from shortcut_policy.rollout.observed import Observed, check_finite
from shortcut_policy.settings import check_whole

#: Environment seeds of its episodes lie from here on, far from those that policies are evaluated at.
FIRST_SEED = 10_000_000


class PolicyExpert:
    """Plays a policy in the environment of its task, and keeps the episodes that end in success.

    What comes out is data that a network has shown to be learnable, without end, where a person's
    demonstrations are few or may not be passed on.

    Args:
        checkpoint: Checkpoint or run folder of the policy.
        steps: Sampling steps, see `Policy.act`.
        trust: See `load_policy`.

    Attributes:
        attributes: What a store of its demonstrations says about them.

    Raises:
        InputError: The policy cannot be loaded, has no environment or another one than it was trained for,
            or does not sample with so many steps.
    """

    def __init__(self, checkpoint: str | Path, steps: int = 16, trust: tuple[str, ...] = ()) -> None:
        check_whole("expert.steps", steps, 1)
        self._policy, self._steps = load_policy(checkpoint, trust=trust), steps
        self._policy.objective.check_steps(steps)
        say_untaught(self._policy.objective, self._policy.metadata, steps)
        env = environment_maker(self._policy, {})()
        episode = ActionChunkEpisode(env, self._policy.n_obs_steps, 1, self._policy.obs_shapes)
        check_environment(self._policy, episode.observation_space, episode.action_space)
        self._env, self._cut = Observed(env, self._policy.obs_shapes), CutAfter(env)
        self.attributes: Mapping[str, Any] = {
            "expert": "policy",
            "policy": weights_hash(self._policy),
            "task": task_of(self._policy)["name"],
            "steps": steps,
        }

    def episode(self, random: np.random.Generator) -> dict[str, np.ndarray] | None:
        """One demonstration, or None if it was no success, or if the environment failed, which is said.

        Row t holds what was seen before action t: every observation of the policy under its name, ``action``
        (T, A), and ``state`` where the ``info`` of the environment holds one and no observation is called so;
        float32, and pictures of bytes as they are.
        """
        seed = FIRST_SEED + int(random.integers(2**31))
        self._policy.reset(self._steps, seed=int(random.integers(2**31)), episode=seed)
        try:
            return self._play(seed)
        except _Failed as error:
            print(
                f"the environment failed in the episode of seed {seed}, which is left out: {error}",
                file=sys.stderr,
            )
            return None

    def _play(self, seed: int) -> dict[str, np.ndarray] | None:
        with _simulated():
            obs, info = self._env.reset(seed=seed)
            check_finite(obs, self._policy.obs_shapes)
        rows: list[dict[str, np.ndarray]] = []
        success = over = False
        while not over:
            seen = {name: obs[name] for name in self._policy.obs_shapes}
            if "state" in info:
                seen.setdefault("state", info["state"])
            action = self._policy.select_action(obs)
            # Environments may reuse their arrays: what is kept is a copy.
            rows.append({key: self._kept(key, value) for key, value in (seen | {"action": action}).items()})
            with _simulated():
                obs, _, terminated, truncated, info = self._env.step(action)
                over = read_end(self._env, terminated, truncated)
                if not over:
                    check_finite(obs, self._policy.obs_shapes)
            success |= read_success(self._env, info)
            over = over or self._cut(len(rows))
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]} if success else None

    def _kept(self, key: str, value: Any) -> np.ndarray:
        """A copy, float32; pictures of bytes as they are, which is a quarter of that."""
        pixels = key in self._policy.cameras and getattr(value, "dtype", None) == np.uint8
        return np.array(value, np.uint8 if pixels else np.float32)


class _Failed(Exception):
    """The environment raised something."""


@contextmanager
def _simulated() -> Iterator[None]:
    """Tell what an environment raises from errors of our own."""
    try:
        with exits_are_errors():
            yield
    except InputError:
        raise
    except Exception as error:  # of whatever kind: it is the simulator's
        raise _Failed(f"{type(error).__name__}: {error}") from error
