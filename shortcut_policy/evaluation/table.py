"""Rows of a results table: from evaluated folders to JSON, Markdown and the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from shortcut_policy.errors import InputError
from shortcut_policy.evaluation.episode import read_episodes
from shortcut_policy.evaluation.latency import Latency
from shortcut_policy.evaluation.statistics import (
    bootstrap_interval,
    paired_scores,
    paired_successes,
    success_interval,
)
from shortcut_policy.paths import write_atomic

Rows = Sequence[Mapping[str, Any]]
HEADER = ("method", "steps", "NFE", "score", "strict success", "latency p50 / p95 (ms)", "score - reference")


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


def add_comparison(row: dict[str, Any], measured: Measured, reference: Measured | None) -> None:
    """Add the paired difference to ``reference`` on the same starts, or what says that there is none."""
    if reference is None or reference is measured:
        row.update(reference=None, score_difference=None, score_p_value=None)
        row.update(success_difference=None, success_p_value=None, success_p_method=None)
        return
    score = paired_scores(measured.scores.mean(axis=0), reference.scores.mean(axis=0))
    success = paired_successes(measured.successes.mean(axis=0), reference.successes.mean(axis=0))
    row.update(
        reference=reference.label,
        score_difference=score.difference,
        score_p_value=score.p_value,
        success_difference=success.difference,
        success_p_value=success.p_value,
        success_p_method=success.method,
    )


def table_lines(rows: Rows) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Header and texts of the table; without a reference there is no column of differences."""
    compared = any(row["reference"] for row in rows)
    lines = [_cells(row) for row in rows]
    columns = len(HEADER) if compared else len(HEADER) - 1
    return HEADER[:columns], [line[:columns] for line in lines]


def caption(rows: Rows) -> str:
    """What a reader must know to read the table, in a few sentences."""
    first = rows[0]
    seeds = count_of(" or ".join(map(str, sorted({row["seeds"] for row in rows}))), "training seed")
    reference = next((row["reference"] for row in rows if row["reference"]), None)
    text = (
        f"{first['task']}, {first['dataset']}; {_checkpoint_rules(rows)}; {seeds}; {first['episodes']} "
        f"starts from seed {first['first_episode_seed']}; brackets hold 95% intervals. NFE = network "
        f"evaluations per action chunk. Latency of one action chunk at batch size 1 on {first['device']}, "
        f"{count_of(first['threads'], 'thread')}."
    )
    if reference:
        text += f" The last column is the paired difference to {reference}, with its p-value."
    return text


def markdown(rows: Rows) -> str:
    """The table in Markdown, with its caption."""
    header, lines = table_lines(rows)
    texts = [header, [":--"] + ["--:"] * (len(header) - 1), *lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in texts) + "\n\n" + caption(rows) + "\n"


def terminal_table(rows: Rows) -> Table:
    """The table for `rich.print`."""
    header, lines = table_lines(rows)
    table = Table(caption=caption(rows), caption_justify="left")
    for title in header:
        table.add_column(title, justify="left" if title == "method" else "right")
    for row, line, following in zip(rows, lines, [*rows[1:], rows[-1]], strict=True):
        table.add_row(*line, end_section=row["name"] != following["name"])
    return table


def place_in(document: Path, marker: str) -> tuple[str, str]:
    """What stands before and after ``<!-- results:marker -->...<!-- /results -->`` in a Markdown file.

    Raises:
        InputError: the file does not exist or has no such pair of markers.
    """
    opening, closing = f"<!-- results:{marker} -->", "<!-- /results -->"
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    before, found, rest = text.partition(opening)
    _, closed, after = rest.partition(closing)
    if not (found and closed):
        raise InputError(
            f"{document}: no place for the table; add the lines '{opening}' and '{closing}' to it"
        )
    return before + opening, closing + after


def write_into(document: Path, marker: str, text: str) -> None:
    """Put ``text`` into the place that `place_in` finds, and leave the rest of the document alone."""
    before, after = place_in(document, marker)
    write_atomic(document, f"{before}\n{text.strip()}\n{after}")


def _checkpoint_rules(rows: Rows) -> str:
    """The rule of most rows, and which rows follow another one."""
    rules = [row["checkpoint_rule"] for row in rows]
    common = max(rules, key=rules.count)
    others = [
        f"{rule} for {row_label(row['name'], row['steps'])}"
        for row, rule in zip(rows, rules, strict=True)
        if rule != common
    ]
    return f"{common} ({', '.join(others)})" if others else common


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    score = "{:.3f} [{:.3f}, {:.3f}]".format(row["score"], *row["score_ci"])
    success = "{:.0%} [{:.0%}, {:.0%}]".format(row["success"], *row["success_ci"])
    if row["score_peak"] is not None:
        score += f" (peak {row['score_peak']:.3f})"
        success += f" (peak {row['success_peak']:.0%})"
    latency = f"{row['latency_ms_p50']:.1f} / {row['latency_ms_p95']:.1f}"
    difference = "reference"
    if row["reference"]:
        difference = f"{row['score_difference']:+.3f} ({_p_value(row['score_p_value'])})"
    return row["name"], str(row["steps"]), str(row["nfe"]), score, success, latency, difference


def count_of(number: int | str, noun: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def _p_value(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
