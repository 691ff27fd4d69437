"""Rows of a results table, from evaluations to JSON and to text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.benchmark.text_table import ResultRows, TextTable, count_of
from shortcut_policy.rollout.episode import read_episodes
from shortcut_policy.rollout.latency import Latency
from shortcut_policy.rollout.statistics import (
    bootstrap_interval,
    paired_scores,
    paired_successes,
    success_interval,
)


@dataclass(frozen=True)
class Cell:
    """One policy at one step count: what `evaluate` returned, and the values of each start."""

    summary: dict[str, Any]
    scores: np.ndarray
    successes: np.ndarray

    @classmethod
    def read(cls, summary: dict[str, Any], folder: Path) -> "Cell":
        """Add the per-start values kept in ``folder``."""
        episodes = read_episodes(folder / "episodes.jsonl")
        return cls(
            summary,
            np.array([episode["score"] for episode in episodes]),
            np.array([float(episode["success"]) for episode in episodes]),
        )


@dataclass(frozen=True)
class Measured:
    """One line of the table: every training seed's last checkpoints at one step count.

    Attributes:
        name: Of the method, as the table calls it.
        cells: Training seed -> checkpoints, newest last. All met the same starts.
        latency: Measured for the table, beside the other lines; that of the newest evaluation if None.
    """

    name: str
    cells: Sequence[Sequence[Cell]]
    latency: Latency | None = None

    @property
    def scores(self) -> np.ndarray:
        """(seeds, starts), averaged over the checkpoints of a seed."""
        return np.stack([np.mean([cell.scores for cell in seed], axis=0) for seed in self.cells])

    @property
    def successes(self) -> np.ndarray:
        """(seeds, starts), averaged over the checkpoints of a seed."""
        return np.stack([np.mean([cell.successes for cell in seed], axis=0) for seed in self.cells])

    @property
    def label(self) -> str:
        """Name and steps."""
        return row_label(self.name, self.steps)

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return int(self.cells[0][-1].summary["settings"]["steps"])

    def peak(self, key: str) -> float | None:
        """Mean over seeds of the best checkpoint's ``key``; None if there is only one checkpoint."""
        if len(self.cells[0]) == 1:
            return None
        return float(np.mean([max(cell.summary[key] for cell in seed) for seed in self.cells]))


def row_label(name: str, steps: int) -> str:
    """What a line of the table is called in a sentence."""
    return f"{name}, {count_of(steps, 'step')}"


def make_row(measured: Measured, command: str, commit: str) -> dict[str, Any]:
    """The JSON row of one line.

    Values of a start are averaged over the checkpoints of a training seed first. The bootstrap then resamples
    starts, and training seeds where there are several (crossed). A plain success rate, of one seed and one
    checkpoint, has Wilson's interval. The peak picks the best checkpoint on the very starts it is reported
    on: it flatters, and stands beside the mean for comparison with papers that report it.
    """
    newest = measured.cells[0][-1].summary
    policy = newest["policy"]
    latency = asdict(measured.latency) if measured.latency else newest["latency"]
    success_ci, success_ci_method = success_interval(measured.successes)
    checkpoints = len(measured.cells[0])
    return {
        "name": measured.name,
        "method": policy["method"],
        "backbone": policy["backbone"],
        "task": policy["task"]["name"],
        "dataset": policy["dataset"],
        "steps": measured.steps,
        "nfe": newest["network_evaluations"],
        "seeds": len(measured.cells),
        "episodes": newest["episodes"],
        "first_episode_seed": newest["settings"]["seed"],
        "checkpoint_rule": "last checkpoint"
        if checkpoints == 1
        else f"mean of the last {checkpoints} checkpoints",
        "score": float(measured.scores.mean()),
        "score_ci": bootstrap_interval(measured.scores),
        "score_peak": measured.peak("score"),
        "success": float(measured.successes.mean()),
        "success_ci": success_ci,
        "success_ci_method": success_ci_method,
        "success_peak": measured.peak("success"),
        "latency_ms_p50": round(latency["p50"], 3),
        "latency_ms_p95": round(latency["p95"], 3),
        "latency_batch_size": 1,
        "device": latency["device"],
        "threads": latency["threads"],
        "train_steps": policy["train_steps"],
        "train_seconds": policy.get("train_seconds"),
        "train_nfe_per_step": policy.get("train_nfe_per_step"),
        "train_commit": policy.get("commit"),
        "commit": commit,
        "command": command,
    }


