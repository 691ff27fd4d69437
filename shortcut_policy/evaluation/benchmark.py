"""The benchmark command: methods x step counts x training seeds on the same starts, in one table."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from shortcut_policy.checkpoint import load_policy
from shortcut_policy.errors import InputError
from shortcut_policy.evaluation import plots
from shortcut_policy.evaluation.entries import (
    Entry,
    last_checkpoints,
    parse_entries,
    read_losses,
    train_entry,
    training_config,
)
from shortcut_policy.evaluation.evaluate import Machinery, Protocol, check, evaluate
from shortcut_policy.evaluation.latency import measure_latency
from shortcut_policy.evaluation.phases import Phases
from shortcut_policy.evaluation.provenance import command_line, commit
from shortcut_policy.evaluation.recorder import tile_videos
from shortcut_policy.evaluation.report import Picture, write_report
from shortcut_policy.evaluation.rollout import protocol
from shortcut_policy.evaluation.table import (
    Cell,
    Measured,
    Rows,
    add_comparison,
    count_of,
    make_row,
    markdown,
    place_in,
    row_label,
    terminal_table,
    write_into,
)
from shortcut_policy.paths import atomic_path, write_atomic


def run(config: DictConfig) -> None:
    """Train what is to be trained, evaluate everything, write table, figures and report.

    What an earlier call with the same output folder has finished is taken as it is.

    Raises:
        InputError: an entry cannot be used; before any work wherever that can be known.
    """
    entries, rules, output = parse_entries(config.entries), protocol(config), Path(config.output)
    if config.readme:
        place_in(Path(config.readme), config.marker)
    trainings = {entry.name: _training_configs(entry, config, output) for entry in entries}
    _check(entries, trainings, rules, config)
    console = Console()
    phases = Phases(_plan(entries), console)
    runs = {entry.name: list(entry.folders or ()) for entry in entries}
    for entry in entries:
        for training in trainings[entry.name]:
            with phases.next():
                runs[entry.name].append(train_entry(training))
    lines: list[Measured] = []
    for entry in entries:
        with phases.next():
            videos = config.videos if entry is entries[0] else 0
            lines += _evaluate_entry(entry, runs[entry.name], rules, config, videos)
    with phases.next():
        newest = {name: last_checkpoints(folders[0], config.last_k)[-1] for name, folders in runs.items()}
        lines = _with_latencies(lines, newest, config.device)
    with phases.next():
        rows = _rows(lines, config.reference)
        losses = {name: read_losses(folders[0]) for name, folders in runs.items()}
        curve, *others = _figures(rows, losses, output)
        films = _films(entries[0], runs[entries[0].name][0], rules, config) if config.videos else []
        _write(rows, [curve, *films, *others], config)
    console.print(terminal_table(rows))
    console.print(f"Report: {output / 'report.html'}", highlight=False)


def _training_configs(entry: Entry, config: DictConfig, output: Path) -> list[DictConfig]:
    """One configuration a seed for an entry that is to be trained, none for one that exists."""
    if entry.overrides is None:
        return []
    run = f"{output}/runs/{entry.name}_seed"
    return [
        training_config(
            [*config.training, *entry.overrides, f"seed={seed}", f"output='{run}{seed}'", "resume=true"]
        )
        for seed in entry.seeds
    ]


def _check(
    entries: Sequence[Entry],
    trainings: Mapping[str, Sequence[DictConfig]],
    rules: Protocol,
    config: DictConfig,
) -> None:
    """Refuse before the work starts what would fail after hours."""
    tasks = {name: configs[0].task.name for name, configs in trainings.items() if configs}
    for entry in entries:
        for folder in entry.folders or ():
            for checkpoint in last_checkpoints(folder, config.last_k):
                policy = load_policy(checkpoint, config.device)
                tasks[entry.name] = policy.metadata["task"]["name"]
                for steps in entry.steps:
                    check(policy, steps, rules)
    (name, task), *others = tasks.items()
    for other, other_task in others:
        if other_task != task:
            raise InputError(
                f"benchmark entry '{other}' is of task '{other_task}', but '{name}' is of task '{task}': "
                "methods can only be compared on one task"
            )


def _plan(entries: Sequence[Entry]) -> list[tuple[str, float | None]]:
    plan = [
        (f"Train {entry.name}, seed {seed}", entry.train_minutes)
        for entry in entries
        if entry.overrides is not None
        for seed in entry.seeds
    ]
    for entry in entries:
        steps = ", ".join(map(str, entry.steps))
        plan.append((f"Roll out {entry.name} at {steps} steps", entry.rollout_minutes))
    return [*plan, ("Measure latencies", 0.5), ("Write figures and report", 0.5)]


def _evaluate_entry(
    entry: Entry, folders: Sequence[Path], rules: Protocol, config: DictConfig, videos: int
) -> list[Measured]:
    """Evaluate all checkpoints of an entry; films show its fewest steps, first seed, newest checkpoint."""
    machinery = Machinery(config.num_envs, config.asynchronous, overwrite=config.overwrite)
    cells: dict[int, list[list[Cell]]] = {steps: [[] for _ in folders] for steps in entry.steps}
    for number, run_folder in enumerate(folders):
        checkpoints = last_checkpoints(run_folder, config.last_k)
        for checkpoint in checkpoints:
            policy = load_policy(checkpoint, config.device)
            newest = checkpoint == checkpoints[-1]
            for steps in entry.steps if newest else set(entry.steps) - set(entry.newest_only):
                folder = _cell_folder(config, entry, number, checkpoint, steps)
                filmed = videos and number == 0 and newest and steps == min(entry.steps)
                how = replace(machinery, videos=videos, plot=True) if filmed else machinery
                summary = evaluate(
                    policy, steps, folder, rules, how, title="  " + row_label(entry.name, steps)
                )
                cells[steps][number].append(Cell.read(summary, folder))
    return [Measured(entry.name, cells[steps]) for steps in entry.steps]


def _with_latencies(lines: Sequence[Measured], newest: Mapping[str, Path], device: str) -> list[Measured]:
    """Time all lines one after the other: evaluations may date from other days and other loads."""
    policies = {name: load_policy(checkpoint, device) for name, checkpoint in newest.items()}
    return [
        replace(line, latency=measure_latency(policies[line.name], line.steps, seconds=5.0)) for line in lines
    ]


def _cell_folder(config: DictConfig, entry: Entry, number: int, checkpoint: Path, steps: int) -> Path:
    return Path(config.output) / "cells" / entry.name / str(number) / checkpoint.name / f"steps_{steps:03d}"


def _rows(lines: Sequence[Measured], reference: str | None) -> list[dict[str, Any]]:
    candidates = [line for line in lines if line.name == reference]
    compared = max(candidates, key=lambda line: line.steps, default=None)
    rows = []
    for line in lines:
        row = make_row(line, command_line(), commit())
        add_comparison(row, line, compared)
        rows.append(row)
    return rows


def _figures(
    rows: Rows,
    losses: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]],
    output: Path,
) -> list[Picture]:
    """Draw the figures, as PNG for documents and as SVG for the report."""
    logged = {name: curves for name, curves in losses.items() if curves}
    for suffix in ("png", "svg"):
        plots.plot_steps(rows, output / f"steps.{suffix}")
        plots.plot_latency(rows, output / f"latency.{suffix}")
        if logged:
            plots.plot_losses(logged, output / f"losses.{suffix}")
    pictures = [
        Picture(
            output / "steps.svg",
            "Score (mean over starts of the best coverage, as a fraction of 95%) and strict success "
            "(coverage above 95%) against network evaluations. Bands are 95% intervals.",
        ),
        Picture(
            output / "latency.svg",
            "Score against the time to infer one action chunk; numbers are sampling steps.",
        ),
    ]
    if logged:
        text = "Losses during training. The methods regress different targets: compare shapes, not heights."
        pictures.append(Picture(output / "losses.svg", text))
    return pictures


def _films(entry: Entry, run_folder: Path, rules: Protocol, config: DictConfig) -> list[Picture]:
    steps, output = min(entry.steps), Path(config.output)
    folder = _cell_folder(config, entry, 0, last_checkpoints(run_folder, config.last_k)[-1], steps)
    film = output / f"{entry.name}_{count_of(steps, 'step').replace(' ', '_')}.mp4"
    seeds = rules.episode_seeds[: config.videos]
    tile_videos([folder / f"episode_{seed}.mp4" for seed in seeds], film)
    what = f"{row_label(entry.name, steps)}, from the first {len(seeds)} starts"
    return [
        Picture(film, f"Rollouts: {what}, in real time."),
        Picture(folder / "paths.png", f"Paths of agent and block: {what}."),
    ]


def _write(rows: Rows, pictures: Sequence[Picture], config: DictConfig) -> None:
    output = Path(config.output)
    write_atomic(output / "results.json", json.dumps(rows, indent=2) + "\n")
    write_atomic(output / "results.md", markdown(rows))
    settings = {
        "Command": rows[0]["command"],
        "Commit": rows[0]["commit"],
        "Configuration": OmegaConf.to_yaml(config, resolve=True),
    }
    write_report(output / "report.html", title=config.title, rows=rows, pictures=pictures, settings=settings)
    if config.publish:
        _publish(output, Path(config.publish))
    if config.readme:
        write_into(Path(config.readme), config.marker, markdown(rows))


def _publish(output: Path, folder: Path) -> None:
    """Copy what is worth keeping under version control: the rows, the table and the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (output / "results.json", output / "results.md", *sorted(output.glob("*.png"))):
        with atomic_path(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)
