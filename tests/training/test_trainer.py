"""The training loop: exact resumption, clean interruption, shared batches, honest failure."""

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
import zarr

from shortcut_policy import load_policy
from shortcut_policy.checkpoint import (
    has_reached,
    list_checkpoints,
    load_training_state,
    read_description,
)
from shortcut_policy.commands.train import make_dataset, read_training, run
from shortcut_policy.errors import InputError, Stopped, TrainingError
from shortcut_policy.training import TrainerConfig
from shortcut_policy.training.batches import BatchStream
from shortcut_policy.training.config import WandbConfig
from shortcut_policy.training.failure import not_finite
from shortcut_policy.training.log import RunLog
from shortcut_policy.training.parts import make_model
from shortcut_policy.training.run_folder import output_folder
from shortcut_policy.training.trainer import Trainer
from tests.conftest import TINY, Compose

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
STEPS = 200
LONG = (f"trainer.max_steps={STEPS}", "trainer.checkpoint_every=4", "trainer.validate_every=0")


def read_log(folder: Path, kind: str = "train") -> list[dict]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records if r["kind"] == kind]


def final_state(folder: Path) -> dict:
    state = torch.load(list_checkpoints(folder)[-1] / "training_state.pt", weights_only=True)
    return {name: value for name, value in state.items() if name != "seconds"}


def assert_equal_states(a, b) -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            assert_equal_states(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_equal_states(left, right)
    else:
        assert a == b


@pytest.fixture(scope="module")
def straight(compose_config: Compose, tmp_path_factory) -> Path:
    """A run of 200 updates without an interruption."""
    return run(compose_config(*LONG, f"output={tmp_path_factory.mktemp('straight') / 'run'}"))


class Subprocess:
    """A training in a process of its own, on the small demonstrations."""

    def __init__(self, demonstrations: Path, output: Path, *overrides: str, launcher: tuple[str, ...] = ()):
        source = ("task=pusht_human", f"task.source.path={demonstrations}", f"output={output}")
        command = [*(launcher or (sys.executable,)), str(TRAIN), *source, *TINY, *overrides]
        self.output = output
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ}
        )

    def wait_for_checkpoint(self, after: int) -> None:
        deadline = time.monotonic() + 120
        while self.process.poll() is None and time.monotonic() < deadline:
            found = list_checkpoints(self.output)
            if found and int(found[-1].name[5:]) >= after:
                return
            time.sleep(0.01)
        raise AssertionError(f"no checkpoint of update {after} appeared: {self.process.communicate()[0]}")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self, timeout: float = 180) -> str:
        output, _ = self.process.communicate(timeout=timeout)
        return output


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_bit_for_bit(
    compose_config: Compose, demonstrations: Path, straight: Path, tmp_path: Path
):
    output, moments = tmp_path / "run", random.Random(0)
    for kill_after in (4, 60, 120):
        training = Subprocess(demonstrations, output, *LONG, "resume=true")
        training.wait_for_checkpoint(kill_after)
        time.sleep(moments.uniform(0, 0.2))  # anywhere in updates and saves
        training.kill()
        # What is there is complete, whatever the moment.
        assert load_policy(output).metadata["train_steps"] >= kill_after
        assert final_state(output)["step"] >= kill_after
    assert final_state(output)["step"] < STEPS, "killed too late to show anything"
    run(compose_config(*LONG, "resume=true", f"output={output}"))
    ours, theirs = final_state(output), final_state(straight)
    assert ours["step"] == STEPS and ours["ema"]["n_averaged"] == STEPS
    assert_equal_states(ours, theirs)
    assert read_log(output) == read_log(straight)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves(demonstrations: Path, straight: Path, tmp_path: Path, number):
    # No checkpoint would be due for long: what is saved is saved because of the signal.
    overrides = (LONG[0], "trainer.checkpoint_every=1000", LONG[2], "trainer.log_every=1")
    training = Subprocess(demonstrations, tmp_path / "run", *overrides)
    log = tmp_path / "run" / "log.jsonl"
    while not (log.exists() and log.stat().st_size > 2000):
        assert training.process.poll() is None
        time.sleep(0.01)
    training.process.send_signal(number)
    text = training.finish()
    assert training.process.returncode == 128 + number
    step = final_state(tmp_path / "run")["step"]
    assert f"stopped at update {step} and saved; go on with resume=true" in text
    assert "Traceback" not in text
    assert 0 < step < STEPS


