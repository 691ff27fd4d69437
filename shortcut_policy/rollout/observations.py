"""Observations as a policy meets them when it plays, to compare its exports on."""

from collections.abc import Callable

import gymnasium
import numpy as np
import torch
from torch import Tensor

from shortcut_policy.policy import Policy
from shortcut_policy.rollout.chunk_batches import check_environment
from shortcut_policy.rollout.episode import ActionChunkEpisode

CHUNKS = 10


def record_observations(
    policy: Policy, make_env: Callable[[], gymnasium.Env], count: int, seed: int = 0
) -> dict[str, Tensor]:
    """Histories of observations, name -> (count, n_obs_steps, *shape), from several episodes.

    Args:
        policy: It plays, with one step or whatever its runtime takes, a few chunks of each episode.
        make_env: Makes the environment of its task.
        count: How many.
        seed: Of the first episode; the others follow it.

    Raises:
        InputError: The environment does not fit the policy.
    """
    steps = 1 if policy.runtime is None else policy.runtime.steps
    found: list[dict[str, np.ndarray]] = []
    episode = ActionChunkEpisode(make_env(), policy.n_obs_steps, policy.n_action_steps, policy.obs_shapes)
    try:
        check_environment(policy, episode.observation_space, episode.action_space)
        while len(found) < count:
            stacked, _ = episode.reset(seed=seed)
            generator = torch.Generator().manual_seed(seed)
            for _ in range(CHUNKS):
                obs = {name: np.array(stacked[name])[None] for name in policy.obs_shapes}
                found.append(obs)
                stacked, *_ = episode.step(policy.act(obs, steps, generator)[0].cpu().numpy())
            seed += 1
    finally:
        episode.close()
    rows = {name: torch.from_numpy(np.concatenate([obs[name] for obs in found[:count]])) for name in found[0]}
    return {name: x if x.dtype == torch.uint8 else x.float() for name, x in rows.items()}
