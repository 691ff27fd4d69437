"""The rollout command, and what it leaves behind."""

import json

import pytest

from shortcut_policy.commands.rollout import run as roll_out
from shortcut_policy.rollout import evaluate as evaluations
from tests.benchmark.test_harness import configuration, save_copy


@pytest.mark.parametrize("fails", ["steps", "checkpoint"])
def test_an_evaluation_that_fails_leaves_the_results_before_it(fails, tiny_policy, tmp_path, monkeypatch):
    for name in ("one", "other"):
        save_copy(tiny_policy, tmp_path / name)
    several = {
        "steps": [f"checkpoint={tmp_path}/one", "steps=[1,2]"],
        "checkpoint": [f"checkpoint=[{tmp_path}/one,{tmp_path}/other]"],
    }
    protocol = ("episodes=2", "batch_size=2", "plot=false", "+env.max_steps=8")
    config = configuration("rollout", *several[fails], *protocol, f"output={tmp_path}")
    play, played = evaluations.rollout, []

    def play_once(*arguments, **options):
        if played:
            raise OSError("the display is gone")
        played.append(1)
        return play(*arguments, **options)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="the display is gone"):
        patched.setattr(evaluations, "rollout", play_once)
        roll_out(config)
    (row,) = json.loads((tmp_path / "results.json").read_text())
    assert (row["name"], row["steps"], row["episodes"]) == ("one", 1, 2)
    roll_out(config)
    first, second = json.loads((tmp_path / "results.json").read_text())
    assert first["score"] == row["score"]
    assert (second["name"], second["steps"]) == (("one", 2) if fails == "steps" else ("other", 1))
