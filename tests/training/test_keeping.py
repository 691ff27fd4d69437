"""Which checkpoints a run keeps."""

import json
from pathlib import Path

import pytest

from shortcut_policy.checkpoint import list_checkpoints
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.keeping import (
    remove_others,
    selected_by_error,
    selected_by_score,
    tidy_finished,
)
from shortcut_policy.training.run_folder import only_training

ERROR = {"loss": 0.5, "action_error_4": 20.0, "action_error_1": 30.0}


def make_run(folder: Path, selections: list[dict]) -> Path:
    for number, selection in enumerate(selections):
        checkpoint = folder / f"checkpoints/step_{number:08d}"
        checkpoint.mkdir(parents=True)
        described = {"format": 1, "policy": {}, "metadata": {"selection": selection}}
        (checkpoint / "policy.json").write_text(json.dumps(described))
    return folder


def score(value: float, name: str = "score_1") -> dict:
    return selected_by_score({name: value, "success_1": 0.0})


def error(value: float) -> dict:
    return selected_by_error({"loss": 0.0, "action_error_1": value})


@pytest.mark.parametrize(
    ("selections", "kept"),
    [
        ([score(0.1), score(0.9), score(0.5), score(0.0)], [1, 3]),
        ([error(30.0), error(10.0), error(20.0), error(40.0)], [1, 3]),
        # Rollouts were switched off, after which every score seemed better than any error.
        ([score(0.1), score(0.9), error(20.0), error(10.0), error(30.0), error(50.0)], [1, 3, 5]),
        # And on again; at other steps.
        ([error(20.0), error(10.0), score(0.2), score(0.1), score(0.7, "score_4"), {}], [1, 2, 4, 5]),
        # Of an earlier release: without a name.
        ([{"score": -20.0}, {"score": -10.0}, score(0.1), score(0.2), score(0.3)], [1, 3, 4]),
        ([{}, {}, score(0.1), {}], [2, 3]),
        ([score(0.1), score(0.3), score(0.3), {}], [1, 3]),
    ],
)
def test_the_best_is_chosen_among_values_of_one_name(selections: list[dict], kept: list[int], tmp_path: Path):
    run = make_run(tmp_path, selections)
    remove_others(run, TrainerConfig(keep_last=1, keep_best=1))
    assert [int(folder.name[5:]) for folder in list_checkpoints(run)] == kept


def test_what_a_checkpoint_is_selected_by_has_its_name():
    assert selected_by_error(ERROR) == {"name": "action_error_4", "score": -20.0}
    assert selected_by_error({"loss": 0.5}) == {"name": "loss", "score": -0.5}
    assert selected_by_score({"score_2": 0.3, "success_2": 0.1}) == {"name": "score_2", "score": 0.3}


def test_what_a_killed_training_had_begun_to_remove_is_removed(tmp_path: Path) -> None:
    """It was killed after its last checkpoint had got its name, so that nothing is left to train."""
    run = make_run(tmp_path, [error(30.0), error(20.0), error(10.0)])
    checkpoints = run / "checkpoints"
    for folder in list_checkpoints(run)[1:]:
        (folder / "training_state.pt").touch()
    for left in (".step_00000001.tmp", ".step_00000000.deleted", ".step_of_somebody"):
        (checkpoints / left).mkdir()
    config = TrainerConfig(keep_last=1, keep_best=1)
    tidy_finished(run, config)
    assert [folder.name for folder in list_checkpoints(run)] == ["step_00000001", "step_00000002"]
    assert [file.parent.name for file in checkpoints.glob("*/training_state.pt")] == ["step_00000002"]
    assert [file.name for file in checkpoints.glob(".*")] == [".step_of_somebody"]
    before = (checkpoints.stat().st_mtime_ns, run.stat().st_mtime_ns)
    tidy_finished(run, config)
    assert (checkpoints.stat().st_mtime_ns, run.stat().st_mtime_ns) == before, "nothing is left to be done"


def test_a_lock_that_could_not_be_removed_is_removed_when_nothing_is_left_to_train(tmp_path: Path) -> None:
    run = make_run(tmp_path, [error(30.0)])
    (run / ".lock").touch()
    with only_training(run):
        tidy_finished(run, TrainerConfig())
        assert (run / ".lock").exists(), "somebody trains there"
    (run / ".lock").touch()
    tidy_finished(run, TrainerConfig())
    assert not (run / ".lock").exists()
