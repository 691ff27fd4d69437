"""The benchmark command: methods x step counts x training seeds on the same starts, in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from shortcut_policy.benchmark.compute import (
    PhaseCost,
    compute_rows,
    phase_costs,
    published_costs,
    untrained,
)
from shortcut_policy.benchmark.config import BenchmarkConfig, with_comparisons
from shortcut_policy.benchmark.curves import curve_rows
from shortcut_policy.benchmark.earlier import earlier_latencies, earlier_rows
from shortcut_policy.benchmark.evaluation import cell_folder, curve, trusted
from shortcut_policy.benchmark.methods import Method, wanted_cells
from shortcut_policy.benchmark.outputs import draw_figures, publish, tables_of, tile_films, write_results
from shortcut_policy.benchmark.phases import Phases
from shortcut_policy.benchmark.report import Picture
from shortcut_policy.benchmark.result_files import RunResults, origin, read_compute, read_rows
from shortcut_policy.benchmark.sharing import Outcome, Session, Stopped
from shortcut_policy.benchmark.table import (
    Measured,
    add_comparison,
    adjust,
    make_row,
)
from shortcut_policy.benchmark.text_table import ResultRows, place_in
from shortcut_policy.benchmark.training_runs import (
    Runs,
    TrainingRun,
    Trainings,
    all_checkpoints,
    choose,
    find_runs,
    is_trained,
    kept_checkpoints,
)
from shortcut_policy.benchmark.work import TABLE, Work, common
from shortcut_policy.benchmark.workers import Launch, failure, lead
from shortcut_policy.build import build
from shortcut_policy.device import usable_device
from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import Objective
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.episode import close_environment
from shortcut_policy.rollout.evaluate import check, made_by, task_of
from shortcut_policy.rollout.latency import latencies_in_turns
from shortcut_policy.training.config import TrainingConfig


def compare(config: BenchmarkConfig, trainings: Trainings, launch: Launch | None = None) -> None:
    """Train what is to be trained, evaluate everything, write table, figures and report.

    What an earlier call with the same output folder has finished is taken as it is. Several calls at once
    share the work: each takes what no other one has taken. A part that fails does not stop the others.

    Args:
        config: The methods, and how they are compared.
        trainings: Trains those that have to be trained.
        launch: Starts ``config.workers`` other processes that do the work.

    Raises:
        InputError: a method cannot be used; before any work wherever that can be known. Or a part failed,
            after all others are done; there is no table then.
    """
    methods, runs = _choose(config, trainings)
    leads = bool(config.workers) and launch is not None
    # The device is one of the workers, of which each looks for it.
    _check(methods, runs, replace(config, device="cpu") if leads else config)
    config = with_comparisons(config, [method.name for method in methods])
    earlier = None if config.measure else earlier_rows(config.published, methods)
    console = Console()
    _tell_published(runs, console)
    with Session(config.output, common(config), config.session) as session:
        work = Work(methods, runs, config, trainings, session)
        try:
            if leads and launch is not None:
                lead(work, launch, console)
                _show(read_rows(config.output), read_compute(config.output), config, console)
            else:
                _do(work, earlier, console)
        except Stopped:
            print("the command that started the workers was told to end, and no further part is begun")


def _do(work: Work, earlier: ResultRows | None, console: Console) -> None:
    """Do all parts that no other process does and, if nobody else does, the table."""
    phases = Phases(work.plan(), console)
    if not work.run(phases):
        print("other processes are at the rest, and the last of them makes the table")
        return
    states = work.states()
    failed = sum(state.ended is Outcome.FAILED for state in states.values())
    if not failed:
        work.session.do(TABLE, lambda: _make_tables(work, earlier, phases, console), keep_error=True)
    elif work.config.session is None:
        raise failure(failed, len(states) + 1)


def _make_tables(work: Work, earlier: ResultRows | None, phases: Phases, console: Console) -> bool:
    """All that is made of the evaluations of all parts."""
    methods, runs, config = work.methods, work.runs, work.config
    results = {method.name: work.results(method) for method in methods}
    policies = {name: untrained(own[0].spec, own[0].metadata, config.device) for name, own in results.items()}
    with phases.next():
        lines = [line for method in methods for line in _lines(method, results[method.name], config.last_k)]
        rows = _rows(_with_latencies(lines, policies, earlier), config.reference, config.baseline)
    with phases.next():
        compute, curves = _costs(methods, results, policies, config)
    with phases.next():
        losses = {name: own[0].losses for name, own in results.items()}
        picture, *others = draw_figures(rows, curves, losses, config.output)
        films = _films(methods[0], runs[methods[0].name][0], config)
        write_results(rows, compute, curves, [picture, *films, *others], config)
        if config.publish:
            publish(config.output, config.publish, results)
    if config.session is None:
        _show(rows, compute, config, console)
    return True


def _show(rows: ResultRows, compute: ResultRows, config: BenchmarkConfig, console: Console) -> None:
    for table in tables_of(rows, compute).values():
        console.print(table.rich())
    console.print(f"Report: {config.output / 'report.html'}", highlight=False)


def _choose(config: BenchmarkConfig, trainings: Trainings) -> tuple[Sequence[Method], Runs]:
    """The methods to compare and the runs of each, those of which nothing may be trained left out."""
    if config.published is not None and not (config.published / "cells").is_dir():
        raise InputError(
            f"published={config.published} holds no results (no folder cells): give what a benchmark has "
            "written to its publish, or null to train everything"
        )
    runs = {method.name: find_runs(method, config, trainings) for method in config.entries}
    where = f"below {config.output} is finished and nothing is published in published={config.published}"
    return choose(config.entries, runs, config.trained_only, where)


def _check(methods: Sequence[Method], runs: Runs, config: BenchmarkConfig) -> None:
    """Refuse before the work starts what would fail after hours."""
    for marker in (config.marker, config.compute_marker):
        if config.readme and marker:
            place_in(config.readme, marker)
    usable_device(config.device)
    if config.publish and config.publish.exists() and not config.publish.is_dir():
        raise InputError(f"publish={config.publish} is a file: give a folder for the results")
    tasks = {}
    for method in methods:
        if method.guidance:
            raise InputError(
                f"benchmark entry '{method.name}' has guidance={list(method.guidance)}: policies are "
                "compared without a choice of it, leave it out"
            )
        for one in runs[method.name]:
            if one.results is not None:
                tasks[method.name] = one.results.metadata["task"]["name"]
            elif one.training is not None:
                tasks[method.name] = one.training.task.name
                _check_training(method, one.training, config)
            else:
                for checkpoint in all_checkpoints(one.folder, config.last_k)[-config.last_k :]:
                    policy = load_policy(checkpoint, config.device, trusted(one, config))
                    tasks[method.name] = task_of(policy)["name"]
                    check(policy, method.steps, config.protocol)
    _check_places([one for own in runs.values() for one in own], config)
    (name, task), *others = tasks.items()
    for other, other_task in others:
        if other_task != task:
            raise InputError(
                f"benchmark entry '{other}' is of task '{other_task}', but '{name}' is of task '{task}': "
                "methods can only be compared on one task"
            )


def _check_training(method: Method, training: TrainingConfig, config: BenchmarkConfig) -> None:
    """Refuse a training whose policy could not be evaluated as the table asks for."""
    objective: Objective = build(training.objective)
    for steps in method.steps:
        objective.check_steps(steps)
    if "_target_" not in {**(training.task.env or {}), **(config.env or {})}:
        raise InputError(
            f"benchmark entry '{method.name}' trains on task '{training.task.name}', which has no "
            "environment to roll out in: name one with +env._target_=..."
        )
    kept = len(kept_checkpoints(training.trainer))
    if kept < config.last_k:
        raise InputError(
            f"last_k={config.last_k} checkpoints are to be averaged, and the training of benchmark entry "
            f"'{method.name}' leaves {kept}: lower trainer.checkpoint_every or raise trainer.keep_last"
        )


def _check_places(runs: Sequence[TrainingRun], config: BenchmarkConfig) -> None:
    """Refuse demonstrations that are not there, and environments that cannot be made: each is tried once."""
    tried: list[Any] = []
    for one in runs:
        if one.training is None or one.results is not None:
            continue
        task = one.training.task
        source, env = task.source, {**(task.env or {}), **(config.env or {})}
        if source not in tried and not is_trained(one):
            build(source)
        if env not in tried:
            close_environment(made_by(env)())
        tried += [source, env]


def _tell_published(runs: Runs, console: Console) -> None:
    for name, own in runs.items():
        for one in own:
            if one.results is not None:
                text = f"{name}, seed {one.number}: published in {one.folder}, {origin(one.results)}"
                console.print(text, style="dim", highlight=False, soft_wrap=True)


def _costs(
    methods: Sequence[Method],
    results: Mapping[str, Sequence[RunResults]],
    policies: Mapping[str, Policy],
    config: BenchmarkConfig,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of training compute, measured or published, and of the curves of quality against it."""
    costs: dict[str, list[PhaseCost]]
    if config.measure:
        costs = {name: phase_costs(policy) for name, policy in policies.items()}
        claims = {method.name: method.claim for method in methods}
        compute = compute_rows(policies, costs, claims, config.baseline, config.compute_rounds)
    else:
        assert config.published is not None
        compute = [row for row in read_compute(config.published) if row["name"] in policies]
        costs = published_costs(compute)
    curves = [
        row
        for method in methods
        if method.name in costs
        for row in curve_rows(method, results[method.name], costs[method.name], *curve(config))
    ]
    return compute, curves


