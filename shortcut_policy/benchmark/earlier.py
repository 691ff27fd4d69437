"""Latencies and training compute of published results, where they are not measured again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortcut_policy.benchmark.methods import Method
from shortcut_policy.benchmark.result_files import read_rows
from shortcut_policy.benchmark.table import row_label
from shortcut_policy.benchmark.text_table import ResultRows
from shortcut_policy.errors import InputError

#: What a row says of its latency.
LATENCY_KEYS = ("latency_ms_p50", "latency_ms_p95", "device", "threads")


def earlier_rows(published: Path | None, methods: Sequence[Method]) -> ResultRows:
    """The published rows, whose latencies are taken with ``measure=false``.

    Raises:
        InputError: there are none, or one of the methods is missing.
    """
    if published is None:
        raise InputError(
            "measure=false takes latencies from published results: name their folder with published=..."
        )
    rows = read_rows(published)
    known = {(row["name"], row["steps"]) for row in rows}
    for method in methods:
        for steps in method.steps:
            if (method.name, steps) not in known:
                raise InputError(
                    f"{published / 'results.json'} has no latency of {row_label(method.name, steps)}, and "
                    "measure=false measures none: leave measure out"
                )
    return rows


def take_latencies(rows: Sequence[dict[str, Any]], earlier: ResultRows) -> None:
    """Replace the latencies of ``rows`` by those of the same lines of ``earlier``."""
    known: Mapping[tuple[str, int], Mapping[str, Any]] = {(row["name"], row["steps"]): row for row in earlier}
    for row in rows:
        measured = known[row["name"], row["steps"]]
        row |= {key: measured[key] for key in LATENCY_KEYS}
