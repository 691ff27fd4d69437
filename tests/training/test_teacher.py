"""Phases with a frozen teacher: each a training of its own, resumed bit for bit, or taught from outside."""

import shutil
from pathlib import Path

import pytest
import torch

from shortcut_policy import load_policy
from shortcut_policy.commands.train import make_dataset, read_training, run
from shortcut_policy.errors import InputError
from shortcut_policy.training.parts import make_model
from shortcut_policy.training.trainer import Trainer
from tests.conftest import Compose
from tests.training.test_trainer import assert_equal_states, final_state, read_log

#: Flow matching for the first 10 of 20 updates.
REFLOW = ("objective=reflow", "objective.teacher_steps=2", "trainer.log_every=1")


def make_trainer(compose_config: Compose, tmp_path: Path, *overrides: str) -> Trainer:
    config = compose_config(*overrides, f"output={tmp_path / 'new'}")
    dataset = make_dataset(read_training(config))
    return Trainer(
        make_model(read_training(config), dataset),
        dataset,
        read_training(config).trainer,
        tmp_path,
        seed=0,
        cpu=True,
    )


def advance(trainer: Trainer, updates: int) -> None:
    for _ in range(updates):
        trainer._update()
        trainer.step += 1


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    assert_equal_states(dict(a.state_dict()), dict(b.state_dict()))


@pytest.fixture(scope="module")
def flow(compose_config: Compose, tmp_path_factory) -> Path:
    """A run of flow matching, 20 updates."""
    return run(compose_config("objective=flow_matching", f"output={tmp_path_factory.mktemp('flow') / 'run'}"))


@pytest.fixture(scope="module")
def straight(compose_config: Compose, tmp_path_factory) -> Path:
    """A run of reflow without an interruption."""
    return run(compose_config(*REFLOW, f"output={tmp_path_factory.mktemp('straight') / 'run'}"))


def test_a_phase_begins_from_the_averaged_policy_as_a_training_of_its_own(compose_config, tmp_path):
    trainer = make_trainer(compose_config, tmp_path, *REFLOW, "trainer.ema_max_decay=0.9")
    advance(trainer, 10)
    assert trainer.teacher is None and trainer.ema.n_averaged == 10
    before = {name: value.clone() for name, value in trainer.ema_model.state_dict().items()}
    assert not torch.equal(before["normalizer.action_scale"], torch.zeros(2))
    trainer._next_phase()
    assert_equal_states(dict(trainer.teacher.state_dict()), before)
    assert_equal_states(dict(trainer.model.state_dict()), before)
    assert not any(optimizer.state for optimizer in trainer.optimizers) and trainer.ema.n_averaged == 0
    assert not any(parameter.requires_grad for parameter in trainer.teacher.parameters())
    advance(trainer, 3)
    assert_equal_states(dict(trainer.teacher.state_dict()), before)
    assert trainer.phase == 1 and trainer.ema.n_averaged == 3


def test_each_phase_has_its_own_warm_up_and_cosine(compose_config, tmp_path):
    trainer = make_trainer(compose_config, tmp_path, *REFLOW)
    rates = []
    for _ in range(20):
        advance(trainer, 1)
        rates.append([schedule.get_last_lr()[0] for schedule in trainer.schedules])
    # Two updates of warm-up in twenty are one in each phase of ten.
    assert rates[:10] == rates[10:]
    assert rates[0] == pytest.approx([1e-3, 2e-3]) and rates[9] == pytest.approx([0, 0], abs=1e-9)


def test_teachers_follow_one_another(compose_config, tmp_path):
    overrides = ("objective=progressive_distillation", "objective.max_steps=8", "objective.first_phase=0.25")
    trainer = make_trainer(compose_config, tmp_path, *overrides)
    phases, teachers = [], []
    for _ in range(20):
        advance(trainer, 1)
        phases.append(trainer.phase)
        teachers.append(trainer.teacher)
    assert phases == [0] * 5 + [1] * 5 + [2] * 5 + [3] * 5
    assert len({id(teacher) for teacher in teachers}) == 4


