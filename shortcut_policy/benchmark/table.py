"""Rows of a results table, from evaluations to JSON and to text."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.benchmark.text_table import ResultRows, TextTable, count_of
from shortcut_policy.rollout.episode import read_episodes
from shortcut_policy.rollout.latency import Latency
from shortcut_policy.rollout.statistics import bootstrap_interval, compare_methods, holm, success_interval

#: Kind of comparison -> what its keys in a row begin with.
PREFIXES = {"reference": "", "baseline": "baseline_", "own": "own_"}
#: Kinds that are shown, and corrected for their number, together.
FAMILIES = (("reference", "baseline"), ("own",))


@dataclass(frozen=True)
class Cell:
    """One policy at one step count: what `evaluate` returned, and the values of each start.

    ``tasks`` are the names of what was played at each start, empty texts where the environment names nothing.
    """

    summary: dict[str, Any]
    scores: np.ndarray
    successes: np.ndarray
    tasks: Sequence[str] = ()

    @classmethod
    def read(cls, summary: dict[str, Any], folder: Path) -> "Cell":
        """Add the per-start values kept in ``folder``."""
        episodes = read_episodes(folder / "episodes.jsonl")
        return cls(
            summary,
            np.array([episode["score"] for episode in episodes]),
            np.array([float(episode["success"]) for episode in episodes]),
            [episode.get("task", "") for episode in episodes],
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
        """(seeds, starts), averaged over the checkpoints of a seed; see `over_tasks`."""
        return self.over_tasks(
            np.stack([np.mean([cell.scores for cell in seed], axis=0) for seed in self.cells])
        )

    @property
    def successes(self) -> np.ndarray:
        """(seeds, starts), averaged over the checkpoints of a seed; see `over_tasks`."""
        return self.over_tasks(self.success_of_starts)

    @property
    def success_of_starts(self) -> np.ndarray:
        """(seeds, starts), averaged over the checkpoints of a seed."""
        return np.stack([np.mean([cell.successes for cell in seed], axis=0) for seed in self.cells])

    @property
    def tasks(self) -> dict[str, np.ndarray]:
        """Task -> numbers of its starts, which are the same in all cells; empty if there is one task."""
        played = np.array(self.cells[0][0].tasks)
        names = np.unique(played)
        return {str(name): np.flatnonzero(played == name) for name in names} if len(names) > 1 else {}

    def over_tasks(self, values: np.ndarray) -> np.ndarray:
        """(seeds, starts) to (seeds, tasks), the mean of each task's starts, where there are several tasks.

        A task is drawn first and then its starts: what is resampled and tested is the task, as other tasks
        would differ by more than other starts of these.
        """
        tasks = self.tasks
        if not tasks:
            return values
        return np.stack([values[:, starts].mean(axis=1) for starts in tasks.values()], axis=1)

    @property
    def label(self) -> str:
        """Name and steps."""
        return row_label(self.name, self.steps)

    @property
    def steps(self) -> int:
        """Sampling steps."""
        return int(self.cells[0][-1].summary["settings"]["steps"])

    @property
    def checkpoint_rule(self) -> str:
        """Which checkpoints of a training its values are of."""
        count = len(self.cells[0])
        return "last checkpoint" if count == 1 else f"mean of the last {count} checkpoints"

    def last(self, count: int) -> "Measured":
        """The same line by the last ``count`` of its checkpoints."""
        return replace(self, cells=[seed[-count:] for seed in self.cells])

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

    Of several tasks values are means over tasks, tasks are resampled in place of starts, and ``tasks`` has
    each of them, with an interval over seeds and its starts.
    """
    newest = measured.cells[0][-1].summary
    policy = newest["policy"]
    latency = asdict(measured.latency) if measured.latency else newest["latency"]
    success_ci, success_ci_method = success_interval(measured.successes)
    return {
        "name": measured.name,
        # A policy that no trainer has filled in does not say all of it.
        **{name: policy.get(name, "unknown") for name in ("method", "backbone")},
        "task": policy["task"]["name"],
        "dataset": policy.get("dataset", "unknown"),
        "steps": measured.steps,
        "nfe": newest["network_evaluations"],
        "seeds": len(measured.cells),
        "episodes": newest["episodes"],
        "first_episode_seed": newest["settings"]["seed"],
        "checkpoint_rule": measured.checkpoint_rule,
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
        "train_steps": policy.get("train_steps", 0),
        "train_seconds": policy.get("train_seconds"),
        "train_nfe_per_step": policy.get("train_nfe_per_step"),
        "train_commit": policy.get("commit"),
        "commit": commit,
        "command": command,
        **_of_tasks(measured),
    }


