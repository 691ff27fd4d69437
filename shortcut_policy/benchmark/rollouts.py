"""Checkpoints x step counts on the same starts, each evaluated in a folder of its own, and one table."""

import json
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from shortcut_policy.adaptive import Auto, say_untaught
from shortcut_policy.benchmark.table import (
    Cell,
    Measured,
    add_comparison,
    make_row,
    results_table,
    row_label,
)
from shortcut_policy.benchmark.task_table import OF_TASKS, task_table
from shortcut_policy.errors import InputError
from shortcut_policy.paths import write_atomic
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.config import RolloutConfig
from shortcut_policy.rollout.delays import Execution
from shortcut_policy.rollout.evaluate import EvaluationProtocol, RolloutOptions, check, evaluate, task_of


def roll_out(config: RolloutConfig) -> None:
    """Roll checkpoints out, print the table and write ``results.json``.

    That file gets each row before the next evaluation begins, which may fail.

    Raises:
        InputError: a checkpoint, step count or environment cannot be used; nothing has been rolled out then.
    """
    paths, counts, rules = config.checkpoints, config.step_counts, config.protocol
    names = [checkpoint_name(path) for path in paths]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"two of the checkpoints are called {twice}, and the files of one would replace the other's: "
            "roll them out one by one, with an output folder each"
        )
    policies = [load_policy(path, config.device, config.trust) for path in paths]
    tasks = {task_of(policy)["name"] for policy in policies}
    if len(tasks) > 1:
        raise InputError(
            f"the checkpoints are of the tasks {', '.join(sorted(tasks))}: one table holds one task, roll "
            "them out one by one"
        )
    for policy in policies:
        check(policy, counts, rules, config.guidance, config.execution)
        for steps in counts:
            say_untaught(policy.objective, policy.metadata, steps)
    output = config.output
    rows = []
    for (name, policy), steps in product(zip(names, policies, strict=True), counts):
        how = (config.guidance, config.execution)
        rows.append(measure(policy, name, steps, output / name, rules, config.options, *how)[0])
        write_atomic(output / "results.json", json.dumps(rows, indent=2) + "\n")
    console = Console()
    for table in (results_table(rows), task_table(rows)):
        if table is not None:
            console.print(table.rich())
    console.print(f"Episodes, summaries and figures are in {output}", highlight=False)


def measure(
    policy: Policy,
    name: str,
    steps: int | Auto,
    output: Path,
    rules: EvaluationProtocol,
    options: RolloutOptions,
    guidance: float | None = None,
    execution: Execution | None = None,
) -> tuple[dict[str, Any], Cell, Path]:
    """Evaluate ``policy`` in a folder under ``output``.

    Returns:
        The row for tables, in which ``name`` is the method; the values of each start; the folder.
    """
    if isinstance(steps, Auto):
        setting = {"steps": "auto", "tolerance": steps.tolerance, "max_steps": steps.max_steps}
        folder, title = output / f"auto_{steps.tolerance:g}", f"{name}, auto, tolerance {steps.tolerance:g}"
    else:
        setting, folder, title = {}, output / f"steps_{steps:03d}", row_label(name, steps)
    if guidance is not None:
        setting, folder = setting | {"guidance": guidance}, folder.with_name(f"{folder.name}_w_{guidance:g}")
        title = f"{title}, guidance {guidance:g}"
    if execution is not None and execution.words:
        folder = folder.with_name(f"{folder.name}_{execution.words.replace(', ', '_').replace(' ', '_')}")
        setting, title = setting | execution.setting, f"{title}, {execution.words}"
        name = f"{name}, {execution.words}"
    summary = evaluate(policy, steps, folder, rules, options, title, guidance, execution)
    cell = Cell.read(summary, folder)
    measured = Measured(name, [[cell]])
    row = make_row(measured, command_line(), commit())
    add_comparison(row, measured, None)
    motion = {key: summary[key] for key in ("jerk", "border_jump", "inner_step", "held")}
    tasks = {key: summary[key] for key in OF_TASKS if key in summary}
    return row | setting | motion | tasks, cell, folder


def checkpoint_name(path: str | Path) -> str:
    """Call ``runs/a/checkpoints/step_00014000`` "a/step_00014000", and any other folder by its name."""
    folder = Path(path).resolve()
    return f"{folder.parents[1].name}/{folder.name}" if folder.parent.name == "checkpoints" else folder.name
