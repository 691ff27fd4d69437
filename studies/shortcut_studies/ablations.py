"""What sweeps found: tables and figures of training runs that differ in a setting."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console

from shortcut_policy.benchmark.compute import phase_costs, phase_mean, untrained
from shortcut_policy.benchmark.result_files import portable_training
from shortcut_policy.benchmark.text_table import ResultRows, TextTable
from shortcut_policy.build import build
from shortcut_policy.checkpoint import find_checkpoint, list_checkpoints, load_policy, read_description
from shortcut_policy.errors import InputError
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.statistics import wilson_interval
from shortcut_policy.training.comparison import FREE_TO_CHANGE, compared
from shortcut_policy.training.log import read_log
from shortcut_policy.training.run_folder import method_name, read_config
from shortcut_studies import toy
from shortcut_studies.pictures import plot_sweeps

#: Quantity ("score", "distance") -> sampling steps -> value.
Values = dict[str, dict[int, float]]
#: Settings that are no part of what a sweep compares.
IGNORED = (*FREE_TO_CHANGE, "seed", "name")


@dataclass(frozen=True)
class Run:
    """A finished training run.

    Attributes:
        folder: Where it is.
        config: Its whole configuration.
        metadata: Of its last checkpoint.
        values: What it reached.
    """

    folder: Path
    config: Mapping[str, Any]
    metadata: Mapping[str, Any]
    values: Values


def run(config: DictConfig) -> None:
    """Summarise sweeps as ``ablations.yaml`` describes: ``results.json``, ``results.md``, a figure.

    Raises:
        InputError: there are no runs, or one of them is not finished or has no results.
    """
    root, output = Path(config.runs), Path(config.output)
    sweeps = {folder.name: read_sweep(folder) for folder in sorted(root.glob("*")) if folder.is_dir()}
    sweeps = {name: runs for name, runs in sweeps.items() if runs}
    if not sweeps:
        raise InputError(
            f"runs={root} holds no sweeps: give a folder as `studies/train.py -m experiment=...` fills it, "
            "<runs>/<sweep>/<run>"
        )
    runs = [one for own in sweeps.values() for one in own]
    rows: dict[str, ResultRows] = {name: make_rows(own) for name, own in sweeps.items()}
    earlier, described = read_published(config.published, runs) if config.published else ({}, [])
    rows = dict(sorted((earlier | rows).items()))
    results = {
        "command": command_line(),
        "commit": commit(),
        "sweeps": rows,
        "runs": described + [_describe(one) for one in runs],
    }
    write_atomic(output / "results.json", json.dumps(results, indent=2) + "\n")
    caption = make_caption(runs, [one["config"] for one in described])
    tables = {title_of(name): make_table(own) for name, own in rows.items()}
    sections = [caption, *(f"## {title}\n\n{table.markdown().strip()}" for title, table in tables.items())]
    write_atomic(output / "results.md", "\n\n".join(sections) + "\n")
    plot_sweeps({title_of(name): own for name, own in rows.items()}, output / "sweeps.png")
    console = Console()
    for title, table in tables.items():
        console.print(f"\n{title}")
        console.print(table.rich())
    console.print(f"\n{caption}\nTables and figure are in {output}", highlight=False)


def read_published(
    folder: str | Path, runs: Sequence[Run]
) -> tuple[dict[str, ResultRows], list[dict[str, Any]]]:
    """Of results that were written before, the sweeps that none of ``runs`` belongs to.

    Returns:
        Their rows by sweep, see `make_rows`, and what is known of each of their runs.

    Raises:
        InputError: There are no such results, or they are of another task.
    """
    path, made = Path(folder) / "results.json", {one.folder.parent.name for one in runs}
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        described = [one for one in results["runs"] if one["sweep"] not in made]
        rows = {name: results["sweeps"][name] for name in {one["sweep"] for one in described}}
        tasks = {one["config"]["task"]["name"] for one in described}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"published={folder}: {path} cannot be read ({type(error).__name__}: {error}); name a folder "
            "that studies/ablations.py has written"
        ) from error
    task = runs[0].config["task"]["name"]
    if tasks - {task}:
        raise InputError(f"published={folder} is of task {tasks.pop()}, and the runs are of {task}")
    for row in chain.from_iterable(rows.values()):
        row["values"] = {
            quantity: {int(steps): value for steps, value in counts.items()}
            for quantity, counts in row["values"].items()
        }
    return rows, described


def read_sweep(folder: Path) -> list[Run]:
    """The runs of a sweep, in the order of their names.

    Raises:
        InputError: a run is not finished, or nothing was measured in it.
    """
    runs = []
    for path in sorted(path.parent for path in folder.glob("*/config.yaml")):
        config = read_config(path)
        checkpoints = list_checkpoints(path)
        metadata = read_description(checkpoints[-1])["metadata"] if checkpoints else {"train_steps": 0}
        if metadata["train_steps"] < config["trainer"]["max_steps"]:
            raise InputError(
                f"{path} is at update {metadata['train_steps']} of {config['trainer']['max_steps']}: give "
                "the command of its sweep again to finish it, or delete it"
            )
        runs.append(Run(path, config, metadata, measure(path, config)))
    return runs


def measure(folder: Path, config: Mapping[str, Any]) -> Values:
    """What a run reached: what its log says in the end; on a toy task, its distance to the data."""
    values = logged(folder)
    if values:
        return values
    source = build(config["task"]["source"])
    if not isinstance(source, toy.Mixture):
        raise InputError(
            f"the log of {folder} holds no results: train with trainer.rollout_every or "
            "trainer.validate_every, as trainer=ablation does"
        )
    return {"distance": toy.distances(load_policy(folder), source)}


def logged(folder: Path) -> Values:
    """Score and strict success of the last rollouts, and action error of the last validation."""
    last = {record["kind"]: record for record in read_log(folder)}
    values: Values = {}
    for kind in ("rollout", "validation"):
        for key, value in last.get(kind, {}).items():
            named = re.fullmatch(r"(score|success|action_error)_(\d+)", key)
            if named:
                values.setdefault(named[1], {})[int(named[2])] = value
    return values


def make_rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a setting, runs that differ in nothing but their seed together.

    Each row holds ``setting`` (what differs between the rows), its ``label``, the ``seeds``,
    ``evaluations_per_row`` (network evaluations a training row, mean over the training) and ``values``:
    quantity -> steps -> ``mean``, ``low``, ``high`` over the seeds.
    """
    groups: dict[str, tuple[dict[str, Any], list[Run]]] = {}
    for one, setting in zip(runs, settings_of(runs), strict=True):
        groups.setdefault(json.dumps(setting), (setting, []))[1].append(one)
    ordered = sorted(groups.values(), key=lambda group: [_order(value) for value in group[0].values()])
    rows = []
    for setting, own in ordered:
        first = own[0]
        rows.append(
            {
                "setting": setting,
                "label": ", ".join(str(value) for value in setting.values()),
                "seeds": sorted(one.config["seed"] for one in own),
                "evaluations_per_row": _evaluations(first),
                "values": {
                    quantity: {
                        steps: _spread([one.values[quantity][steps] for one in own]) for steps in counts
                    }
                    for quantity, counts in first.values.items()
                },
            }
        )
    return rows


