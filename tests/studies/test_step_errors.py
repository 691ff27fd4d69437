"""Few steps against many: distance, bias and spread of samples that are known."""

import json

import pytest
import torch
from hydra import compose, initialize_config_dir

from shortcut_policy.commands.train import read_training
from shortcut_policy.commands.train import run as train
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import FlowMatching
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import load_policy
from shortcut_studies import CONFIGS
from shortcut_studies import step_errors as module
from shortcut_studies.step_errors import held_out, step_errors, visited


class Known(FlowMatching):
    """128 steps give 0.2 times the noise; fewer are wrong in a way of their own."""

    def sample(self, net, noise, cond, steps, generator=None):
        wrong = {
            1: lambda: 0.3,  # the same for all noise
            2: lambda: 0.4 * noise.sign(),  # of mean zero over the noise
            4: lambda: torch.randn(noise.shape, generator=generator),
        }
        return 0.2 * noise + wrong.get(steps, float)()


@pytest.fixture
def known(tiny_policy, monkeypatch):
    monkeypatch.setattr(tiny_policy, "objective", Known())
    return tiny_policy


def test_distance_bias_and_spread_of_known_errors(known):
    one, two, many = step_errors(known, torch.zeros(50, 40), [1, 2, 128], 128, noises=20)
    assert one["distance"] == pytest.approx(0.3, rel=1e-5) and one["bias"] == pytest.approx(0.3, rel=1e-5)
    assert two["distance"] == pytest.approx(0.4, rel=1e-5) and two["bias"] < 0.02
    assert many["distance"] == many["bias"] == 0
    assert one["spread"] == pytest.approx(0.2, rel=0.02)


def test_samplers_that_draw_noise_on_the_way_are_refused(known):
    with pytest.raises(InputError, match=r"Known draws noise while it samples 4 steps.*leave that"):
        step_errors(known, torch.zeros(2, 40), [4], 128, noises=4)
    with pytest.raises(InputError, match="noises=1 must be a whole number from 2 on"):
        step_errors(known, torch.zeros(2, 40), [1], 128, noises=1)


@pytest.mark.slow
def test_command_writes_what_it_found_on_both_kinds_of_states(compose_config, tmp_path, monkeypatch):
    output = tmp_path / "run"
    config = compose_config(f"output={output}")
    policy_folder = train(config)
    monkeypatch.setattr(module, "visited", lambda policy, *_: torch.zeros(3, 40))
    overrides = [f"policies.shortcut={policy_folder}", "states=5", "noises=4", "steps=[1,2]"]
    with initialize_config_dir(str(CONFIGS), version_base=None):
        module.run(compose("step_errors", [*overrides, f"output={tmp_path / 'errors'}"]))
    rows = json.loads((tmp_path / "errors.json").read_text())["rows"]
    assert [(row["where"], row["states"], row["steps"]) for row in rows] == [
        ("met in rollouts", 3, 1),
        ("met in rollouts", 3, 2),
        ("held out", 5, 1),
        ("held out", 5, 2),
    ]
    assert all(row["distance"] > row["bias"] >= 0 and row["spread"] > 0 for row in rows)
    assert (tmp_path / "errors.md").read_text().count("| shortcut |") == 4


def test_a_run_without_held_out_episodes_is_refused(compose_config, tiny_policy):
    with pytest.raises(InputError, match="held no episodes out"):
        held_out(tiny_policy, read_training(compose_config("data.val_fraction=0")), 5, 0)


def test_states_are_those_of_rollouts_and_each_is_there_once():
    policy = load_policy(CONFIG_DIR.parent / "pretrained/pusht")
    policy.metadata["task"]["env"]["max_steps"] = 20
    found = visited(policy, episodes=2, states=100, seed=200_000)
    assert len(found) == 2 * 3 == len(torch.unique(found, dim=0))
    again = visited(policy, episodes=2, states=4, seed=200_000)
    assert len(again) == 4