def add_comparison(
    row: dict[str, Any], measured: Measured, other: Measured | None, kind: str = "reference"
) -> None:
    """Add the paired differences to ``other`` on the same starts, or what says that there are none.

    Args:
        row: Gets the keys ``kind`` (label of the other line) and ``kind_score_difference`` and so on; those
            of the reference go without the prefix.
        measured: The line of the row.
        other: The line that it is compared with; None, or ``measured`` itself, for no comparison.
        kind: ``reference`` or ``baseline``.
    """
    prefix = "" if kind == "reference" else f"{kind}_"
    row[kind] = None if other is None or other is measured else other.label
    score = success = None
    if other is not None and other is not measured:
        score = paired_scores(measured.scores.mean(axis=0), other.scores.mean(axis=0))
        success = paired_successes(measured.successes.mean(axis=0), other.successes.mean(axis=0))
    row[f"{prefix}score_difference"] = score and score.difference
    row[f"{prefix}score_p_value"] = score and score.p_value
    row[f"{prefix}success_difference"] = success and success.difference
    row[f"{prefix}success_p_value"] = success and success.p_value
    row[f"{prefix}success_p_method"] = success and success.method


def is_graded(rows: ResultRows) -> bool:
    """Whether the task scores what falls short of success; if not, score and success are one number."""
    return any(row["score"] != row["success"] for row in rows)


def results_table(rows: ResultRows) -> TextTable:
    """The rows for readers; comparisons, and scores beside successes, have a column where there are any."""
    graded = is_graded(rows)
    measures = ["score", "strict success"] if graded else ["success"]
    header = ["method", "steps", "NFE", *measures, "latency p50 / p95 (ms)"]
    lines = [_cells(row, graded) for row in rows]
    reference = next((row["reference"] for row in rows if row["reference"]), None)
    if reference:
        header.append(f"− {reference}")
        lines = [[*line, _difference(row, graded)] for line, row in zip(lines, rows, strict=True)]
    baseline = _baseline(rows)
    if baseline:
        header.append(f"− {baseline}, same steps")
        lines = [
            [*line, _difference(row, graded, "baseline_")] for line, row in zip(lines, rows, strict=True)
        ]
    return TextTable(header, lines, _caption(rows, bool(reference or baseline)))


def _caption(rows: ResultRows, compared: bool) -> str:
    first = rows[0]
    rules = _mostly({row_label(row["name"], row["steps"]): row["checkpoint_rule"] for row in rows})
    data = _mostly({row["name"]: f"{row['task']}, {row['dataset']}" for row in rows})
    updates = _mostly({row["name"]: count_of(row["train_steps"], "update") for row in rows})
    seeds = _mostly({row["name"]: count_of(row["seeds"], "training seed") for row in rows})
    text = (
        f"{data}; {updates}; {rules}; {seeds}; {first['episodes']} starts from "
        f"seed {first['first_episode_seed']}; brackets hold 95% intervals. NFE = network evaluations per "
        f"action chunk. Latency of one action chunk at batch size 1 on {first['device']}, "
        f"{count_of(first['threads'], 'thread')}."
    )
    if any(row["score_peak"] is not None for row in rows):
        text += (
            " Peak = the best of these checkpoints, chosen on the starts that it is reported for, and so too "
            "favourable; papers often report it."
        )
    if compared:
        measures = "score and in percentage points of strict success" if is_graded(rows) else "points"
        text += (
            f" Differences are in {measures}, with p-values of paired tests over the starts; they know "
            "nothing of the spread between training seeds, which the intervals hold where there are several "
            "(those of two or three seeds that differ much are still too narrow)."
        )
    return text


def _mostly(texts: Mapping[str, str]) -> str:
    """The text of most labels, and which labels have another one."""
    values = list(texts.values())
    common = max(values, key=values.count)
    others = [
        f"{value} for {', '.join(label for label, text in texts.items() if text == value)}"
        for value in dict.fromkeys(values)
        if value != common
    ]
    return f"{common} ({'; '.join(others)})" if others else common


def _cells(row: Mapping[str, Any], graded: bool) -> list[str]:
    score = "{:.3f} [{:.3f}, {:.3f}]".format(row["score"], *row["score_ci"])
    success = "{:.0%} [{:.0%}, {:.0%}]".format(row["success"], *row["success_ci"])
    if row["score_peak"] is not None:
        score += f" (peak {row['score_peak']:.3f})"
        success += f" (peak {row['success_peak']:.0%})"
    latency = f"{row['latency_ms_p50']:.1f} / {row['latency_ms_p95']:.1f}"
    measures = [score, success] if graded else [success]
    return [row["name"], str(row["steps"]), f"{row['nfe']:.4g}", *measures, latency]


def _baseline(rows: ResultRows) -> str | None:
    """Name of the method that rows are compared with at the same number of steps."""
    label = next((row["baseline"] for row in rows if row.get("baseline")), None)
    return next((row["name"] for row in rows if row_label(row["name"], row["steps"]) == label), None)


def _difference(row: Mapping[str, Any], graded: bool, prefix: str = "") -> str:
    if row[f"{prefix}score_difference"] is None:
        return "–"
    score = f"{row[f'{prefix}score_difference']:+.3f} ({p_value(row[f'{prefix}score_p_value'])})"
    points = 100 * row[f"{prefix}success_difference"]
    success = f"{points:+.0f} ({p_value(row[f'{prefix}success_p_value'])})"
    return f"{score}, {success}" if graded else success


def p_value(value: float) -> str:
    """A p-value for readers."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
