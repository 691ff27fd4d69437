"""What a training refuses before any work, each in a sentence."""

from pathlib import Path

import pytest

from shortcut_policy.checkpoint import has_reached
from shortcut_policy.commands.cli import plain_sentence
from shortcut_policy.commands.train import run
from shortcut_policy.errors import InputError
from shortcut_policy.training.config import WandbConfig
from shortcut_policy.training.log import RunLog
from shortcut_policy.training.run_folder import only_training
from tests.conftest import Compose
from tests.full_disk import no_room
from tests.training.test_trainer import Subprocess


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("task.env.id=Nowhere-v0", "the environment .* cannot be made: .*Nowhere"),
        ("+task.env.colour=red", "colour"),
        ("task.env=null", "needs an environment, and the task has none"),
    ],
)
def test_an_environment_that_cannot_be_used_is_found_before_training(
    compose_config: Compose, tmp_path: Path, override: str, sentence: str
):
    with pytest.raises(InputError, match=sentence):
        run(compose_config("trainer.rollout_every=10", override, f"output={tmp_path / 'run'}"))
    assert not (tmp_path / "run/log.jsonl").exists()


def test_what_no_checkpoint_could_hold_is_found_before_training(compose_config: Compose, tmp_path: Path):
    """Found by the first checkpoint, it would cost all that was trained up to there."""
    with pytest.raises(InputError, match=r"metadata.task.env.reach=inf is not finite, which a checkpoint's"):
        run(compose_config("+task.env.reach=inf", f"output={tmp_path / 'run'}"))
    assert not (tmp_path / "run/log.jsonl").exists()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.batch_size=0", "trainer.batch_size=0 must be a whole number from 1 on"),
        ("trainer.batch_size=16.5", "trainer.batch_size=16.5 must be a whole number from 1 on"),
        ("trainer.batch_size=abc", "trainer.batch_size=abc must be a whole number"),
        ("trainer.max_steps=null", "trainer.max_steps=None must be a whole number"),
        ("trainer.keep_last=1.5", "trainer.keep_last=1.5 must be a whole number"),
        ("trainer.keep_best=-1", "trainer.keep_best=-1 must be a whole number from 0 on"),
        ("trainer.keep_every=abc", "trainer.keep_every=abc must be a whole number from 0 on, or null"),
        ("trainer.warmup_steps=-1", "trainer.warmup_steps=-1 must be a whole number from 0 on, or null"),
        ("trainer.validation_windows=0", "trainer.validation_windows=0 must be a whole number from 1 on"),
        ("trainer.precision=fp8", "trainer.precision=fp8 must be auto, bf16 or fp32"),
        ("trainer.compile=no", "trainer.compile=no must be true or false"),
        ("trainer.cuda_graph=off", "trainer.cuda_graph=off must be true or false"),
        ("trainer.learning_rate=-1", "trainer.learning_rate=-1 must be a number above 0"),
        ("trainer.learning_rate=abc", "trainer.learning_rate=abc must be a number above 0"),
        ("trainer.learning_rate=nan", "trainer.learning_rate=nan must be a number above 0"),
        ("trainer.max_grad_norm=null", "trainer.max_grad_norm=None must be a number above 0"),
        ("trainer.weight_decay=-1", "trainer.weight_decay=-1 must be a number from 0 on"),
        ("trainer.ema_power=-1", "trainer.ema_power=-1 must be a number from 0 on"),
        ("trainer.ema_max_decay=1.5", "trainer.ema_max_decay=1.5 must be a number from 0 to below 1"),
        ("trainer.betas=0.9", "trainer.betas=0.9 must be a list of two numbers from 0 to below 1"),
        ("trainer.betas=[0.9]", "trainer.betas=[0.9] must be a list of two numbers"),
        ("trainer.betas=[0.9,1.0]", "trainer.betas=[0.9, 1.0] must be a list of two numbers"),
        ("trainer.validation_steps=4", "trainer.validation_steps=4 must be a list of whole numbers"),
        ("trainer.rollout_steps=4", "trainer.rollout_steps=4 must be a list of whole numbers"),
        ("seed=-1", "seed=-1 must be a whole number from 0"),
        ("seed=99999999999999999999", "must be a whole number from 0 to"),
        (
            "objective._target_=''",
            "must be a mapping with the class to build, {_target_: package.Class, ...}",
        ),
        ("task.source=null", "task.source=None must be a mapping with the class to build"),
        ("task.action=null", "task.action=None must be a mapping with the class to build"),
        (
            "~task.env._target_",
            "must be a mapping with what makes it, {_target_: gymnasium.make, id: ...}, or null",
        ),
        ("task.obs.keypoint.normalize=image", "task.obs.keypoint is an image, whose pixels encoder=lowdim"),
        (
            "backbone.embedding_dim=abc",
            "ConditionalUnet1D cannot be built with down_dims=[16, 32], kernel_size=3",
        ),
        ("objective.consistency_share=abc", "objective.consistency_share=abc must be above 0"),
        ("seed=1.5", "seed=1.5 must be a whole number"),
        ("seed=null", "seed=None must be a whole number"),
        ("resume=no", "resume=no must be true or false"),
        ("cpu=no", "cpu=no must be true or false"),
        ("wandb.mode=on", "wandb.mode=on must be disabled, offline or online"),
        (
            "+batch_size=64",
            "the configuration has no setting 'batch_size': did you mean 'trainer.batch_size'?",
        ),
        ("+colour=red", "the configuration has no setting 'colour': it has objective, backbone, encoder,"),
        ("+data.fraction=1", "data has no setting 'fraction': did you mean 'val_fraction'?"),
        ("+wandb.colour=1", "wandb has no setting 'colour': it has mode, project, name"),
        ("wandb=offline", "wandb=offline must be a mapping; its settings are mode, project, name"),
        ("~wandb.mode", "wandb lacks the setting 'mode'"),
        ("data=null", "data=None must be a mapping"),
        ("task.obs=null", "task.obs=None must be a mapping of names to fields"),
        ("+task.n_action_step=4", "task has no setting 'n_action_step': did you mean 'n_action_steps'?"),
        (
            "~task.n_action_steps",
            "task lacks the setting 'n_action_steps'; it also has name, source, obs",
        ),
        ("~task.source", "task lacks the setting 'source'"),
        ("+trainer.lr=1", "trainer has no setting 'lr': it has max_steps, batch_size,"),
        ("+objective.foo=1", "Shortcut has no setting 'foo': it has bootstrap_every, bootstrap_rows,"),
        ("+task.action.foo=1", "Field has no setting 'foo': it has key,"),
        ("~task.action.key", "Field lacks the setting 'key'"),
        ("obs_noise=abc", "obs_noise=abc must be above 0"),
        ("task.horizon=15", "horizon=15"),
        ("objective.max_steps=100", "objective.max_steps=100"),
        ("task.source.path=nowhere.zarr", "nowhere.zarr"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_work(
    compose_config: Compose, tmp_path: Path, override: str, sentence: str
):
    with pytest.raises(Exception) as caught:
        run(compose_config(override, f"output={tmp_path / 'run'}"))
    assert sentence in (plain_sentence(caught.value) or "")
    assert not (tmp_path / "run").exists()


def test_second_training_in_a_folder_is_refused(compose_config: Compose, tmp_path: Path):
    output = tmp_path / "run"
    config = compose_config(
        "trainer.max_steps=2", "trainer.checkpoint_every=1", f"output={output}", "resume=true"
    )
    with only_training(output):
        with pytest.raises(InputError, match=f"another process is training in {output}"):
            run(config)
        assert [path.name for path in output.iterdir()] == [".lock"]
    run(config)  # the other one is done
    assert has_reached(output, 2)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["task.env=null"], r"rollout_every=5 needs an environment"),
        (
            ["trainer.rollout_steps=[3]"],
            r"trainer.rollout_steps=\[3\] holds no step count that Shortcut can",
        ),
        (["trainer.rollout_steps=[]"], r"trainer.rollout_steps=\[\] holds no step count"),
    ],
)
def test_rollouts_that_cannot_be_are_refused_before_any_work(
    compose_config: Compose, tmp_path: Path, overrides: list[str], sentence: str
):
    with pytest.raises(InputError, match=sentence):
        run(compose_config(*overrides, "trainer.rollout_every=5", f"output={tmp_path / 'run'}"))
    assert not (tmp_path / "run").exists()


