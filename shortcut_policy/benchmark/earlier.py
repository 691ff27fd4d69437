"""Latencies and training compute of published results, where they are not measured again."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortcut_policy.benchmark.methods import Method
from shortcut_policy.benchmark.result_files import read_rows
from shortcut_policy.benchmark.table import row_label
from shortcut_policy.benchmark.text_table import ResultRows
from shortcut_policy.errors import InputError
from shortcut_policy.rollout.latency import Latency


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


def earlier_latencies(lines: Sequence[tuple[str, int]], earlier: ResultRows) -> list[Latency]:
    """The latencies of lines, each a method and its steps, as ``earlier`` has them, without their repeats."""
    known: Mapping[tuple[str, int], Mapping[str, Any]] = {(row["name"], row["steps"]): row for row in earlier}
    rows = [known[line] for line in lines]
    return [
        Latency(row["latency_ms_p50"], row["latency_ms_p95"], 0, row["device"], row["threads"])
        for row in rows
    ]