@pytest.mark.slow
# Muon gives directions that a gradient hardly has as much weight as the others, and so their rounding errors.
@pytest.mark.parametrize(("optimizer", "error"), [("adamw", 1e-4), ("muon", 1e-3)])
def test_two_processes_train_as_one(
    compose_config: Compose, demonstrations: Path, tmp_path: Path, optimizer: str, error: float
):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    overrides = ("trainer.log_every=1", f"trainer.optimizer={optimizer}")
    shared = Subprocess(demonstrations, tmp_path / "two", *overrides, launcher=torchrun)
    run(compose_config(*overrides, f"output={tmp_path / 'one'}"))
    assert "Traceback" not in shared.finish()
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    assert [r["step"] for r in two] == list(range(1, 21))
    for name in ("loss", "grad_norm", "loss_flow", "loss_consistency", "learning_rate"):
        assert [name in r for r in two] == [name in r for r in one] and any(name in r for r in one)
        expected = [r[name] for r in one if name in r]
        assert [r[name] for r in two if name in r] == pytest.approx(expected, rel=error), name
    a, b = (final_state(tmp_path / name)["policy"] for name in ("one", "two"))
    assert all(torch.allclose(a[name], b[name], atol=error) for name in a)


@pytest.mark.slow
def test_two_processes_without_a_gpu_log_what_only_one_of_them_has(
    compose_config: Compose, demonstrations: Path, tmp_path: Path
):
    """Of four rows one is self-consistency, and only torchrun says that the processes belong together."""
    launcher = ("env", "CUDA_VISIBLE_DEVICES=", sys.executable, "-m", "torch.distributed.run")
    overrides = ("objective=shortcut_paper", "trainer.batch_size=4", "trainer.log_every=2", "cpu=false")
    shared = Subprocess(
        demonstrations,
        tmp_path / "two",
        *overrides,
        launcher=(*launcher, "--standalone", "--nproc_per_node=2"),
    )
    run(compose_config(*overrides, "cpu=true", f"output={tmp_path / 'one'}"))
    assert "Traceback" not in shared.finish()
    one, two = read_log(tmp_path / "one"), read_log(tmp_path / "two")
    for name in ("loss", "loss_consistency"):
        assert [r[name] for r in two] == pytest.approx([r[name] for r in one], rel=1e-3), name


