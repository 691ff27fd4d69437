"""Success of each task, of environments that play several."""

from collections.abc import Mapping
from typing import Any

from shortcut_policy.benchmark.table import row_label
from shortcut_policy.benchmark.text_table import ResultRows, TextTable, count_of

#: What a row has of several tasks, beside what every row has.
OF_TASKS = ("success_at_end", "success_over_tasks", "tasks")
#: Columns up to which each number has its interval beside it.
MOST_INTERVALS = 4


def task_table(rows: ResultRows) -> TextTable | None:
    """A line for each task and a column for each row; None if no row is of several tasks."""
    told = [row for row in rows if row.get("tasks")]
    if not told:
        return None
    names = sorted({name for row in told for name in row["tasks"]})
    header = ["task", *(row_label(row["name"], row["steps"]) for row in told)]
    wide = len(told) > MOST_INTERVALS
    lines = [[name, *(_cell(row["tasks"].get(name), wide) for row in told)] for name in names]
    lines.append(["mean over tasks", *(f"{row['success_over_tasks']:.1%}" for row in told)])
    starts = sorted({task["episodes"] for row in told for task in row["tasks"].values()})
    many = count_of("-".join(map(str, sorted({starts[0], starts[-1]}))), "start")
    seeds = any(row.get("seeds", 1) > 1 for row in told)
    intervals = f", with 95% intervals{' over training seeds and starts' if seeds else ''}"
    caption = f"Success of each task on {many}{'' if wide else intervals}."
    if any("success_at_end" in task for row in told for task in row["tasks"].values()):
        caption += " After the stroke: success at the last step, too."
    return TextTable(header, lines, caption)


def task_pair(rows: ResultRows) -> tuple[Mapping[str, Any], Mapping[str, Any]] | None:
    """The first method at its fewest steps, and the line that it is compared with; None without tasks."""
    own = [row for row in rows if row["name"] == rows[0]["name"] and row.get("tasks")]
    one = min(own, key=lambda row: row["steps"], default=None)
    if one is None:
        return None
    other = next((row for row in rows if row_label(row["name"], row["steps"]) == one["reference"]), None)
    return None if other is None else (one, other)


def _cell(task: Mapping[str, Any] | None, wide: bool) -> str:
    if task is None:
        return "–"
    text = "{:.0%}".format(task["success"])
    if not wide:
        text += " [{:.0%}, {:.0%}]".format(*task["success_ci"])
    return f"{text} / {task['success_at_end']:.0%}" if "success_at_end" in task else text