@pytest.mark.slow
@pytest.mark.parametrize("interrupted_at", [7, 10, 13])
def test_resumed_before_at_and_after_the_boundary_it_goes_on_bit_for_bit(
    compose_config: Compose, straight: Path, tmp_path: Path, monkeypatch, interrupted_at: int
):
    settings = (*REFLOW, f"trainer.checkpoint_every={interrupted_at}")

    class Stop(Exception):
        pass

    save = Trainer._save

    def save_and_stop(self):
        save(self)
        raise Stop

    with monkeypatch.context() as patched, pytest.raises(Stop):
        patched.setattr(Trainer, "_save", save_and_stop)
        run(compose_config(*settings, f"output={tmp_path / 'run'}"))
    assert final_state(tmp_path / "run")["step"] == interrupted_at
    run(compose_config(*settings, "resume=true", f"output={tmp_path / 'run'}"))
    ours, theirs = final_state(tmp_path / "run"), final_state(straight)
    assert ours["phase"] == 1 and ours["teacher"] is not None
    assert_equal_states(ours, theirs)
    assert read_log(tmp_path / "run") == read_log(straight)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["reflow", "consistency_distillation", "progressive_distillation"])
def test_a_teacher_from_outside_replaces_the_first_phase(compose_config, flow, tmp_path, objective):
    trainer = make_trainer(compose_config, tmp_path, f"objective={objective}", f"teacher={flow}")
    teacher = load_policy(flow)
    assert_same_weights(trainer.model.normalizer, teacher.normalizer)
    advance(trainer, 1)
    assert trainer.phase == 1
    assert_same_weights(trainer.teacher.encoder, teacher.encoder)
    inputs = (torch.randn(4, 16, 2), torch.rand(4), torch.zeros(4), torch.randn(4, 40))
    assert torch.equal(trainer.teacher.backbone(*inputs), teacher.backbone(*inputs))


@pytest.mark.slow
def test_a_taught_run_says_so_and_goes_on_without_its_teacher(compose_config, flow, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(flow, teacher)
    overrides = ("objective=reflow", f"teacher={teacher}", f"output={tmp_path / 'run'}")
    output = run(compose_config(*overrides))
    shutil.rmtree(teacher)
    policy = load_policy(output)
    assert policy.spec["objective"]["first_phase"] == 0
    assert policy.metadata["init_from"]["method"] == "flow_matching"
    assert policy.metadata["train_nfe_per_step"] == 16 * (1 + 8)
    run(compose_config(*overrides, "resume=true"))  # its teacher is part of the training state


def test_evaluations_of_phases_are_averaged(compose_config, tiny_dataset):
    metadata = make_model(
        read_training(compose_config("objective=reflow", "output=nowhere")), tiny_dataset
    ).metadata
    assert metadata["train_nfe_per_step"] == 16 * (0.5 + 0.5 * 9)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("objective=shortcut",), "Shortcut distils no teacher"),
        (("task.n_obs_steps=1", "task.n_action_steps=4"), "task.n_obs_steps=2, not 1"),
        (("task.name=kitchen",), "task.name=pusht, not kitchen"),
        (("backbone.down_dims=[16,48]",), "backbone.down_dims"),
        (("init_from=elsewhere",), "exclude each other"),
    ],
)
def test_a_teacher_that_does_not_fit_gets_one_sentence(compose_config, flow, tmp_path, overrides, sentence):
    with pytest.raises(InputError) as caught:
        run(compose_config("objective=reflow", f"teacher={flow}", f"output={tmp_path / 'new'}", *overrides))
    assert sentence in str(caught.value) and f"teacher={flow}" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_teacher_without_a_velocity_is_refused(compose_config, tiny_policy, tmp_path):
    output = run(compose_config("objective=regression", f"output={tmp_path / 'regression'}"))
    with pytest.raises(InputError, match=r"trained with Regression.*velocity at d = 0"):
        run(compose_config("objective=reflow", f"teacher={output}", f"output={tmp_path / 'new'}"))
    with pytest.raises(InputError, match="there is no checkpoint at"):
        run(
            compose_config(
                "objective=reflow", f"teacher={tmp_path / 'nowhere'}", f"output={tmp_path / 'new'}"
            )
        )


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("objective=reflow", "objective.first_phase=0"), "objective.first_phase=0 trains no teacher"),
        (("objective=progressive_distillation", "trainer.max_steps=4"), "too few for the 4 phases"),
    ],
)
def test_phases_that_cannot_be_are_refused(compose_config, tmp_path, overrides, sentence):
    with pytest.raises(InputError, match=sentence):
        run(compose_config(*overrides, f"output={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()