def settings_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """For each run, those settings that are not the same in all of them.

    Methods have parameters of their own: where the objective differs, its name stands for all of them, and
    what goes with it. Settings of a part that a run does without are None.

    Raises:
        InputError: Runs of one method differ in something else, too.
    """
    configs = [compared(one.config, IGNORED) for one in runs]
    keys = list(dict.fromkeys(chain(*configs)))
    methods = {config["objective._target_"] for config in configs}
    if len(methods) > 1:
        names = [method_name(one.config["name"], one.config["objective"]) for one in runs]
        alike = dict(zip(names, configs, strict=True))
        for one, name, config in zip(runs, names, configs, strict=True):
            if config != alike[name]:
                raise InputError(
                    f"{one.folder} differs from other runs of {name} in more than the seed: a sweep over "
                    "methods varies nothing else, put these runs into a folder of their own"
                )
        return [{"method": name} for name in names]
    varied = [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]
    return [{key: config.get(key) for key in varied} for config in configs]


def make_table(rows: ResultRows) -> TextTable:
    """The rows of a sweep as text."""
    columns = sorted(
        {(quantity, steps) for row in rows for quantity, counts in row["values"].items() for steps in counts},
        key=lambda column: (list(rows[0]["values"]).index(column[0]), column[1]),
    )
    names = list(rows[0]["setting"])
    header = [*names, "evaluations / row", *(f"{quantity.replace('_', ' ')}, {n}" for quantity, n in columns)]
    lines = [
        [
            *(str(value) for value in row["setting"].values()),
            f"{row['evaluations_per_row']:.2f}",
            *(_text(row["values"].get(quantity, {}).get(n)) for quantity, n in columns),
        ]
        for row in rows
    ]
    return TextTable(header, lines, caption="")


def make_caption(runs: Sequence[Run], earlier: Sequence[Mapping[str, Any]] = ()) -> str:
    """What a reader must know to read the tables of all ``runs``, and of others with these configurations."""
    configs = [*(one.config for one in runs), *earlier]
    updates = _listed({config["trainer"]["max_steps"] for config in configs})
    seeds = _listed({config["seed"] for config in configs})
    text = (
        f"{configs[0]['task']['name']}; {updates} updates; training seeds {seeds}: mean "
        "(smallest to largest). Evaluations are those of the network for a training row, targets included, "
        "mean over the training; the number behind a quantity is that of the sampling steps."
    )
    if "score" in runs[0].values:
        starts = min(config["trainer"]["rollout_episodes"] for config in configs)
        low, high = wilson_interval(starts // 2, starts)
        text += (
            f" Score and strict success: of the last update, {starts} starts, so that one success rate is "
            f"uncertain by up to {50 * (high - low):.0f} points either way (95%)."
        )
    if "action_error" in runs[0].values:
        text += " Action error: mean distance on held-out windows, in units of the action."
    if "distance" in runs[0].values:
        error = toy.sampling_error(build(configs[0]["task"]["source"]))
        text += f" Distance: sliced Wasserstein-1 to the data; perfect samples have {error:.3f}."
    return text


def title_of(sweep: str) -> str:
    """Folder name to heading."""
    return sweep.replace("_", " ").capitalize()


def _describe(one: Run) -> dict[str, Any]:
    kept = ("commit", "command", "train_steps", "train_seconds", "parameters", "dataset", "precision")
    return {
        "sweep": one.folder.parent.name,
        "run": one.folder.name,
        "seed": one.config["seed"],
        **{key: one.metadata.get(key) for key in kept},
        "values": one.values,
        "config": portable_training(one.config),
    }


def _evaluations(one: Run) -> float:
    spec = read_description(find_checkpoint(one.folder))["policy"]
    phases = phase_costs(untrained(spec, one.metadata))
    return phase_mean(phases, [phase.forward for phase in phases])


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values)}


def _text(value: Mapping[str, float] | None) -> str:
    if value is None:
        return "–"
    if value["low"] == value["high"]:
        return f"{value['mean']:.3f}"
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _listed(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values)))


def _order(value: Any) -> tuple[bool, float, str]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (True, value, "") if number else (value is not None, 0.0, str(value))
