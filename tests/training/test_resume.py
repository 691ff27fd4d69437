"""What may change when a run goes on, and what then happens to the learning rate."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
import zarr

from shortcut_policy.checkpoint import list_checkpoints, load_training_state, read_description
from shortcut_policy.commands.train import make_dataset, read_training, run
from shortcut_policy.errors import InputError
from shortcut_policy.training.parts import make_model, prepare
from shortcut_policy.training.trainer import Trainer
from tests.conftest import Compose
from tests.training.test_trainer import assert_equal_states, final_state, read_log

EVERY = ("trainer.log_every=1", "trainer.validate_every=0")


@pytest.fixture(scope="module")
def straight(compose_config: Compose, tmp_path_factory) -> Path:
    """A run of 20 updates without an interruption."""
    return run(compose_config(*EVERY, f"output={tmp_path_factory.mktemp('straight') / 'run'}"))


@pytest.fixture(scope="module")
def short(compose_config: Compose, tmp_path_factory) -> Path:
    """One of 10."""
    folder = tmp_path_factory.mktemp("short") / "run"
    return run(compose_config(*EVERY, "trainer.max_steps=10", f"output={folder}"))


def assert_same_training(a: Path, b: Path) -> None:
    ours, theirs = final_state(a), final_state(b)
    for part in ("policy", "ema", "optimizers", "schedules", "step", "torch_rng"):
        assert_equal_states(ours[part], theirs[part])


def test_a_run_stopped_by_its_simulator_goes_on_without_it_and_otherwise_watched(
    compose_config: Compose, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any, **more: Any) -> None:
        raise OSError("the display is gone")

    monkeypatch.setattr("shortcut_policy.rollout.in_training.rollout", fail)
    output = f"output={tmp_path / 'run'}"
    with pytest.raises(OSError, match="the display is gone"):
        run(compose_config(*EVERY, "trainer.rollout_every=7", output))
    other = [
        "trainer.rollout_every=0",
        "trainer.rollout_episodes=3",
        "trainer.log_every=2",
        "trainer.validate_every=5",
        "trainer.keep_last=2",
        "trainer.keep_best=0",
        "trainer.checkpoint_every=3",
        "data.memory_limit_mb=0",
        "task.env=null",
        "name=another",
    ]
    assert run(compose_config(*other, "resume=true", output)) == tmp_path / "run"
    assert_same_training(tmp_path / "run", straight)
    assert [folder.name for folder in list_checkpoints(tmp_path / "run")] == [
        "step_00000018",
        "step_00000020",
    ]
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["trainer"]["rollout_every"] == 0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.learning_rate=1e-4", "trainer.learning_rate=0.001, not 0.0001"),
        ("trainer.warmup_steps=3", "trainer.warmup_steps=2, not 3"),
        ("trainer.max_steps=9", "trainer.max_steps=10, not 9"),
        ("seed=1", "seed=0, not 1"),
        (
            "objective=flow_matching",
            "objective._target_=.* its own configuration, objective=weighted_shortcut: drop the change",
        ),
        (
            "objective=shortcut",
            "objective.adaptive_power=.* its own configuration, objective=weighted_shortcut:",
        ),
    ],
)
def test_what_changes_the_training_is_refused(
    compose_config: Compose, short: Path, override: str, sentence: str
):
    settings = (*EVERY, "trainer.max_steps=10", override, "resume=true", f"output={short}")
    with pytest.raises(InputError, match=rf"was trained with {sentence}"):
        run(compose_config(*settings))


def test_data_of_other_numbers_are_refused(
    compose_config: Compose, demonstrations: Path, short: Path, tmp_path: Path
):
    """As many windows as before, of actions in other units, of which the policy has another scaling."""
    output, store = shutil.copytree(short, tmp_path / "run"), tmp_path / demonstrations.name
    shutil.copytree(demonstrations, store)
    settings = (*EVERY, "trainer.max_steps=20", "resume=true", f"task.source.path={store}")
    metadata = read_description(list_checkpoints(output)[-1])["metadata"]
    assert metadata["data_totals"] == make_dataset(read_training(compose_config(*settings))).totals()
    action = zarr.open_group(store, mode="a", use_consolidated=False)["data/action"]
    found = action[:]
    action[:] = found * np.float32(1 + 1e-7)  # as other processors round
    run(compose_config(*settings, f"output={shutil.copytree(output, tmp_path / 'rounded')}"))
    found[3] += 1  # of one row
    action[:] = found
    with pytest.raises(InputError, match=rf"other numbers of 'action' than {store.name} holds now"):
        run(compose_config(*settings, f"output={output}"))


def test_a_policy_that_was_prepared_for_other_data_tells_those_it_learned_from(
    compose_config: Compose, demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """As in a notebook, where the data were mended and the policy was not built again."""
    store = shutil.copytree(demonstrations, tmp_path / demonstrations.name)
    config = read_training(compose_config(*EVERY, f"task.source.path={store}"))
    old = make_dataset(config)
    policy = make_model(config, old)
    action = zarr.open_group(store, mode="a", use_consolidated=False)["data/action"]
    action[:] = action[:] + 1
    mended = make_dataset(config)
    prepare(policy, mended, config.trainer, 0, cpu=True)
    assert policy.metadata["data_totals"] == mended.totals() != old.totals()
    monkeypatch.setattr("shortcut_policy.data.dataset.totals", None)  # they are computed once
    prepare(policy, mended, config.trainer, 0, cpu=True)


def test_a_longer_run_follows_the_longer_cosine_and_says_so(
    compose_config: Compose, straight: Path, short: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    output = shutil.copytree(short, tmp_path / "run")
    settings = (*EVERY, "trainer.max_steps=20", "resume=true")
    run(compose_config(*settings, f"output={output}"))
    said = "trainer.max_steps is 20 and was 10: from update 10 on, the learning rate follows the cosine of a"
    assert said in capsys.readouterr().err
    rates, wanted = ([r["learning_rate"] for r in read_log(folder)] for folder in (output, straight))
    assert rates[10:] == wanted[10:] and rates[:10] == [r["learning_rate"] for r in read_log(short)]
    assert rates[9] == 0 < rates[10]
    metadata = read_description(list_checkpoints(output)[-1])["metadata"]
    assert (metadata["max_steps"], metadata["train_steps"]) == (20, 20)


def test_a_longer_run_that_is_interrupted_goes_on_bit_for_bit(
    compose_config: Compose, short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Stop(Exception):
        pass

    def save_and_stop(self: Trainer) -> None:
        save(self)
        if self.step == 14:
            raise Stop

    ends = [shutil.copytree(short, tmp_path / name) for name in ("whole", "parts")]
    settings = (*EVERY, "trainer.max_steps=20", "trainer.checkpoint_every=7", "resume=true")
    run(compose_config(*settings, f"output={ends[0]}"))
    save = Trainer._save
    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(Trainer, "_save", save_and_stop)
        run(compose_config(*settings, f"output={ends[1]}"))
    run(compose_config(*settings, f"output={ends[1]}"))
    assert_same_training(*ends)


def test_phases_with_a_teacher_cannot_be_lengthened(compose_config: Compose, tmp_path: Path):
    settings = ("objective=reflow", *EVERY, f"output={tmp_path / 'run'}")
    run(compose_config(*settings, "trainer.max_steps=10"))
    before = (tmp_path / "run/config.yaml").read_text()
    with pytest.raises(InputError, match=r"max_steps=10, not 20, and its objective divides the updates"):
        run(compose_config(*settings, "trainer.max_steps=20", "resume=true"))
    assert (tmp_path / "run/config.yaml").read_text() == before


def test_a_run_folder_of_an_earlier_release_goes_on(
    compose_config: Compose, short: Path, straight: Path, tmp_path: Path
):
    """Its configuration names the trainer's class, and its state knows no generator of a GPU."""
    older = shutil.copytree(short, tmp_path / "run")
    config = yaml.safe_load((older / "config.yaml").read_text())
    config["trainer"] = {"_target_": "shortcut_policy.training.TrainerConfig", **config["trainer"]}
    config["trainer"]["max_steps"] = 20
    (older / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    file = list_checkpoints(older)[-1] / "training_state.pt"
    state = torch.load(file, weights_only=True)
    del state["cuda_rng"]
    torch.save(state, file)
    run(compose_config(*EVERY, "trainer.max_steps=20", "resume=true", f"output={older}"))
    assert final_state(older)["step"] == 20


@pytest.mark.parametrize("older", [False, True])
def test_the_generator_of_a_pretended_gpu_is_restored(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
):
    """Where there is none: that its state is asked for, kept and given back. A real one follows below."""
    config = read_training(compose_config())
    dataset, gpu = make_dataset(config), torch.device("cuda", 0)
    states = {gpu: torch.arange(16, dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: states[device].clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.update({device: state}))
    load = load_training_state
    monkeypatch.setattr(
        "shortcut_policy.training.trainer.load_training_state",
        lambda folder, device: load(folder, torch.device("cpu")),
    )

    def make() -> Trainer:
        trainer = Trainer(make_model(config, dataset), dataset, config.trainer, tmp_path, seed=0, cpu=True)
        trainer.device = gpu
        return trainer

    trainer = make()
    trainer.step = 1
    trainer._save()
    if older:
        file = list_checkpoints(tmp_path)[-1] / "training_state.pt"
        state = torch.load(file, weights_only=True)
        torch.save({key: value for key, value in state.items() if key != "cuda_rng"}, file)
    states[gpu] = drawn_since = torch.zeros(16, dtype=torch.uint8)
    make().resume()
    assert torch.equal(states[gpu], drawn_since if older else torch.arange(16, dtype=torch.uint8))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="a GPU's generator needs a GPU")
def test_the_generator_of_a_gpu_is_restored(compose_config: Compose, tmp_path: Path):
    config = read_training(compose_config("cpu=false"))
    dataset = make_dataset(config)

    def make() -> Trainer:
        return Trainer(make_model(config, dataset), dataset, config.trainer, tmp_path, seed=0)

    trainer = make()
    torch.rand(3, device=trainer.device)  # as dropout does
    trainer.step = 1
    trainer._save()
    drawn = torch.rand(3, device=trainer.device)
    again = make()
    again.resume()
    assert torch.equal(torch.rand(3, device=again.device), drawn)