def test_a_file_is_no_run_folder(compose_config: Compose, tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "run"):
        with pytest.raises(InputError, match=f"output={output} cannot be a run folder: {file} is a file"):
            run(compose_config(f"output={output}"))


@pytest.mark.parametrize(
    ("setting", "reason"), [("mode=online", "(API |api_)key"), ("name=2024", "valid string")]
)
def test_what_weights_and_biases_refuses_is_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, reason: str
):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "nobody"))
    key, value = setting.split("=")
    settings = {"mode": "offline", "project": "p", key: int(value) if key == "name" else value}
    with pytest.raises(InputError, match=rf"Weights & Biases cannot record .*{reason}.*wandb.mode=offline"):
        RunLog(tmp_path, 0, WandbConfig(**settings), {})


def test_a_place_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError) as caught:
        (tmp_path / "file/folder").mkdir()
    assert (
        plain_sentence(caught.value)
        == f"{tmp_path}/file/folder cannot be used (Not a directory): give another path"
    )
    assert plain_sentence(FileNotFoundError(2, "No such file", "x")) is None, "it may be our own mistake"


@pytest.mark.slow
def test_the_command_line_prints_one_sentence(tmp_path: Path):
    missing = tmp_path / "nowhere.zarr"
    training = Subprocess(missing, tmp_path / "run")
    text = training.finish()
    assert training.process.returncode == 2
    assert text.startswith("error: ") and str(missing) in text and text.count("\n") == 1


@pytest.mark.parametrize("scaling", ["task.action.normalize=identity", "+task.action.unscaled=[1]"])
def test_samples_that_are_clipped_below_the_actions_are_refused(
    compose_config: Compose, tmp_path: Path, scaling: str
):
    diffusion = ("objective=diffusion", scaling, f"output={tmp_path / 'run'}")
    with pytest.raises(InputError, match=r"element \d of the action reaches \d+ as the network sees it"):
        run(compose_config(*diffusion))
    assert not (tmp_path / "run/log.jsonl").exists()
    run(compose_config(*diffusion, "objective.clip_sample=false", "trainer.max_steps=2"))


def test_a_log_that_finds_no_room_is_named(tmp_path: Path):
    log = RunLog(tmp_path, 0, WandbConfig("disabled"), {})
    with no_room():
        with pytest.raises(OSError, match=r"'.*/log\.jsonl'"):
            log.write("train", 1, {"loss": 1.0})
        with pytest.raises(OSError, match=r"'.*/log\.jsonl'"):
            log.close()