def test_a_failing_simulator_does_not_cost_the_training(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(*arguments: Any, **more: Any) -> None:
        raise OSError("the display is gone")

    monkeypatch.setattr("shortcut_policy.rollout.in_training.rollout", fail)
    overrides = ("trainer.rollout_every=7", "trainer.checkpoint_every=100")
    with pytest.raises(OSError, match="the display is gone"):
        run(compose_config(*overrides, f"output={tmp_path / 'run'}"))
    assert final_state(tmp_path / "run")["step"] == 7


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), Stopped),  # of an environment, or a second Ctrl-C
        (SystemExit(3), SystemExit),
        (InputError("it failed in all episodes"), TrainingError),
    ],
)
def test_whatever_ends_rollouts_the_training_is_saved(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, error, raised
):
    def fail(*arguments: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr("shortcut_policy.rollout.in_training.rollout", fail)
    overrides = ("trainer.rollout_every=2", "trainer.checkpoint_every=100")
    with pytest.raises(raised) as caught:
        run(compose_config(*overrides, f"output={tmp_path / 'run'}"))
    assert final_state(tmp_path / "run")["step"] == 2
    if raised is TrainingError:
        assert str(caught.value).startswith(
            "rollouts after update 2: it failed in all episodes; the training"
        )
    if raised is Stopped:
        assert caught.value.code == 130
        assert "stopped at update 2 and saved; go on with resume=true output=" in capsys.readouterr().out


def test_damaged_files_of_a_run_are_named(compose_config: Compose, straight: Path, tmp_path: Path):
    output = tmp_path / "run"
    shutil.copytree(straight, output)
    empty = output / f"checkpoints/step_{2 * STEPS:08d}"
    empty.mkdir()
    assert not has_reached(output, STEPS + 1), "an empty folder is no checkpoint"
    empty.rmdir()
    checkpoint = list_checkpoints(output)[-1]
    for file, text, sentence in (
        ("log.jsonl", '{"step": 1}\n', "line 1 of .*log.jsonl is no record of a training"),
        ("config.yaml", "[", "config.yaml is no configuration of a training"),
        ("config.yaml", "a: 1", "config.yaml is no configuration of a training"),
        (f"checkpoints/{checkpoint.name}/policy.json", "[]", "policy.json describes no policy"),
        (f"checkpoints/{checkpoint.name}/training_state.pt", "x", "training_state.pt is damaged"),
    ):
        kept = (output / file).read_bytes()
        (output / file).write_text(text)
        with pytest.raises(InputError, match=sentence):
            if file == "log.jsonl":
                RunLog(output, STEPS, WandbConfig("disabled"), {})
            elif file.endswith("policy.json"):
                load_policy(output)
            elif file.endswith(".pt"):
                load_training_state(checkpoint, torch.device("cpu"))
            else:
                run(compose_config(*LONG, "resume=true", f"output={output}"))
        (output / file).write_bytes(kept)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_batches_visit_every_row_once_an_epoch(world: int):
    streams = [BatchStream(n=10, batch_size=4, seed=3, rank=rank, world=world) for rank in range(world)]
    batches = []
    for step in range(5):
        parts = [stream.rows(step).tolist() for stream in streams]
        batches += [row for rows in zip(*parts, strict=True) for row in rows]
    assert sorted(batches[:10]) == sorted(batches[10:]) == list(range(10))
    assert batches[:10] != batches[10:]
    assert batches == torch.cat([BatchStream(10, 4, 3).rows(step) for step in range(5)]).tolist()


def test_averaged_weights_follow_the_baseline_schedule(compose_config: Compose, tmp_path: Path):
    config = compose_config("trainer.max_steps=6", "trainer.ema_max_decay=0.6")
    dataset = make_dataset(read_training(config))
    policy = make_model(read_training(config), dataset)
    trainer = Trainer(policy, dataset, read_training(config).trainer, tmp_path, seed=0, cpu=True)
    name, weight = next(iter(policy.backbone.named_parameters()))
    expected = None
    for n in range(6):
        trainer._update()
        trainer.step += 1
        now = weight.detach().clone()
        decay = min(1 - (1 + n) ** -0.75, 0.6)
        expected = now if expected is None else decay * expected + (1 - decay) * now
    averaged = dict(trainer.ema_model.backbone.named_parameters())[name]
    torch.testing.assert_close(averaged, expected)


def test_regular_checkpoints_are_kept_for_curves(compose_config: Compose, tmp_path: Path):
    kept = ["checkpoint_every=4", "keep_every=8", "keep_last=1", "keep_best=0", "validate_every=0"]
    run(compose_config(f"output={tmp_path}/run", *(f"trainer.{setting}" for setting in kept)))
    found = [folder.name for folder in list_checkpoints(tmp_path / "run")]
    assert found == ["step_00000008", "step_00000016", "step_00000020"]


def test_a_run_leaves_config_log_and_the_newest_and_best_checkpoints(compose_config: Compose, tmp_path: Path):
    overrides = (
        "trainer.max_steps=8",
        "trainer.checkpoint_every=1",
        "trainer.keep_last=2",
        "trainer.rollout_every=3",
        "trainer.rollout_episodes=2",
        "trainer.rollout_steps=[1,2]",
        "+task.env.max_steps=10",
        "trainer.validation_steps=[1,3,4]",
        "trainer.validate_every=4",
        "wandb.mode=offline",
    )
    output = run(compose_config(*overrides, f"output={tmp_path / 'run'}"))
    found = list_checkpoints(output)
    assert [int(folder.name[5:]) for folder in found[-2:]] == [7, 8]
    assert len(found) == 3, "the best of the older ones is kept"
    assert [folder.name for folder in found if (folder / "training_state.pt").exists()] == ["step_00000008"]
    (validation, _), rollouts = read_log(output, "validation"), read_log(output, "rollout")
    # 3 steps are not a power of two: not for this policy.
    assert {"loss", "action_error_1", "action_error_4"} == validation.keys() - {"kind", "step"}
    assert [r["step"] for r in rollouts] == [3, 6, 8]
    assert {"score_1", "success_1", "score_2", "success_2"} <= rollouts[0].keys()
    metadata = read_description(found[-1])["metadata"]
    assert metadata["train_steps"] == 8 and metadata["selection"] == {
        "name": "score_1",
        "score": rollouts[-1]["score_1"],
    }
    assert (output / "config.yaml").is_file() and list(output.glob("wandb/offline-run-*"))
    rates = [r["learning_rate"] for r in read_log(output)]
    assert rates[-1] == 0


def test_a_finished_run_is_left_as_it_is(compose_config: Compose, straight: Path, tmp_path: Path):
    """Even where only its policies are, as on the machine that evaluates them."""
    copied = tmp_path / "run"
    shutil.copytree(straight, copied)
    for state in copied.glob("checkpoints/*/training_state.pt"):
        state.unlink()
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    assert run(compose_config(*LONG, "resume=true", f"output={copied}")) == copied
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()} == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize(
    "objective", ["shortcut", "diffusion", "consistency_training", "reflow", "meanflow", "soflow"]
)
def test_a_recorded_update_does_what_it_does_otherwise(compose_config: Compose, tmp_path: Path, objective):
    weights = []
    for recorded in (True, False):
        config = compose_config(
            f"objective={objective}",
            "trainer.precision=fp32",
            f"trainer.cuda_graph={recorded}",
            f"output={tmp_path / str(recorded)}",
        )
        weights.append(final_state(run(config))["policy"])
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-4, rtol=1e-3)


