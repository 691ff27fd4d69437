"""A policy that records demonstrations."""

import gymnasium
import numpy as np
import pytest

from shortcut_envs.pusht.physics import PushTSimulator, PushTState
from shortcut_policy import Policy, recipe, save_policy
from shortcut_policy.data import bundled
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.rollout import episode as episodes
from shortcut_policy.rollout import policy_expert
from shortcut_policy.rollout.policy_expert import PolicyExpert

from .test_odd_environments import LENGTH, Diverges, Flat, NoOptions, Plain, Reused, SeesNothing


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


def test_steps_that_a_checkpoint_has_not_learned_yet_are_said(tiny_policy, tmp_path, capsys):
    early = Policy.from_spec({**tiny_policy.spec, "objective": recipe("objective", "weighted_shortcut")})
    early.normalizer.load_state_dict(tiny_policy.normalizer.state_dict())
    early.metadata = tiny_policy.metadata | {"train_steps": 10, "max_steps": 20}
    save_policy(early, tmp_path / "early")
    PolicyExpert(tmp_path / "early", steps=4)
    assert not capsys.readouterr().err
    PolicyExpert(tmp_path / "early", steps=1)
    assert capsys.readouterr().err.startswith("steps=1: this checkpoint is of update 10 of 20, ")


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


def expert_in(kind: type[Plain], policy, tmp_path, monkeypatch) -> PolicyExpert:
    """In an environment whose episodes all succeed in their third step."""

    class Solved(kind):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, reward, terminated, truncated, {**info, "is_success": self.t == 3}

    save_policy(policy, tmp_path / kind.__name__)
    monkeypatch.setattr(policy_expert, "environment_maker", lambda policy, env: Solved)
    return PolicyExpert(tmp_path / kind.__name__, steps=1)


@pytest.mark.parametrize("kind", [Flat, Reused, NoOptions])
def test_what_differs_in_form_is_recorded_as_others_are(kind, tiny_policy, tmp_path, monkeypatch):
    wanted, found = (
        expert_in(one, tiny_policy, tmp_path, monkeypatch).episode(np.random.default_rng(3))
        for one in (Plain, kind)
    )
    assert len(found["action"]) == LENGTH and found.keys() == {"agent_pos", "keypoint", "action"}
    assert all(np.array_equal(found[key], wanted[key]) for key in wanted)
    assert len(np.unique(found["agent_pos"], axis=0)) == LENGTH


@pytest.mark.parametrize(
    "kind, why",
    [
        (Diverges, "RuntimeError: the block left the table"),
        (SeesNothing, "ValueError: observation 'keypoint' holds NaN or infinity"),
    ],
)
def test_an_episode_in_which_the_simulator_fails_is_left_out(
    kind, why, tiny_policy, tmp_path, monkeypatch, capsys
):
    expert = expert_in(kind, tiny_policy, tmp_path, monkeypatch)
    found = [expert.episode(np.random.default_rng(seed)) for seed in range(6)]
    said = capsys.readouterr().err.splitlines()
    assert 0 < len(said) == sum(episode is None for episode in found) < 6
    assert f"which is left out: {why}" in said[0]


def test_pictures_stay_bytes_and_an_observation_called_state_stays(tiny_policy, tmp_path, monkeypatch):
    expert = expert_in(Plain, tiny_policy, tmp_path, monkeypatch)
    monkeypatch.setattr(expert._policy, "cameras", {"front"})
    assert expert._kept("front", np.full((2, 2, 3), 200, np.uint8)).dtype == np.uint8
    assert expert._kept("agent_pos", np.full(2, 200, np.uint8)).dtype == np.float32
    names = {"agent_pos": "state", "keypoint": "keypoint"}
    play, step = expert._env.reset, expert._env.step

    def renamed(found):
        obs, *rest, info = found
        return {names[name]: value for name, value in obs.items()}, *rest, {**info, "state": np.zeros(5)}

    monkeypatch.setattr(expert._policy, "obs_shapes", {"state": (2,), "keypoint": (9, 2)})
    monkeypatch.setattr(expert._policy, "select_action", lambda obs: np.full(2, 250.0))
    monkeypatch.setattr(expert._env, "reset", lambda **options: renamed(play(**options)))
    monkeypatch.setattr(expert._env, "step", lambda action: renamed(step(action)))
    found = expert.episode(np.random.default_rng(3))
    assert found["state"].shape == (LENGTH, 2) and found["state"].all()


def test_an_episode_that_nothing_ends_is_cut(tiny_policy, tmp_path, monkeypatch, capsys):
    class Endless(Plain):
        max_steps = None

    monkeypatch.setattr(episodes, "MOST_STEPS", 20)
    expert = expert_in(Endless, tiny_policy, tmp_path, monkeypatch)
    assert len(expert.episode(np.random.default_rng(0))["action"]) == 20
    assert "was cut after 20 steps" in capsys.readouterr().err


def test_another_environment_is_refused_before_it_plays(tiny_policy, tmp_path, monkeypatch):
    class Bare(Plain):
        observation_space = gymnasium.spaces.Dict(agent_pos=Plain.observation_space["agent_pos"])

    with pytest.raises(InputError, match=r"keypoint \[9, 2\].*but the environment gives agent_pos \[2\]"):
        expert_in(Bare, tiny_policy, tmp_path, monkeypatch)
