"""Does the default hold on other data and in shorter trainings, with nothing set for them?

    python benchmarks/transfer.py --data pusht_human pusht can_scripted --budgets 0.25 0.5 1

For each task and budget, a part of the default number of updates, ``configs/benchmark_transfer.yaml`` trains
the default and flow matching, three seeds each, and plays them. Three things are asked of one step: a score
within 0.015 of what the same checkpoints have with their best number of steps, strict success within five
points of it, and neither below one step of flow matching. Written after every task and budget; what is
finished is not done again, and rows of tasks and budgets that are not named stay. ``--more`` is given to
every benchmark, ``workers=2`` for example.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from shortcut_policy.benchmark.result_files import read_rows
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR, write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = Path("results/transfer/results.json")
BUDGETS = (0.25, 0.5, 1.0)
SCORE, SUCCESS = 0.015, 0.05
KEPT = ("method", "steps", "score", "score_ci", "success", "success_ci", "seeds", "episodes", "train_seconds")


def main() -> None:
    """Train, play, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", nargs="+", required=True, help="tasks: pusht_human, pusht, can_scripted ..."
    )
    parser.add_argument("--budgets", nargs="+", type=float, choices=BUDGETS, default=list(BUDGETS))
    parser.add_argument("--folder", type=Path, default=Path("outputs/transfer"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--more", nargs="*", default=[], help="settings of every benchmark")
    options = parser.parse_args()
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        whole = compose("train", ["task=pusht"]).trainer.max_steps
    cells = read(options.output) if options.output.exists() else []
    for data in options.data:
        for budget in options.budgets:
            folder = options.folder / f"{data.replace('/', '_')}_{budget:g}"
            rows = benchmark(data, round(budget * whole), folder, options.more)
            others = [cell for cell in cells if (cell["task"], cell["budget"]) != (data, budget)]
            cells = sorted(
                [*others, judged(data, budget, rows)], key=lambda one: (one["task"], one["budget"])
            )
            write(options.output, cells)


def benchmark(data: str, updates: int, folder: Path, more: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a benchmark, which goes on where it was."""
    packages = os.pathsep.join(str(ROOT / part) for part in ("", "envs"))
    status = subprocess.run(
        [
            *(sys.executable, str(ROOT / "scripts/benchmark.py"), "--config-name", "benchmark_transfer"),
            *(f"data={data}", f"updates={updates}", f"output={folder}", *more),
        ],
        env={**os.environ, "PYTHONPATH": packages},
    ).returncode
    if status:
        raise SystemExit(f"the benchmark of {data} with {updates} updates ended with status {status}")
    try:
        return read_rows(folder)
    except InputError as error:
        raise SystemExit(
            f"other processes are at the benchmark of {data} with {updates} updates and make its table: give "
            f"the command again when they have ended ({error})"
        ) from error


def judged(data: str, budget: float, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows of a task and budget, and how far one step is behind."""
    own = [row for row in rows if row["name"] == "shortcut"]
    one = next(row for row in own if row["steps"] == 1)
    flow = next(row for row in rows if row["name"] == "flow matching" and row["steps"] == 1)
    behind = {key: max(row[key] for row in own) - one[key] for key in ("score", "success")}
    ahead = {key: one[key] - flow[key] for key in ("score", "success")}
    return {
        "task": data,
        "budget": budget,
        "updates": one["train_steps"],
        "behind_its_best": behind,
        "ahead_of_flow_matching": ahead,
        "level": bool(behind["score"] <= SCORE and behind["success"] <= SUCCESS),
        "never_below": bool(min(ahead.values()) >= 0),
        "commit": one["commit"],
        "rows": [{"task": data, "budget": budget} | {key: row[key] for key in KEPT} for row in rows],
    }


def read(output: Path) -> list[dict[str, Any]]:
    """The cells that `write` wrote, each with its rows."""
    document = json.loads(output.read_text("utf-8"))

    def of(cell: dict[str, Any]) -> list[dict[str, Any]]:
        place = (cell["task"], cell["budget"])
        return [row for row in document["rows"] if (row["task"], row["budget"]) == place]

    return [cell | {"rows": of(cell)} for cell in document["cells"]]


def write(output: Path, cells: Sequence[dict[str, Any]]) -> None:
    """The rows of all cells, and what each comes to."""
    document = {
        "command": command_line(),
        "commit": commit(),
        "versions": library_versions(),
        "rows": [row for cell in cells for row in cell["rows"]],
        "cells": [{key: value for key, value in cell.items() if key != "rows"} for cell in cells],
    }
    write_atomic(output, json.dumps(document, indent=2) + "\n")
    for cell in cells:
        behind, ahead = cell["behind_its_best"], cell["ahead_of_flow_matching"]
        print(
            f"{cell['task']}, {cell['budget']:g} of the updates: one step is {behind['score']:.3f} and "
            f"{behind['success']:.0%} behind its best, {ahead['score']:.3f} and {ahead['success']:.0%} ahead "
            "of flow matching",
            flush=True,
        )


if __name__ == "__main__":
    main()
