"""A policy that records demonstrations."""

import numpy as np
import pytest

from shortcut_envs.pusht.physics import PushTSimulator, PushTState
from shortcut_policy import save_policy
from shortcut_policy.data import bundled
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.rollout.policy_expert import PolicyExpert


@pytest.fixture
def expert(tiny_policy, tmp_path, monkeypatch) -> PolicyExpert:
    save_policy(tiny_policy, tmp_path / "policy")
    return PolicyExpert(tmp_path / "policy", steps=1)


def test_only_successes_are_kept_and_a_seed_decides_their_bytes(expert, monkeypatch):
    assert expert.episode(np.random.default_rng(0)) is None, "an untrained policy does not succeed"
    step = expert._env.step

    def lucky(action):
        obs, reward, _, truncated, info = step(action)
        info["is_success"] = True
        return obs, reward, True, truncated, info

    monkeypatch.setattr(expert._env, "step", lucky)
    one, again, other = (expert.episode(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert one.keys() == {"agent_pos", "keypoint", "state", "action"}
    assert all(
        np.array_equal(one[key], again[key]) and value.dtype == np.float32 for key, value in one.items()
    )
    assert not np.array_equal(one["state"], other["state"])
    np.testing.assert_array_equal(one["state"][:, :2], one["agent_pos"])


def test_the_bundled_episodes_are_the_shipped_policy_s_successes():
    source = bundled("pusht_policy")
    shipped = PolicyExpert(CONFIG_DIR.parent / "pretrained" / "pusht", steps=16)
    assert {**shipped.attributes, "seed": 0} == source.attributes
    assert len(source.episode_ends) == 320
    simulator = PushTSimulator()
    for episode in (0, 100, 319):
        start, stop = episode_rows(source, episode)
        states, actions = (source.read(key, start, stop).astype(float) for key in ("state", "action"))
        simulator.set_state(PushTState.at_rest(states[0]))
        coverage = 0.0
        for action in actions:
            simulator.step(action)
            coverage = max(coverage, simulator.coverage())
        # Not from the very state, whose last digits and speeds are not kept.
        assert coverage > 0.8
        np.testing.assert_array_equal(source.read("agent_pos", start, stop), states[:, :2].astype(np.float32))


def test_what_cannot_be_an_expert_is_refused(tiny_policy, tmp_path):
    save_policy(tiny_policy, tmp_path / "policy")
    with pytest.raises(InputError, match=r"expert\.steps=0 must be"):
        PolicyExpert(tmp_path / "policy", steps=0)
    with pytest.raises(InputError, match="steps=3 cannot be sampled"):
        PolicyExpert(tmp_path / "policy", steps=3)