def test_a_loss_that_is_not_finite_stops_the_run(compose_config: Compose, tmp_path: Path):
    overrides = ("trainer.learning_rate=1e30", "trainer.warmup_steps=3", "trainer.checkpoint_every=1")
    with pytest.raises(TrainingError) as caught:
        run(compose_config(*overrides, f"output={tmp_path / 'run'}"))
    sentence = str(caught.value)
    windows = r"the loss of training windows \d+(, \d+){,7}( and \d+ more)?"
    assert re.match(
        rf"update \d+: ({windows}|the gradient \(all losses are finite\)) is not finite", sentence
    )
    last = list_checkpoints(tmp_path / "run")[-1]
    assert f"the last good checkpoint is {last}" in sentence
    assert all(value.isfinite().all() for value in load_policy(last).state_dict().values())


@pytest.mark.parametrize("warmup", [3, 4])
def test_a_training_that_ends_in_its_warm_up_says_so(
    compose_config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture, warmup: int
):
    short = ("trainer.max_steps=4", f"trainer.warmup_steps={warmup}")
    run(compose_config(*short, f"output={tmp_path / 'run'}"))
    said = f"trainer.warmup_steps={warmup} updates" in capsys.readouterr().err
    assert said == (warmup == 4)


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (0, "the gradient (all losses are finite) is not finite"),
        (8, "the loss of training windows 0, 1, 2, 3, 4, 5, 6, 7 is not finite"),
        (16, "the loss of training windows 0, 1, 2, 3, 4, 5, 6, 7 and 8 more is not finite"),
    ],
)
def test_what_is_not_finite_is_told_in_short(tmp_path: Path, bad: int, where: str):
    losses = torch.zeros(16)
    losses[:bad] = torch.nan
    said = str(not_finite(0, losses, torch.arange(16), tmp_path))
    assert said.startswith(f"update 0: {where}; no checkpoint was saved yet; ")


def test_an_existing_run_is_neither_overwritten_nor_continued_otherwise(
    compose_config: Compose, straight: Path
):
    with pytest.raises(InputError, match="already holds a run; give resume=true"):
        run(compose_config(*LONG, f"output={straight}"))
    with pytest.raises(InputError, match=r"was trained with trainer.batch_size=16, not 8"):
        run(compose_config(*LONG, "trainer.batch_size=8", "resume=true", f"output={straight}"))
    swapped = compose_config(*LONG, "resume=true", f"output={straight}")
    swapped.task.obs = dict(reversed(list(swapped.task.obs.items())))
    with pytest.raises(
        InputError, match=r"was trained with task.obs=\['(\w+)', '(\w+)'\], not \['\2', '\1'\]"
    ):
        run(swapped)


