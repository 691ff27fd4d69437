"""Training from Python: the lines of the documentation, and that they are the command's training."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shortcut_policy import (
    DemonstrationDataset,
    EpisodeWriter,
    Field,
    InputError,
    Policy,
    Trainer,
    TrainerConfig,
    load_policy,
    recipe,
)
from shortcut_policy.commands.train import make_dataset, read_training, run
from shortcut_policy.training.log import read_log
from tests.conftest import Compose

ROOT = Path(__file__).resolve().parents[1]


def test_ten_lines_train_a_policy(tmp_path: Path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text("utf-8")
    (code,) = re.findall(r"<!-- ten lines -->\n```python\n(.*?)```", text, flags=re.S)
    assert len([line for line in code.splitlines() if line]) == 10
    small = code.replace("max_steps=1000, warmup_steps=100", "max_steps=3, warmup_steps=1, batch_size=4")
    assert small != code
    monkeypatch.chdir(tmp_path)
    with EpisodeWriter("reach.zarr") as writer:
        for seed in range(3):
            state = np.random.default_rng(seed).uniform(-1, 1, (20, 4)).astype(np.float32)
            writer.add_episode({"state": state, "action": state[:, :2]})
    names: dict = {}
    exec(small, names)
    assert re.fullmatch(r"\[ *\S+ +\S+ *\]\n", capsys.readouterr().out)
    metadata = load_policy("runs/reach_python").metadata
    known = {
        "method": "shortcut",
        "backbone": "conditional_unet1d",
        "dataset": "reach.zarr",
        "train_steps": 3,
    }
    assert known.items() <= metadata.items()
    assert metadata["task"] == {"name": "reach", "env": None}
    assert metadata["train_episodes"] == 2 and metadata["train_windows"] == len(names["dataset"])
    assert {"commit", "command", "parameters", "train_nfe_per_step", "seed"} <= metadata.keys()
    described = json.loads(Path("runs/reach_python/checkpoints/step_00000003/policy.json").read_text())
    assert described["policy"] == names["policy"].spec


@pytest.fixture(scope="module")
def dataset(compose_config: Compose) -> DemonstrationDataset:
    return make_dataset(read_training(compose_config()))


@pytest.fixture(scope="module")
def config(compose_config: Compose) -> TrainerConfig:
    """20 updates with a checkpoint in the middle."""
    return read_training(compose_config()).trainer


def build(dataset: DemonstrationDataset) -> Policy:
    obs = {name: field for name, field in dataset.fields.items() if name != "action"}
    small = recipe("backbone", "unet", down_dims=[16, 32], embedding_dim=16)
    return Policy.build(obs, dataset.fields["action"], backbone=small, task="pusht_human")


def train(dataset, config, output: Path, **options) -> Policy:
    return Trainer(build(dataset), dataset, config, output, cpu=True, **options).fit()


def assert_same_weights(policy: Policy, other: Policy) -> None:
    expected = other.state_dict()
    assert policy.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in policy.state_dict().items())


@pytest.fixture(scope="module")
def trained(dataset, config, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "python"
    returned = train(dataset, config, output)
    assert not returned.training
    assert_same_weights(load_policy(output), returned)
    return output


def test_it_is_the_training_of_the_command(trained: Path, compose_config: Compose, tmp_path: Path):
    """The same bits, the same log and the same description, but for what the command alone knows."""
    run(compose_config(f"output={tmp_path / 'command'}"))
    ours, theirs = load_policy(trained), load_policy(tmp_path / "command")
    assert_same_weights(ours, theirs)
    assert ours.spec == theirs.spec
    differ = {key for key in ours.metadata if ours.metadata[key] != theirs.metadata[key]}
    assert ours.metadata.keys() == theirs.metadata.keys()
    assert differ <= {"task", "train_seconds"} and ours.metadata["task"]["name"] == "pusht_human"
    losses = [[one["loss"] for one in read_log(folder)] for folder in (trained, tmp_path / "command")]
    assert losses[0] == losses[1] and len(losses[0]) > 4


@pytest.mark.parametrize("by", ["argument", "method"])
def test_a_run_that_broke_off_goes_on_as_if_it_had_not(
    trained: Path, dataset, config, tmp_path: Path, by: str
):
    def break_off(model: Policy, step: int) -> dict[str, float]:
        raise RuntimeError("the simulator broke")

    with pytest.raises(RuntimeError, match="simulator"):
        train(dataset, replace(config, rollout_every=10), tmp_path, rollouts=break_off)
    assert load_policy(tmp_path).metadata["train_steps"] == 10
    with pytest.raises(InputError, match="already holds a run; give resume=true"):
        train(dataset, config, tmp_path)
    if by == "argument":
        train(dataset, config, tmp_path, resume=True)
    else:
        trainer = Trainer(load_policy(tmp_path), dataset, config, tmp_path, cpu=True)
        trainer.resume()
        assert trainer.step == 10
        trainer.fit()
    assert_same_weights(load_policy(tmp_path), load_policy(trained))
    assert "init_from" not in load_policy(tmp_path).metadata


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"learning_rate": 2e-3}, "trainer.learning_rate=0.001, not 0.002"),
        ({"batch_size": 8}, "batch_size=16, not 8"),
    ],
)
def test_a_run_goes_on_with_its_own_settings(trained: Path, dataset, config, changed, named):
    with pytest.raises(InputError, match=f"was trained with .*{named}"):
        train(dataset, replace(config, **changed), trained, resume=True)


def test_a_run_goes_on_with_its_own_policy(trained: Path, dataset, config):
    policy = build(dataset)
    other = Policy.from_spec({**policy.spec, "obs_noise": 0.1})
    with pytest.raises(InputError, match=r"was trained with policy.obs_noise=None, not 0.1"):
        Trainer(other, dataset, config, trained, cpu=True, resume=True).fit()


def test_the_command_and_python_do_not_go_on_with_each_others_runs(
    trained: Path, dataset, config, compose_config: Compose, tmp_path: Path
):
    """The same training, and the sentence is not about the settings, in which they would seem to differ."""
    with pytest.raises(InputError, match=r"was begun in Python and can only go on there, .*: use Trainer\("):
        run(compose_config(f"output={trained}", "resume=true"))
    run(compose_config(f"output={tmp_path}", "trainer.max_steps=2"))
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(InputError, match=r"was begun by the command and can only go on there, .* its res"):
        train(dataset, config, tmp_path, resume=True)
    assert (tmp_path / "config.yaml").read_text() == before


def test_a_policy_that_was_trained_says_where_it_began(trained: Path, dataset, config, tmp_path: Path):
    policy = load_policy(trained)
    policy.metadata["remark"] = "mine"
    policy = Trainer(policy, dataset, replace(config, max_steps=2), tmp_path, cpu=True).fit()
    assert policy.metadata["train_steps"] == policy.metadata["max_steps"] == 2
    assert policy.metadata["init_from"]["train_steps"] == 20
    assert policy.metadata["task"]["name"] == "pusht_human"
    assert "remark" not in policy.metadata, "what was said of the old policy does not hold of the new one"


def test_the_policy_that_was_given_is_the_trained_one(dataset, config, tmp_path: Path):
    """Not the weights of the last update, which the checkpoint does not hold, with dropout on."""
    policy = build(dataset)
    Trainer(policy, dataset, replace(config, max_steps=3), tmp_path, cpu=True).fit()
    assert_same_weights(policy, load_policy(tmp_path))
    assert not policy.training and policy.metadata["train_steps"] == 3
    lengths = np.diff(dataset.source.episode_ends, prepend=0)[dataset.train_episodes]
    assert policy.metadata["episode_steps"] == np.median(lengths)


def test_a_run_that_its_own_policy_makes_longer_keeps_what_was_said(dataset, config, tmp_path: Path):
    """It has been trained, but did not begin from itself; in the given policy as in the checkpoint."""
    policy = build(dataset)
    policy.metadata["remark"] = "mine"
    Trainer(policy, dataset, replace(config, max_steps=1), tmp_path, cpu=True).fit()
    Trainer(policy, dataset, replace(config, max_steps=2), tmp_path, cpu=True, resume=True).fit()
    for found in (policy.metadata, load_policy(tmp_path).metadata):
        assert (found["train_steps"], found["max_steps"], found["remark"]) == (2, 2, "mine")
        assert "init_from" not in found


def test_what_its_user_says_of_a_policy_stays(dataset, config, tmp_path: Path):
    policy = build(dataset)
    policy.metadata |= {"method": "mine", "remark": [1, 2]}
    trainer = Trainer(policy, dataset, config, tmp_path, cpu=True)
    assert policy.normalizer.fitted
    found = trainer.ema_model.metadata
    assert (found["method"], found["remark"], found["objective"]) == ("mine", [1, 2], "shortcut")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"horizon": 20}, "the policy has horizon=20 and the data set 16"),
        ({"action": Field("action", (3,))}, r"field 'action' has shape=\(3,\), and the data set's \(2,\)"),
        (
            {"action": Field("action", (2,), normalize="gaussian")},
            "normalize=gaussian, and the data set's limits",
        ),
        ({"obs": {"keypoint": Field("keypoint", (9, 2))}}, "the policy has the fields keypoint, action, and"),
    ],
)
def test_data_that_do_not_fit_the_policy(dataset, config, tmp_path: Path, change, sentence):
    obs = {name: field for name, field in dataset.fields.items() if name != "action"}
    parts = {"obs": obs, "action": dataset.fields["action"], "backbone": "mlp", **change}
    with pytest.raises(InputError, match=sentence):
        Trainer(Policy.build(**parts), dataset, config, tmp_path / "run", cpu=True)
    assert not (tmp_path / "run").exists()


def test_a_policy_without_specification_is_refused_before_it_is_trained(dataset, config, tmp_path: Path):
    policy = build(dataset)
    policy.spec = {}
    with pytest.raises(InputError, match=r"no specification, .* build it with Policy.build"):
        Trainer(policy, dataset, config, tmp_path, cpu=True)