def _of_tasks(measured: Measured) -> dict[str, Any]:
    """What a row says of several tasks; nothing if there is one."""
    successes, tasks = measured.success_of_starts, {}
    for name, starts in measured.tasks.items():
        interval, method = success_interval(successes[:, starts])
        success = float(successes[:, starts].mean())
        tasks[name] = {
            "episodes": len(starts),
            "success": success,
            "success_ci": interval,
            "success_ci_method": method,
        }
    return {"success_over_tasks": float(measured.successes.mean()), "tasks": tasks} if tasks else {}


def add_comparison(
    row: dict[str, Any], measured: Measured, other: Measured | None, kind: str = "reference"
) -> None:
    """Add the differences to ``other`` on the same starts, or what says that there are none.

    Both sides are taken at the checkpoints that both lines have: where the other has its last one alone, so
    it is here, and the difference need not be that of the values of the two rows. Lines of one name are the
    same trainings at other step counts, which are compared training by training.

    Args:
        row: Gets the keys ``kind`` (label of the other line), ``kind_checkpoint_rule``, and behind the prefix
            of `PREFIXES` ``score_difference``, ``score_difference_ci``, ``score_p_value``, the same for
            ``success``, and ``p_method``; see `compare_methods`. `adjust` adds the adjusted p-values.
        measured: The line of the row.
        other: The line that it is compared with; None, or ``measured`` itself, for no comparison.
        kind: A key of `PREFIXES`.
    """
    prefix, found = PREFIXES[kind], other is not None and other is not measured
    row[kind] = row[f"{kind}_checkpoint_rule"] = row[f"{prefix}p_method"] = None
    for key in ("score", "success"):
        row |= dict.fromkeys(f"{prefix}{key}_{what}" for what in ("difference", "difference_ci", "p_value"))
    if other is None or not found:
        return
    count = min(len(measured.cells[0]), len(other.cells[0]))
    same, a, b = measured.name == other.name, measured.last(count), other.last(count)
    row[kind], row[f"{kind}_checkpoint_rule"] = other.label, a.checkpoint_rule
    for key, one, two in (("score", a.scores, b.scores), ("success", a.successes, b.successes)):
        compared = compare_methods(one, two, same_trainings=same)
        row[f"{prefix}{key}_difference"] = compared.difference
        row[f"{prefix}{key}_difference_ci"] = compared.interval
        row[f"{prefix}{key}_p_value"] = compared.p_value
        row[f"{prefix}p_method"] = compared.method