def test_a_run_goes_on_with_its_data_wherever_they_lie(
    compose_config: Compose, straight: Path, demonstrations: Path, tmp_path: Path
):
    output, moved = tmp_path / "run", tmp_path / demonstrations.name
    shutil.copytree(straight, output)
    shutil.copytree(demonstrations, moved)
    text = (output / "config.yaml").read_text()
    (output / "config.yaml").write_text(text.replace(f"max_steps: {STEPS}", f"max_steps: {STEPS + 2}"))
    longer = (*LONG, f"trainer.max_steps={STEPS + 2}", "resume=true", f"output={output}")
    with pytest.raises(InputError, match=r"task.source.path=wandering.zarr, not other.zarr"):
        run(compose_config(*longer, f"task.source.path={tmp_path / 'other.zarr'}"))

    store = zarr.open_group(moved)
    ends = store["meta/episode_ends"]
    ends.resize((ends.shape[0] - 1,))
    for array in store["data"].array_values():
        array.resize((int(ends[-1]), *array.shape[1:]))
    with pytest.raises(InputError, match=r"\d+ training \w+, and .*wandering.zarr has \d+ now"):
        run(compose_config(*longer, f"task.source.path={moved}"))

    shutil.copytree(demonstrations, moved, dirs_exist_ok=True)
    run(compose_config(*longer, f"task.source.path={moved}"))
    assert final_state(output)["step"] == STEPS + 2


def test_a_run_from_before_recorded_updates_goes_on(compose_config: Compose, straight: Path, tmp_path: Path):
    older = shutil.copytree(straight, tmp_path / "run")
    config = yaml.safe_load((older / "config.yaml").read_text())
    del config["trainer"]["cuda_graph"]
    (older / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    assert run(compose_config(*LONG, "resume=true", f"output={older}")) == older


def test_numbers_take_the_type_of_their_setting():
    settings = TrainerConfig(batch_size=1e2, betas=[0, 0.5], keep_every=None, max_grad_norm=math.inf)
    assert (settings.batch_size, type(settings.batch_size)) == (100, int)
    assert settings.betas == (0, 0.5) and settings.keep_every is None


def test_rollouts_leave_out_the_steps_that_an_objective_cannot_take(compose_config: Compose, tmp_path: Path):
    short = ("trainer.max_steps=2", "trainer.rollout_every=2", "trainer.rollout_episodes=1")
    rollouts = (*short, "trainer.rollout_steps=[1,4]", "+task.env.max_steps=10", "objective=regression")
    run(compose_config(*rollouts, f"output={tmp_path / 'run'}"))
    (record,) = read_log(tmp_path / "run", "rollout")
    assert record.keys() == {"kind", "step", "score_1", "success_1"}


def test_a_run_folder_may_be_named_by_a_number(compose_config: Compose):
    assert output_folder(read_training(compose_config("output=2024"))) == Path("2024")


def test_a_run_without_its_configuration_is_not_continued(
    compose_config: Compose, straight: Path, tmp_path: Path
):
    copied = shutil.copytree(straight, tmp_path / "run")
    (copied / "config.yaml").unlink()
    with pytest.raises(InputError, match=r"holds checkpoints but no config.yaml"):
        run(compose_config(*LONG, "resume=true", f"output={copied}"))


@pytest.mark.parametrize(("resumed_step", "known"), [(0, None), (4, "earlier")])
def test_only_a_resumed_run_goes_on_with_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed_step: int, known: str | None
):
    (tmp_path / "wandb_id").write_text("earlier")
    asked = {}

    def init(**settings: Any) -> SimpleNamespace:
        asked.update(settings)
        return SimpleNamespace(id=settings["id"] or "new")

    monkeypatch.setattr("wandb.init", init)
    RunLog(tmp_path, resumed_step, WandbConfig("offline", "p"), {})
    assert asked["id"] == known and asked["name"] == tmp_path.name
    assert (tmp_path / "wandb_id").read_text() == (known or "new")
