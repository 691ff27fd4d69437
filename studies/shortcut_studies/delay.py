"""What chunks cost that come late, by the way in which they are joined.

Every executor meets the same starts and the same noise at every delay. All but ``prefix`` play the same
policies; those of ``prefix`` learn from the same rows, and are told some of the first actions of each.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from omegaconf import DictConfig
from rich.console import Console

from shortcut_policy.benchmark.rollouts import measure
from shortcut_policy.benchmark.table import Cell, p_value
from shortcut_policy.benchmark.text_table import ResultRows, TextTable, place_in, write_into
from shortcut_policy.benchmark.training_runs import Trainings
from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.trainings import trainings
from shortcut_policy.errors import InputError
from shortcut_policy.figures import COLOURS, STYLE, legend, save
from shortcut_policy.paths import write_atomic
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.chunk_joins import Executor, Joining
from shortcut_policy.rollout.config import EvaluationConfig
from shortcut_policy.rollout.delays import Execution
from shortcut_policy.rollout.statistics import bootstrap_interval, compare_methods, holm, success_interval
from shortcut_policy.settings import Count, Index

MARKER = "delay"
#: What is measured of the motion, see `Motion`.
MOTION = ("jerk", "border_jump", "inner_step", "held")


@dataclass(frozen=True, kw_only=True)
class DelayConfig(EvaluationConfig):
    """Settings of the study; ``studies/configs/delay.yaml`` describes them.

    Attributes:
        training: Overrides of ``configs/train.yaml``.
        seeds: Of the trainings.
        prefix_steps: Of the policies of ``executor=prefix``.
        executors: See `Joining`,
        fade: as well.
        delays: In control steps.
        steps: Sampling steps.
        runs: Folder of the trainings.
        publish: Folder of rows and figure; None for ``output``.
        document: Markdown file that gets the table; None for none.
    """

    training: Sequence[str]
    runs: Path
    seeds: Sequence[Index] = (0, 1, 2)
    prefix_steps: Count = 8
    executors: Sequence[Executor] = ("switch", "crossfade", "prefix", "naive")
    delays: Sequence[Index] = (0, 1, 2, 4, 6, 8)
    fade: Index = 1
    steps: Count = 1
    publish: Path | None = None
    document: Path | None = None

    def execution(self, executor: Executor, delay: int) -> Execution:
        """How a cell of the table is played."""
        return Execution(Joining(executor, fade=self.fade), delay=delay)


#: (executor, delay) -> one cell a training seed.
Cells = dict[tuple[Executor, int], list[Cell]]


def run(config: DictConfig) -> None:
    """Train and measure as ``studies/configs/delay.yaml`` describes; write rows, table and figure.

    Raises:
        InputError: A setting cannot be used.
    """
    compare(read(config, DelayConfig), trainings())


def compare(config: DelayConfig, trained_by: Trainings) -> None:
    """Train what is missing, play all executors at all delays, write rows, table and figure.

    Raises:
        InputError: A delay needs more actions of a prefix than are trained, or a training cannot be made.
    """
    if "prefix" in config.executors and max(config.delays) > config.prefix_steps:
        raise InputError(
            f"delays={list(config.delays)} with executor=prefix need prefix_steps={max(config.delays)} or "
            f"more, not {config.prefix_steps}"
        )
    if config.document is not None:
        place_in(config.document, MARKER)
    cells: Cells = {}
    for seed, told in product(config.seeds, (False, True)):
        executors: list[Executor] = [one for one in config.executors if (one == "prefix") == told]
        if executors:
            folder = config.runs / f"{'prefix' if told else 'plain'}_seed{seed}"
            policy = _trained(config, trained_by, folder, seed, told)
            _play(policy, config, executors, folder.name, cells)
    rows = make_rows(cells)
    publish = config.publish or config.output
    kept = {name: getattr(config, name) for name in ("training", "seeds", "prefix_steps", "fade", "steps")}
    rules = {"episodes": config.episodes, "seed": config.seed, "noise_seed": config.noise_seed}
    results = {"command": command_line(), "commit": commit(), "config": kept | rules, "rows": rows}
    write_atomic(publish / "results.json", json.dumps(results, indent=2, default=list) + "\n")
    draw(rows, publish / "delay.png")
    table = make_table(rows)
    if config.document is not None:
        write_into(config.document, MARKER, table.markdown())
    console = Console()
    console.print(table.rich())
    console.print(f"Rows and figure are in {publish}", highlight=False)


def _trained(config: DelayConfig, trained_by: Trainings, folder: Path, seed: int, told: bool) -> Policy:
    """The policy of a seed, trained if it is not."""
    own = [f"seed={seed}", f"output={folder}", f"prefix_steps={config.prefix_steps if told else 0}"]
    training = trained_by.compose([*config.training, *own, "resume=true"])
    return load_policy(trained_by.run(training), config.device, config.trust)


def _play(
    policy: Policy, config: DelayConfig, executors: Sequence[Executor], name: str, cells: Cells
) -> None:
    """Add the cells of one policy."""
    output = config.output / name
    for executor, delay in product(executors, config.delays):
        how = config.execution(executor, delay)
        _, cell, _ = measure(
            policy, name, config.steps, output, config.protocol, config.options, execution=how
        )
        cells.setdefault((executor, delay), []).append(cell)


def make_rows(cells: Cells) -> list[dict[str, Any]]:
    """One row for each executor and delay: means over trainings and starts, 95% intervals, tests.

    ``difference`` is that of strict success to ``switch`` without delay, over all trainings and starts, see
    `compare_methods`; its p-value is corrected for their number (Holm).
    """
    rows, usual = [], cells.get(("switch", 0))
    for (executor, delay), own in cells.items():
        scores, successes = (
            np.stack([getattr(cell, name) for cell in own]) for name in ("scores", "successes")
        )
        interval, method = success_interval(successes)
        row: dict[str, Any] = {
            "executor": executor,
            "delay": delay,
            "seeds": len(own),
            "episodes": successes.shape[1],
            "success": float(successes.mean()),
            "success_ci": interval,
            "success_ci_method": method,
            "success_by_seed": successes.mean(1).tolist(),
            "score": float(scores.mean()),
            "score_ci": bootstrap_interval(scores),
            **{name: _mean([cell.summary[name] for cell in own]) for name in MOTION},
            "difference": None,
            "p_value": None,
        }
        if usual is not None and own is not usual:
            reference = np.stack([cell.successes for cell in usual])
            test = compare_methods(successes, reference, same_trainings=executor != "prefix")
            row |= {"difference": test.difference, "difference_ci": test.interval, "p_value": test.p_value}
        rows.append(row)
    for row, value in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row["p_adjusted"] = value
    order = list(dict.fromkeys(row["executor"] for row in rows))
    return sorted(rows, key=lambda row: (order.index(row["executor"]), row["delay"]))


def make_table(rows: ResultRows) -> TextTable:
    """The rows for readers."""
    header = ("executor", "delay", "strict success", "− switch, 0", "score", "jerk", "border jump", "held")
    first = rows[0]
    caption = (
        f"Push-T, shortcut policy of 1 step, {first['seeds']} trainings x {first['episodes']} starts; in "
        "brackets 95% intervals. Delay: control steps from asking for a chunk to its arrival; 8 actions of "
        "a chunk of 15 are played. − switch, 0: difference in points to switch without delay, with its "
        "p-value over trainings and starts, corrected for the number of tests (Holm). Jerk: mean norm of the "
        "third difference of the actions; border jump: mean norm of the step to the first action of a new "
        "chunk, and in parentheses of all other steps; in pixels. Held: steps of an episode for which no "
        "chunk held an action."
    )
    return TextTable(header, [_line(row) for row in rows], caption)


def draw(rows: ResultRows, path: Path) -> None:
    """Strict success, jerk and border jumps against the delay, a line for each executor."""
    panels = {
        "success": "Strict success",
        "jerk": "Jerk (pixels)",
        "border_jump": "Border jump (pixels)",
    }
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 3.8), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            for number, executor in enumerate(dict.fromkeys(row["executor"] for row in rows)):
                own = [row for row in rows if row["executor"] == executor]
                delays = [row["delay"] for row in own]
                colour = COLOURS[number]
                axes.plot(delays, [row[key] for row in own], "o-", color=colour, label=executor)
                if key == "success":
                    low, high = zip(*(row["success_ci"] for row in own), strict=True)
                    axes.fill_between(delays, low, high, color=colour, alpha=0.12, linewidth=0)
            axes.set(title=title, xlabel="delay (control steps)")
            axes.set_ylim(bottom=0)
        figure.axes[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        legend(figure, figure.axes[0])
        save(figure, path)


def _line(row: Mapping[str, Any]) -> tuple[str, ...]:
    difference = ""
    if row["difference"] is not None:
        difference = f"{100 * row['difference']:+.0f} ({p_value(row['p_adjusted'])})"
    return (
        row["executor"],
        f"{row['delay']}",
        "{:.0%} [{:.0%}, {:.0%}]".format(row["success"], *row["success_ci"]),
        difference,
        f"{row['score']:.3f}",
        f"{row['jerk']:.1f}",
        f"{row['border_jump']:.1f} ({row['inner_step']:.1f})",
        f"{row['held']:.1f}",
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