def adjust(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each ``..._p_value`` an ``..._p_adjusted``, corrected by `holm` for the tests of its family.

    A family is what stands in one table: the tests of score and success against ``reference`` and
    ``baseline``; those against the same method at its fewest steps are another. Where score and success are
    one number, its test counts once.
    """
    graded = is_graded(rows)
    for kinds in FAMILIES:
        keys = [f"{PREFIXES[kind]}{key}_p" for kind in kinds for key in ("score", "success")]
        counted = [key for key in keys if graded or key.endswith("success_p")]
        places = [(row, key) for row in rows for key in counted]
        adjusted = holm([row.get(f"{key}_value") for row, key in places])
        for (row, key), value in zip(places, adjusted, strict=True):
            row[f"{key}_adjusted"] = value
            if not graded:
                row[f"{key.replace('success', 'score')}_adjusted"] = value


def is_graded(rows: ResultRows) -> bool:
    """Whether the task scores what falls short of success; if not, score and success are one number."""
    return any(row["score"] != row["success"] for row in rows)


def results_table(rows: ResultRows) -> TextTable:
    """The rows for readers; comparisons, and scores beside successes, have a column where there are any."""
    graded = is_graded(rows)
    measures = ["score", "strict success"] if graded else ["success"]
    header = ["method", "steps", "NFE", *measures, "latency p50 / p95 (ms)"]
    lines = [_cells(row, graded) for row in rows]
    for kind, title in _shown(rows).items():
        header.append(title)
        lines = [
            [*line, _difference(row, graded, PREFIXES[kind])] for line, row in zip(lines, rows, strict=True)
        ]
    return TextTable(header, lines, _caption(rows))


def _shown(rows: ResultRows) -> dict[str, str]:
    """Kind of comparison -> title of its column, of those that there are."""
    titles = {}
    reference = next((row["reference"] for row in rows if row["reference"]), None)
    if reference:
        titles["reference"] = f"− {reference}"
    baseline = _baseline(rows)
    if baseline:
        titles["baseline"] = f"− {baseline}, same steps"
    return titles


def _caption(rows: ResultRows) -> str:
    """What a reader must know, in sentences."""
    first = rows[0]
    rules = _mostly({_label(row): row["checkpoint_rule"] for row in rows})
    data = _mostly({row["name"]: f"{row['task']}, {row['dataset']}" for row in rows})
    updates = _mostly({row["name"]: count_of(row["train_steps"], "update") for row in rows})
    seeds = _mostly({row["name"]: count_of(row["seeds"], "training seed") for row in rows})
    tasks = first.get("tasks")
    of_tasks, unit = (f", the mean over {len(tasks)} tasks", "tasks") if tasks else ("", "starts")
    text = (
        f"Task and data: {data}. Each method has {updates} and {seeds}. A line is the {rules} on "
        f"{first['episodes']} starts from seed {first['first_episode_seed']}{of_tasks}. Brackets hold 95% "
        f"intervals: over training seeds and {unit} together, or over {unit} alone where there is one seed, "
        "which says nothing of another training. NFE is the number of network evaluations for an action "
        "chunk, latency "
        f"the time for one at batch size 1 on {first['device']}, {count_of(first['threads'], 'thread')}."
    )
    if any(row["score_peak"] is not None for row in rows):
        text += (
            " The peak is the best of these checkpoints, chosen on the starts it is reported for, and so "
            "too favourable; papers often report it."
        )
    return text + _compared(rows)


def _compared(rows: ResultRows) -> str:
    """The sentences about the comparisons."""
    shown = _shown(rows)
    if not shown:
        return ""
    measures = "score and in percentage points of strict success" if is_graded(rows) else "percentage points"
    text = f" Differences are in {measures}."
    for kind, title in shown.items():
        rules = _mostly({_label(row): row[f"{kind}_checkpoint_rule"] for row in rows if row[kind]})
        text += f" Both sides of '{title}' are the {rules}."
    keys = ("score", "success") if is_graded(rows) else ("success",)
    tests = [row[f"{PREFIXES[kind]}{key}_p_value"] for row in rows for kind in shown for key in keys]
    count = sum(value is not None for value in tests)
    if not count:
        return f"{text} With one training of a method there is no test."
    common = "tasks" if rows[0].get("tasks") else "starts"
    return text + (
        f" p-values are of t-tests whose unit is the training, on common {common}, and are corrected for the "
        f"{count} tests of the table (Holm). With one training of a method there is no test."
    )


def _label(row: Mapping[str, Any]) -> str:
    return row_label(row["name"], row["steps"])


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


def _difference(row: Mapping[str, Any], graded: bool, prefix: str) -> str:
    if row[f"{prefix}score_difference"] is None:
        return "–"
    texts = [f"{row[f'{prefix}score_difference']:+.3f}"] if graded else []
    texts.append(f"{100 * row[f'{prefix}success_difference']:+.0f}")
    if row[f"{prefix}success_p_value"] is None:
        return f"{', '.join(texts)}; {row[f'{prefix}p_method']}"
    keys = ("score", "success") if graded else ("success",)
    adjusted = [p_value(row[f"{prefix}{key}_p_adjusted"]) for key in keys]
    return ", ".join(f"{text} ({p})" for text, p in zip(texts, adjusted, strict=True))


def p_value(value: float) -> str:
    """A p-value for readers."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