def _lines(method: Method, results: Sequence[RunResults], last_k: int) -> list[Measured]:
    """The lines of the table of one method."""
    wanted = [(run, wanted_cells(method, run.checkpoints, last_k)) for run in results]
    return [
        Measured(
            method.name, [[run.cells[cell] for cell in cells if cell[1] == steps] for run, cells in wanted]
        )
        for steps in method.steps
    ]


def _with_latencies(
    lines: Sequence[Measured], policies: Mapping[str, Policy], earlier: ResultRows | None
) -> list[Measured]:
    """Time lines in turns, or take those of ``earlier``: evaluations may date from other days and loads."""
    if earlier is None:
        found = latencies_in_turns([(policies[line.name], line.steps) for line in lines])
    else:
        found = earlier_latencies([(line.name, line.steps) for line in lines], earlier)
    return [replace(line, latency=latency) for line, latency in zip(lines, found, strict=True)]


def _rows(lines: Sequence[Measured], reference: str | None, baseline: str | None) -> list[dict[str, Any]]:
    candidates = [line for line in lines if line.name == reference]
    compared = max(candidates, key=lambda line: line.steps, default=None)
    equal_steps = {line.steps: line for line in lines if line.name == baseline}
    fewest = {line.name: line for line in sorted(lines, key=lambda line: -line.steps)}
    rows = []
    for line in lines:
        row = make_row(line, command_line(), commit())
        add_comparison(row, line, compared)
        add_comparison(row, line, equal_steps.get(line.steps), "baseline")
        add_comparison(row, line, fewest[line.name], "own")
        rows.append(row)
    adjust(rows)
    return rows


def _films(method: Method, one: TrainingRun, config: BenchmarkConfig) -> list[Picture]:
    if not config.videos or one.results is not None:
        return []
    newest = all_checkpoints(one.folder, config.last_k)[-1].name
    folder = cell_folder(config, method, one.number, newest, min(method.steps))
    return tile_films(folder, method.name, min(method.steps), config.protocol, config.videos, config.output)
