"""The benchmark command: methods x step counts x training seeds on the same starts, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from shortcut_policy.benchmark.compute import compute_rows, compute_table, phase_costs, untrained
from shortcut_policy.benchmark.curves import curve_cells, curve_rows
from shortcut_policy.benchmark.methods import (
    Entry,
    Run,
    all_checkpoints,
    find_runs,
    is_trained,
    parse_entries,
    read_losses,
    read_training,
    train_entry,
    wanted_cells,
)
from shortcut_policy.benchmark.outputs import draw_figures, publish, tile_films, write_results
from shortcut_policy.benchmark.phases import Phases
from shortcut_policy.benchmark.report import Picture
from shortcut_policy.benchmark.result_files import RunResults, slug
from shortcut_policy.benchmark.table import (
    Cell,
    Measured,
    add_comparison,
    make_row,
    results_table,
    row_label,
)
from shortcut_policy.benchmark.text_table import place_in
from shortcut_policy.build import build
from shortcut_policy.checkpoint import load_policy
from shortcut_policy.commands.configuration import to_plain
from shortcut_policy.commands.rollout import protocol
from shortcut_policy.device import usable_device
from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import Objective
from shortcut_policy.policy import Policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.evaluate import Machinery, Protocol, check, evaluate
from shortcut_policy.rollout.latency import latencies_in_turns
from shortcut_policy.settings import check_choice, check_whole, listed
from shortcut_policy.training.config import parse_training

Runs = Mapping[str, Sequence[Run]]


def run(config: DictConfig) -> None:
    """Train what is to be trained, evaluate everything, write table, figures and report.

    What an earlier call with the same output folder has finished is taken as it is.

    Raises:
        InputError: an entry cannot be used; before any work wherever that can be known.
    """
    entries, rules, output = parse_entries(config.entries), protocol(config), Path(config.output)
    for marker in (config.marker, config.compute_marker) if config.readme else ():
        if marker:
            place_in(Path(config.readme), marker)
    published = _published(config)
    runs = {
        entry.name: find_runs(entry, config.training, output, published, rules, config.last_k)
        for entry in entries
    }
    check_choice("trained_only", config.trained_only, (True, False))
    if config.trained_only:
        runs = {name: [one for one in own if is_trained(one)] for name, own in runs.items()}
        entries = [entry for entry in entries if runs[entry.name]]
        if not entries:
            raise InputError(
                f"trained_only=true leaves nothing to compare: no run below {output} is finished and nothing "
                f"is published in published={config.published}; leave it out to train first"
            )
    _check(entries, runs, rules, config)
    console = Console()
    _tell_published(runs, console)
    phases = Phases(_plan(entries, runs), console)
    for entry in entries:
        for one in runs[entry.name]:
            if one.training is not None:
                with phases.next():
                    train_entry(one.training)
    results: dict[str, list[RunResults]] = {}
    for entry in entries:
        with phases.next():
            videos = config.videos if entry is entries[0] else 0
            results[entry.name] = [
                one.results or _evaluate_run(entry, one, rules, config, videos if number == 0 else 0)
                for number, one in enumerate(runs[entry.name])
            ]
    policies = {name: untrained(own[0].spec, own[0].metadata, config.device) for name, own in results.items()}
    with phases.next():
        lines = [line for entry in entries for line in _lines(entry, results[entry.name], config.last_k)]
        rows = _rows(_with_latencies(lines, policies), config.reference, config.baseline)
    with phases.next():
        costs = {name: phase_costs(policy) for name, policy in policies.items()}
        claims = {entry.name: entry.claim for entry in entries}
        compute = compute_rows(policies, costs, claims, config.baseline, config.compute_rounds)
        curves = [
            row
            for entry in entries
            for row in curve_rows(entry, results[entry.name], costs[entry.name], *_curve(config))
        ]
    with phases.next():
        losses = {name: own[0].losses for name, own in results.items()}
        picture, *others = draw_figures(rows, curves, losses, output)
        films = _films(entries[0], runs[entries[0].name][0], rules, config)
        write_results(rows, compute, curves, [picture, *films, *others], config)
        if config.publish:
            publish(output, Path(config.publish), results)
    for table in (results_table(rows), compute_table(compute)):
        console.print(table.rich())
    console.print(f"Report: {output / 'report.html'}", highlight=False)


def _check(entries: Sequence[Entry], runs: Runs, rules: Protocol, config: DictConfig) -> None:
    """Refuse before the work starts what would fail after hours."""
    usable_device(config.device)
    Machinery(config.num_envs, config.asynchronous, config.videos, overwrite=config.overwrite)
    for key, lowest in {"last_k": 1, "compute_rounds": 1, "curve_checkpoints": 0}.items():
        check_whole(key, config[key], lowest)
    for steps in listed("curve_steps", config.curve_steps):
        check_whole("curve_steps", steps, 1)
    if config.publish and Path(config.publish).exists() and not Path(config.publish).is_dir():
        raise InputError(f"publish={config.publish} is a file: give a folder for the results")
    for key in ("reference", "baseline"):
        if config[key] and config[key] not in runs:
            print(f"{key}={config[key]} is none of the entries, so that nothing is compared with it")
    tasks = {}
    for entry in entries:
        if entry.guidance:
            raise InputError(
                f"benchmark entry '{entry.name}' has guidance={list(entry.guidance)}: policies are compared "
                "without a choice of it, leave it out"
            )
        for one in runs[entry.name]:
            if one.results is not None:
                tasks[entry.name] = one.results.metadata["task"]["name"]
            elif one.training is not None:
                tasks[entry.name] = one.training.task.name
                _check_training(entry, one.training, rules, config.last_k)
            else:
                for checkpoint in all_checkpoints(one.folder, config.last_k)[-config.last_k :]:
                    policy = load_policy(checkpoint, config.device)
                    tasks[entry.name] = policy.metadata["task"]["name"]
                    check(policy, entry.steps, rules)
    (name, task), *others = tasks.items()
    for other, other_task in others:
        if other_task != task:
            raise InputError(
                f"benchmark entry '{other}' is of task '{other_task}', but '{name}' is of task '{task}': "
                "methods can only be compared on one task"
            )


def _check_training(entry: Entry, training: DictConfig, rules: Protocol, last_k: int) -> None:
    """Refuse a training whose policy could not be evaluated as the table asks for."""
    config = parse_training(to_plain(training))
    objective: Objective = build(config.objective)
    trainer = config.trainer
    for steps in entry.steps:
        objective.check_steps(steps)
    if "_target_" not in {**(config.task.env or {}), **rules.env}:
        raise InputError(
            f"benchmark entry '{entry.name}' trains on task '{config.task.name}', which has no "
            "environment to roll out in: name one with +env._target_=..."
        )
    every = range(trainer.checkpoint_every, trainer.max_steps, trainer.checkpoint_every)
    saved = [*every, trainer.max_steps]
    regular = [step for step in saved if trainer.keep_every and step % trainer.keep_every == 0]
    kept = len({*saved[-trainer.keep_last :], *regular})
    if kept < last_k:
        raise InputError(
            f"last_k={last_k} checkpoints are to be averaged, and the training of benchmark entry "
            f"'{entry.name}' leaves {kept}: lower trainer.checkpoint_every or raise trainer.keep_last"
        )


def _published(config: DictConfig) -> Path | None:
    """The folder of published results that stand in for trainings, where one is named."""
    if not config.published:
        return None
    folder = Path(config.published)
    if not (folder / "cells").is_dir():
        raise InputError(
            f"published={folder} holds no results (no folder cells): give what a benchmark has written to "
            "its publish, or null to train everything"
        )
    return folder


def _tell_published(runs: Runs, console: Console) -> None:
    for name, own in runs.items():
        for one in own:
            if one.results is not None:
                trained = one.results.metadata.get("commit", "unknown")
                text = f"{name}, seed {one.number}: published in {one.folder}, trained at commit {trained}"
                console.print(text, style="dim", highlight=False, soft_wrap=True)


def _plan(entries: Sequence[Entry], runs: Runs) -> list[tuple[str, float | None]]:
    plan = [
        (f"Train {entry.name}, seed {one.number}", entry.train_minutes)
        for entry in entries
        for one in runs[entry.name]
        if one.training is not None
    ]
    for entry in entries:
        steps = ", ".join(map(str, entry.steps))
        known = all(one.results for one in runs[entry.name])
        budget = 0.0 if known else entry.rollout_minutes
        plan.append((f"{'Read' if known else 'Roll out'} {entry.name} at {steps} steps", budget))
    return [
        *plan,
        ("Measure latencies", 0.5),
        ("Measure training compute", 0.5),
        ("Write figures and report", 0.5),
    ]


def _evaluate_run(entry: Entry, one: Run, rules: Protocol, config: DictConfig, videos: int) -> RunResults:
    """Evaluate the checkpoints of a run; films show its fewest steps and newest checkpoint."""
    machinery = Machinery(config.num_envs, config.asynchronous, overwrite=config.overwrite)
    checkpoints = {folder.name: folder for folder in all_checkpoints(one.folder, config.last_k)}
    names = list(checkpoints)
    cells: dict[tuple[str, int], Cell] = {}
    policy: Policy | None = None
    loaded = None
    wanted = wanted_cells(entry, names, config.last_k) + curve_cells(entry, names, *_curve(config))
    # One checkpoint after the other, so that each is loaded once.
    for name, steps in sorted(set(wanted), key=lambda cell: (names.index(cell[0]), cell[1])):
        if policy is None or loaded != name:
            policy, loaded = load_policy(checkpoints[name], config.device), name
        filmed = videos and name == names[-1] and steps == min(entry.steps)
        how = replace(machinery, videos=videos, plot=True) if filmed else machinery
        folder = _cell_folder(config, entry, one.number, name, steps)
        title = "  " + row_label(entry.name, steps)
        cells[name, steps] = Cell.read(evaluate(policy, steps, folder, rules, how, title=title), folder)
    assert policy is not None
    return RunResults(
        one.number, policy.spec, read_training(one.folder), names, read_losses(one.folder), cells
    )


def _lines(entry: Entry, results: Sequence[RunResults], last_k: int) -> list[Measured]:
    """The lines of the table of one entry."""
    wanted = [(run, wanted_cells(entry, run.checkpoints, last_k)) for run in results]
    return [
        Measured(
            entry.name, [[run.cells[cell] for cell in cells if cell[1] == steps] for run, cells in wanted]
        )
        for steps in entry.steps
    ]


def _with_latencies(lines: Sequence[Measured], policies: Mapping[str, Policy]) -> list[Measured]:
    """Time all lines in turns: evaluations may date from other days, machines and loads."""
    found = latencies_in_turns([(policies[line.name], line.steps) for line in lines])
    return [replace(line, latency=latency) for line, latency in zip(lines, found, strict=True)]


def _cell_folder(config: DictConfig, entry: Entry, number: int, checkpoint: str, steps: int) -> Path:
    return Path(config.output) / "cells" / slug(entry.name) / str(number) / checkpoint / f"steps_{steps:03d}"


def _curve(config: DictConfig) -> tuple[int, list[int]]:
    return config.curve_checkpoints, list(config.curve_steps)


def _rows(lines: Sequence[Measured], reference: str | None, baseline: str | None) -> list[dict[str, Any]]:
    candidates = [line for line in lines if line.name == reference]
    compared = max(candidates, key=lambda line: line.steps, default=None)
    equal_steps = {line.steps: line for line in lines if line.name == baseline}
    rows = []
    for line in lines:
        row = make_row(line, command_line(), commit())
        add_comparison(row, line, compared)
        add_comparison(row, line, equal_steps.get(line.steps), "baseline")
        rows.append(row)
    return rows


def _films(entry: Entry, one: Run, rules: Protocol, config: DictConfig) -> list[Picture]:
    if not config.videos or one.results is not None:
        return []
    newest = all_checkpoints(one.folder, config.last_k)[-1].name
    folder = _cell_folder(config, entry, one.number, newest, min(entry.steps))
    return tile_films(folder, entry.name, min(entry.steps), rules, config.videos, Path(config.output))
