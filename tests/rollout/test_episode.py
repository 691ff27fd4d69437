import json

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from shortcut_policy.errors import InputError
from shortcut_policy.rollout.episode import ActionChunkEpisode, EpisodeResult


class CountingEnv(gymnasium.Env):
    """Observes its step number; the reward is the action; succeeds at step 3 alone."""

    observation_space = spaces.Dict(count=spaces.Box(-1000, 1000, (1,), np.float32))
    action_space = spaces.Box(-10, 10, (1,), np.float32)

    def __init__(self, length=1000, terminate_at=None):
        self.max_steps, self.terminate_at = length, terminate_at

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return self._obs(), {}

    def step(self, action):
        self.count += 1
        terminated = self.count == self.terminate_at
        info = {"is_success": self.count == 3}
        return self._obs(), float(action[0]), terminated, self.count >= self.max_steps, info

    def _obs(self):
        return {"count": np.array([self.count], np.float32)}


def test_an_environment_that_reports_no_success_is_refused():
    class Silent(CountingEnv):
        def step(self, action):
            return *super().step(action)[:4], {"coverage": 0.5}

    episode = ActionChunkEpisode(Silent(), n_obs_steps=1, n_action_steps=2)
    episode.reset(seed=0)
    with pytest.raises(InputError, match="must hold is_success after every step, and holds coverage"):
        episode.step(chunk(1.0))


def chunk(*rewards):
    return np.array(rewards, np.float32)[:, None]


def counts(obs):
    return obs["count"][:, 0].tolist()


def test_history_repeats_the_first_observation_then_rolls():
    env = ActionChunkEpisode(CountingEnv(), n_obs_steps=3, n_action_steps=2)
    obs, _ = env.reset(seed=0)
    assert counts(obs) == [0, 0, 0]
    obs, *_ = env.step(chunk(0, 0))
    assert counts(obs) == [0, 1, 2]
    obs, *_ = env.step(chunk(0, 0))
    assert counts(obs) == [2, 3, 4]
    assert obs in env.observation_space
    assert counts(env.reset(seed=0)[0]) == [0, 0, 0]


def test_best_score_and_success_are_latched():
    env = ActionChunkEpisode(CountingEnv(), n_obs_steps=1, n_action_steps=3)
    env.reset(seed=0)
    *_, info = env.step(chunk(0.5, 0.9, 0.1))
    assert (info["score"], info["success"], info["length"]) == (pytest.approx(0.9), True, 3)
    _, reward, terminated, truncated, info = env.step(chunk(0.2, 0.3, -1.0))
    assert info["score"] == pytest.approx(0.9)
    assert info["success"] is True, "success at step 3 must not be forgotten at step 6"
    assert info["total_reward"] == pytest.approx(1.0)
    assert reward == pytest.approx(-0.5)
    assert not (terminated or truncated or info["finished"])


def test_score_is_the_largest_reward_even_if_all_are_negative():
    env = ActionChunkEpisode(CountingEnv(), n_obs_steps=1, n_action_steps=2)
    env.reset(seed=0)
    assert env.step(chunk(-3, -2))[-1]["score"] == -2


def test_a_score_of_the_environment_s_own_counts_in_place_of_the_reward():
    env = CountingEnv()
    step = env.step
    env.step = lambda action: (*(found := step(action))[:4], {**found[4], "score": env.count / 10})
    episode = ActionChunkEpisode(env, n_obs_steps=1, n_action_steps=2)
    episode.reset(seed=0)
    assert episode.step(chunk(-3, -2))[-1]["score"] == 0.2


@pytest.mark.parametrize("ending", [{"length": 4}, {"terminate_at": 4}])
def test_a_chunk_is_cut_where_the_episode_ends_and_then_nothing_happens(ending):
    env = ActionChunkEpisode(CountingEnv(**ending), n_obs_steps=2, n_action_steps=3)
    env.reset(seed=0)
    env.step(chunk(0, 0, 0))
    obs, reward, terminated, truncated, info = env.step(chunk(1, 7, 7))
    assert counts(obs) == [3, 4]
    assert (reward, info["finished"], info["length"], info["score"]) == (1.0, True, 4, 1.0)
    assert not terminated and not truncated, "a vector environment must be able to go on stepping it"
    after, reward, *_, again = env.step(chunk(9, 9, 9))
    assert (reward, counts(after), again) == (0.0, [3, 4], info)
    assert env.reset(seed=0)[1]["finished"] is False


def test_a_vector_without_autoreset_plays_every_episode_once():
    lengths = [2, 5, 9]
    envs = SyncVectorEnv(
        [lambda n=n: ActionChunkEpisode(CountingEnv(n), 1, 2) for n in lengths],
        autoreset_mode=AutoresetMode.DISABLED,
    )
    envs.reset(seed=[0, 1, 2])
    for _ in range(6):
        *_, info = envs.step(np.ones(envs.action_space.shape, np.float32))
    assert info["length"].tolist() == lengths
    assert info["total_reward"].tolist() == lengths
    assert info["finished"].all()


def test_results_compare_by_what_happened_and_not_by_the_clock():
    values = dict(
        seed=3,
        total_reward=1.5,
        score=0.5,
        success=False,
        length=9,
        chunks=2,
        network_evaluations=(3, 7),
        gaps=(0.1, 0.2),
    )
    a = EpisodeResult(**values, latencies_ms=(1.0, 3.0))
    assert a == EpisodeResult(**values, latencies_ms=(2.0,))
    assert a != EpisodeResult(**{**values, "score": 0.51}, latencies_ms=(1.0, 3.0))
    line = json.loads(a.to_json())
    assert line["latency_ms"] == 2.0
    assert (line["network_evaluations"], line["gap"]) == (5, 0.15)
    fixed = EpisodeResult(**{**values, "network_evaluations": (4, 4), "gaps": ()}, latencies_ms=(1.0,))
    assert '"network_evaluations": 4, "gap": null' in fixed.to_json()
    assert (line["seed"], line["return"], line["score"], line["success"]) == (3, 1.5, 0.5, False)
