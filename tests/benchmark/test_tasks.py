"""A benchmark of several tasks: means over tasks, intervals and tests by tasks, figure, files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortcut_policy.benchmark import outputs, plots
from shortcut_policy.benchmark.result_files import read_rows, write_rows
from shortcut_policy.benchmark.table import Measured, results_table
from shortcut_policy.benchmark.task_table import task_pair, task_table
from shortcut_policy.commands import benchmark
from shortcut_policy.rollout.statistics import bootstrap_interval, compare_methods
from tests.benchmark.test_harness import configuration, save_copy
from tests.benchmark.test_table import cell, table_rows
from tests.rollout.test_odd_environments import TwoTasks

TASKS = ("push", "reach", "sort")


def line(name: str, steps: int, rates: dict[str, float], seeds: int = 3, starts: int = 10) -> Measured:
    """A line whose tasks have these success rates, each from so many starts, in turn."""
    rng, cells = np.random.default_rng(steps), []
    played = [task for _ in range(starts) for task in rates]
    for _ in range(seeds):
        own = np.array([float(rng.random() < rates[task]) for task in played])
        cells.append([cell(own, steps)])
        object.__setattr__(cells[-1][0], "tasks", played)
    return Measured(name, cells)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    one = line("a", 1, {"push": 0.9, "reach": 0.5, "sort": 0.1})
    hundred = line("b", 100, {"push": 0.9, "reach": 0.9, "sort": 0.1})
    return table_rows([one, line("a", 4, {"push": 1, "reach": 1, "sort": 1}), hundred], hundred)


def test_a_line_of_several_tasks_is_its_mean_over_tasks():
    """The task is the unit, however many starts each had."""
    measured = line("a", 1, {"push": 1.0, "reach": 0.5})
    whole = measured.cells[0][0]
    object.__setattr__(whole, "tasks", ["push", *whole.tasks[1:-1], "push"])
    uneven = Measured("a", [[whole]])
    assert {name: len(starts) for name, starts in uneven.tasks.items()} == {"push": 11, "reach": 9}
    rates = [whole.successes[starts].mean() for starts in uneven.tasks.values()]
    assert uneven.successes.tolist() == [rates]
    assert uneven.successes.mean() == np.mean(rates) != whole.successes.mean()
    plain = Measured("a", [[cell(np.array([0.0, 1.0]), 1)]])
    assert plain.tasks == {} and plain.successes.tolist() == [[0.0, 1.0]]


def test_intervals_and_tests_are_over_seeds_and_tasks(rows: list[dict[str, Any]]):
    row, _, other = rows
    one, two = (
        line("a", 1, {"push": 0.9, "reach": 0.5, "sort": 0.1}),
        line("b", 100, {"push": 0.9, "reach": 0.9, "sort": 0.1}),
    )
    assert one.successes.shape == (3, 3)
    assert row["success_ci"] == bootstrap_interval(one.successes)
    assert row["success_p_value"] == compare_methods(one.successes, two.successes).p_value
    assert row["success"] == row["success_over_tasks"] == pytest.approx(one.successes.mean())
    of_task = row["tasks"]["reach"]
    assert of_task["episodes"] == 10 and of_task["success_ci"][0] < of_task["success"]
    assert of_task["success"] == pytest.approx(one.successes[:, 1].mean())
    assert list(row["tasks"]) == list(TASKS) and other["tasks"]["sort"]["success"] < 0.4


def test_captions_say_what_the_brackets_are_over(rows: list[dict[str, Any]]):
    caption = results_table(rows).caption
    assert "10 starts" not in caption and "the mean over 3 tasks" in caption
    assert "over training seeds and tasks together" in caption and "on common tasks" in caption
    table = task_table(rows)
    assert table is not None
    assert (
        table.caption
        == "Success of each task on 10 starts, with 95% intervals over training seeds and starts."
    )
    assert table.lines[0][2] == "100% [72%, 100%]", "Wilson's where all are solved"
    many = task_table([*rows, *rows])
    assert many is not None and many.lines[0][2] == "100%" and "intervals" not in many.caption


def test_the_file_has_a_row_for_each_task_and_their_mean(rows: list[dict[str, Any]], tmp_path: Path):
    write_rows(tmp_path, rows)
    document = json.loads((tmp_path / "results.json").read_text())
    assert len(document["rows"]) == 3 * (len(TASKS) + 1)
    keys = {"method", "steps", "task", "success", "success_ci", "seeds", "latency_ms_p50", "episodes"}
    assert all(row.keys() >= keys for row in document["rows"])
    mean = [row for row in document["rows"] if row["task"] == "mean"]
    assert [(row["method"], row["steps"], row["seeds"]) for row in mean] == [
        ("a", 1, 3),
        ("a", 4, 3),
        ("b", 100, 3),
    ]
    assert mean[0]["success_ci"] == list(rows[0]["success_ci"])
    assert read_rows(tmp_path) == document["table"] == json.loads(json.dumps(rows))


def test_points_of_one_place_are_all_seen(rows: list[dict[str, Any]], tmp_path: Path, monkeypatch):
    pair = task_pair(rows)
    assert pair is not None and [one["steps"] for one in pair] == [1, 100]
    assert task_pair([{**row, "reference": None} for row in rows]) is None
    assert task_pair([{**row, "tasks": {}} for row in rows]) is None
    solved = {f"task{number}": {"success": 1.0} for number in range(30)}
    one, other = ({**row, "tasks": solved} for row in pair)
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    plots.plot_tasks(one, other, rows, tmp_path / "tasks.png")
    left = drawn[0].axes[0]
    (points,) = (np.asarray(one.get_offsets()) for one in left.collections)
    apart = np.linalg.norm(points[:, None] - points[None], axis=2)[~np.eye(30, dtype=bool)]
    assert len(points) == 30 and apart.min() > 0.01 and np.abs(points - 1).max() < 0.08
    low, high = left.get_xlim()
    assert (points > low).all() and (points < high).all()
    assert not left.texts, "tasks on the diagonal have no name"


class InTurn(TwoTasks):
    """Made by a specification of a task."""

    def __init__(self, **_: Any) -> None:
        super().__init__()


def test_a_benchmark_of_two_tasks_leaves_their_table_and_figure(untrained_policy, tmp_path: Path, capsys):
    task = {"name": "two", "env": {"_target_": f"{__name__}.InTurn"}}
    for name in ("a", "b"):
        save_copy(untrained_policy, tmp_path / name, task=task)
    entries = (
        f"entries=[{{name: a, checkpoint: '{tmp_path}/a', steps: [1]}},"
        f"{{name: b, checkpoint: '{tmp_path}/b', steps: [2]}}]"
    )
    settings = ["reference=b", "episodes=4", "num_envs=2", "trust=[tests]", f"publish='{tmp_path}/published'"]
    benchmark.run(configuration("benchmark", entries, *settings, f"output='{tmp_path}/out'"))
    assert "mean over tasks" in capsys.readouterr().out
    published = tmp_path / "published"
    assert {"results.json", "tasks.md", "tasks.png"} <= {file.name for file in published.iterdir()}
    found = {
        (row["method"], row["task"]): row
        for row in json.loads((published / "results.json").read_text())["rows"]
    }
    assert found["a", "push"]["success"] == 1.0 and found["b", "lift"]["success"] == 0.0
    assert found["a", "mean"]["success"] == 0.5 and found["a", "mean"]["episodes"] == 4
    assert "<h2>Tasks</h2>" in (tmp_path / "out" / "report.html").read_text()
    # What is published stands for the checkpoints.
    entries = f"entries=[{{name: a, published: '{published}', steps: [1]}}]"
    measured = configuration(
        "benchmark", entries, "episodes=4", "trust=[tests]", f"output='{tmp_path}/again'"
    )
    benchmark.run(measured)
    again = json.loads((tmp_path / "again" / "results.json").read_text())["rows"]
    assert [(row["task"], row["success"]) for row in again] == [("lift", 0.0), ("push", 1.0), ("mean", 0.5)]


def test_tables_have_the_names_of_their_files(rows: list[dict[str, Any]]):
    assert list(outputs.tables_of(rows, [])) == ["results", "tasks"]
    assert set(outputs.tables_of(rows, [])) <= set(outputs.HEADLINES)
