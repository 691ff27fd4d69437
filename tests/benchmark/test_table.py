"""Comparisons in the table: which checkpoints, which tests, corrected for how many."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortcut_policy.benchmark.table import Cell, Measured, add_comparison, adjust, make_row, results_table
from shortcut_policy.rollout import statistics

ROOT = Path(__file__).parents[2]
#: Folder of published results -> document that shows their table.
PUBLISHED = {
    "pusht": "docs/results",
    "pusht_large": "studies/one_step",
    **{f"robomimic/{task}": "docs/robomimic" for task in ("lift", "can", "square", "transport")},
}
POLICY = {
    "method": "m",
    "backbone": "b",
    "task": {"name": "pusht"},
    "dataset": "d",
    "train_steps": 10,
}
LATENCY = {"p50": 1.0, "p95": 2.0, "device": "CPU", "threads": 1}


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """The intervals of the lines are not what is tested here."""
    monkeypatch.setattr(statistics, "RESAMPLES", 19)


def cell(successes: np.ndarray, steps: int, scores: np.ndarray | None = None) -> Cell:
    scores = successes if scores is None else scores
    summary = {
        "settings": {"steps": steps, "seed": 100},
        "episodes": len(successes),
        "network_evaluations": steps,
        "latency": LATENCY,
        "policy": POLICY,
        "score": float(scores.mean()),
        "success": float(successes.mean()),
    }
    return Cell(summary, scores, successes)


def line(
    name: str, steps: int, rates: list[float], seed: int, checkpoints: int = 1, graded: bool = False
) -> Measured:
    """A line whose training seeds have these success rates, at every checkpoint anew."""
    rng = np.random.default_rng(seed)
    cells = []
    for rate in rates:
        own = [(rng.random(100) < rate).astype(float) for _ in range(checkpoints)]
        cells.append([cell(one, steps, one * 0.5 + 0.5 if graded else None) for one in own])
    return Measured(name, cells)


def table_rows(lines: list[Measured], reference: Measured) -> list[dict[str, Any]]:
    rows = []
    for one in lines:
        row = make_row(one, "command", "commit")
        add_comparison(row, one, reference)
        add_comparison(row, one, None, "baseline")
        add_comparison(row, one, None, "own")
        rows.append(row)
    adjust(rows)
    return rows


def test_both_sides_are_compared_at_the_checkpoints_that_both_have():
    averaged = line("a", 1, [0.5, 0.6], seed=0, checkpoints=3)
    newest = line("b", 100, [0.5, 0.6], seed=1)
    (row, _) = table_rows([averaged, newest], newest)
    last = np.mean([seed[-1].successes.mean() for seed in averaged.cells])
    assert row["success_difference"] == pytest.approx(last - newest.successes.mean())
    assert row["success_difference"] != pytest.approx(row["success"] - newest.successes.mean())
    assert row["checkpoint_rule"] == "mean of the last 3 checkpoints", "the line keeps its own value"
    assert row["reference_checkpoint_rule"] == "last checkpoint"
    other = line("c", 1, [0.5, 0.6], seed=2, checkpoints=3)
    (row, _) = table_rows([averaged, other], other)
    assert row["reference_checkpoint_rule"] == "mean of the last 3 checkpoints"
    assert row["success_difference"] == pytest.approx(averaged.successes.mean() - other.successes.mean())
    text = results_table(table_rows([averaged, newest], newest)).markdown()
    assert "Both sides of '− b, 100 steps' are the last checkpoint." in text


def test_step_counts_of_the_same_trainings_are_paired_and_methods_are_not():
    one, four = line("a", 1, [0.3, 0.5, 0.7], 0), line("a", 4, [0.4, 0.6, 0.8], 1)
    other = Measured("b", [[cell(seed[0].successes, 4)] for seed in four.cells])
    (paired, _), (independent, _) = table_rows([one, four], four), table_rows([one, other], other)
    assert paired["success_difference"] == independent["success_difference"]
    assert (paired["p_method"], independent["p_method"]) == (
        "t, paired trainings",
        "t, independent trainings",
    )
    assert paired["success_p_value"] < independent["success_p_value"]


def test_one_training_shows_a_difference_and_no_test():
    several, one = line("a", 1, [0.9, 0.9, 0.9], 0), line("b", 100, [0.1], 1)
    rows = table_rows([several, one], one)
    text = results_table(rows).markdown()
    assert f"| {100 * rows[0]['success_difference']:+.0f}; one training: no test |" in text
    assert "p = " not in text and "p < " not in text
    assert rows[0]["success_p_value"] is rows[0]["success_p_adjusted"] is None
    assert rows[0]["success_difference_ci"] is None


@pytest.mark.parametrize("graded", [True, False])
def test_p_values_are_corrected_for_the_tests_of_the_table(graded: bool):
    reference = line("r", 100, [0.5, 0.55, 0.5, 0.45], 0, graded=graded)
    others = [
        line(name, 1, [rate + add for add in (0, 0.03, -0.03, 0.0)], seed, graded=graded)
        for seed, (name, rate) in enumerate((("a", 0.62), ("b", 0.6), ("c", 0.5)), start=1)
    ]
    rows = table_rows([*others, line("alone", 1, [0.9], 9, graded=graded), reference], reference)
    raw = [row["success_p_value"] for row in rows[:3]]
    tests = 6 if graded else 3  # score and success, or one of them where they are the same
    assert rows[0]["success_p_adjusted"] == pytest.approx(min(1, tests * min(raw)))
    assert rows[0]["success_p_value"] == min(raw) < rows[0]["success_p_adjusted"]
    assert rows[0]["score_p_adjusted"] == pytest.approx(rows[0]["success_p_adjusted"])
    assert f"corrected for the {tests} tests of the table (Holm)" in results_table(rows).caption
    shown = results_table(rows).markdown()
    assert f"(p = {rows[0]['success_p_adjusted']:.3f})" in shown
    assert f"(p = {raw[0]:.3f})" not in shown


@pytest.mark.parametrize("folder", PUBLISHED)
def test_published_tables_are_those_of_the_published_rows(folder: str):
    rows = json.loads((ROOT / "results" / folder / "results.json").read_text())
    table = results_table(rows).markdown()
    assert (ROOT / "results" / folder / "results.md").read_text() == table
    assert table.strip() in (ROOT / f"{PUBLISHED[folder]}.md").read_text()
    again = [dict(row) for row in rows]
    adjust(again)
    for row, other in zip(rows, again, strict=True):
        keys = [key for key in row if key.endswith("_p_adjusted")]
        assert len(keys) == 6 and [row[key] for key in keys] == pytest.approx([other[key] for key in keys])
