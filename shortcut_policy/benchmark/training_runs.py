"""The training seeds of each method: folders, trainings to run first, published results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shortcut_policy.benchmark.config import BenchmarkConfig
from shortcut_policy.benchmark.methods import Method, wanted_cells
from shortcut_policy.benchmark.phases import Phases
from shortcut_policy.benchmark.result_files import (
    RunResults,
    check_cells,
    check_protocol,
    check_specification,
    check_training,
    portable_training,
    published_file,
    read_published,
    slug,
)
from shortcut_policy.checkpoint import find_checkpoint, has_reached, list_checkpoints
from shortcut_policy.errors import InputError
from shortcut_policy.training.config import TrainerConfig, TrainingConfig
from shortcut_policy.training.log import read_log
from shortcut_policy.training.run_folder import read_config
from shortcut_policy.trust import trusted_in, trusted_modules


@dataclass(frozen=True)
class Trainings:
    """How methods are trained first, which is the command's to know.

    Attributes:
        compose: Overrides of ``configs/train.yaml`` -> the configuration of a training.
        run: Trains as a configuration says, or goes on with it, and returns the run folder.
    """

    compose: Callable[[Sequence[str]], TrainingConfig]
    run: Callable[[TrainingConfig], Path]


@dataclass(frozen=True)
class TrainingRun:
    """One training seed of a method, and where its results come from.

    Attributes:
        number: The training seed, or the place in the method's ``runs``.
        folder: Run or checkpoint folder to evaluate, existing or to be trained.
        training: Configuration that trains ``folder``, or goes on with it; None for one that is as it is.
        results: Published results, which take the place of both.
    """

    number: int
    folder: Path
    training: TrainingConfig | None = None
    results: RunResults | None = None


#: The training seeds of each method, by its name.
Runs = Mapping[str, Sequence[TrainingRun]]


def find_runs(method: Method, config: BenchmarkConfig, trainings: Trainings) -> list[TrainingRun]:
    """The training seeds of a method, those to be trained with their configuration.

    Raises:
        InputError: published results cannot be read, or are not what is asked for.
    """
    if method.published is not None:
        path = published_file(Path(method.published), method.name)
        found = read_published(path, trusted_modules(config.trust))
        runs = [TrainingRun(results.number, path, results=results) for results in found]
    elif method.overrides is None:
        folders = [method.checkpoint] if method.runs is None else method.runs
        return [TrainingRun(number, Path(str(folder))) for number, folder in enumerate(folders)]
    else:
        own = [training_run(method, seed, config.training, config.output, trainings) for seed in method.seeds]
        runs = [_published_in_place(method, run, config) for run in own]
    for run in runs:
        if run.results is not None:
            check_specification(run.results, run.folder)
            check_protocol(run.results, run.folder, config.protocol)
            check_cells(run.results, run.folder, wanted_cells(method, run.results.checkpoints, config.last_k))
    return runs


def choose(
    methods: Sequence[Method], runs: Runs, trained_only: bool, where: str
) -> tuple[Sequence[Method], Runs]:
    """The methods to compare and the runs of each.

    Args:
        methods: All of the configuration.
        runs: Of each by its name.
        trained_only: Leave out the runs that would have to be trained first, and methods without others.
        where: It was looked for finished runs, for the sentence.

    Raises:
        InputError: Nothing is left.
    """
    if trained_only:
        runs = {name: [one for one in own if is_trained(one)] for name, own in runs.items()}
        methods = [method for method in methods if runs[method.name]]
    if not methods:
        raise InputError(
            f"trained_only=true leaves nothing to compare: no run {where}; leave it out to train first"
        )
    return methods, runs


def training_plan(methods: Sequence[Method], runs: Runs) -> list[tuple[str, float | None]]:
    """Title and budget of the phases of `train_all`."""
    return [
        (
            f"{'Trained:' if is_trained(one) else 'Train'} {method.name}, seed {one.number}",
            method.train_minutes,
        )
        for method in methods
        for one in runs[method.name]
        if one.training is not None
    ]


def train_all(methods: Sequence[Method], runs: Runs, trainings: Trainings, phases: Phases) -> None:
    """Train what is to be trained, a phase for each run; one that is finished finds out that it is."""
    for training in (one.training for method in methods for one in runs[method.name]):
        if training is not None:
            with phases.next():
                trainings.run(training)


def training_run(
    method: Method, seed: int, shared: Sequence[str], output: Path, trainings: Trainings
) -> TrainingRun:
    """The run of one training seed of a method with overrides, below ``output``, done or not."""
    folder = output / "runs" / f"{slug(method.name)}_seed{seed}"
    own = [f"seed={seed}", f"output='{folder}'", "resume=true"]
    return TrainingRun(seed, folder, trainings.compose([*shared, *(method.overrides or ()), *own]))


def kept_checkpoints(trainer: TrainerConfig) -> list[str]:
    """Names of the checkpoints that a training leaves, oldest first."""
    every = range(trainer.checkpoint_every, trainer.max_steps, trainer.checkpoint_every)
    saved = [*every, trainer.max_steps]
    regular = [step for step in saved if trainer.keep_every and step % trainer.keep_every == 0]
    return [f"step_{step:08d}" for step in sorted({*saved[-trainer.keep_last :], *regular})]


def is_trained(run: TrainingRun) -> bool:
    """Whether there is nothing left to train of a run."""
    if run.training is None:
        return True
    return has_reached(run.folder, run.training.trainer.max_steps)


def all_checkpoints(folder: Path, last_k: int) -> list[Path]:
    """The checkpoints of a run folder, newest last; a checkpoint folder stands for itself.

    Raises:
        InputError: there is no checkpoint, or fewer than ``last_k`` of a run are to be averaged.
    """
    found = list_checkpoints(folder)
    if found and len(found) < last_k:
        raise InputError(
            f"run {folder} holds {len(found)} checkpoints, but last_k={last_k} are to be averaged"
        )
    return found or [find_checkpoint(folder)]


def read_training(folder: Path) -> dict[str, Any] | None:
    """The configuration that a run was trained with, without what belongs to a machine; None if unknown."""
    return portable_training(read_config(folder)) if (folder / "config.yaml").is_file() else None


def read_losses(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Kind of record ("train", "validation") -> (updates, losses), from a run's log if it has one."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    for record in read_log(run):
        if "loss" in record:
            updates, losses = curves.setdefault(record["kind"], ([], []))
            updates.append(record["step"])
            losses.append(record["loss"])
    return curves


def _published_in_place(method: Method, run: TrainingRun, config: BenchmarkConfig) -> TrainingRun:
    """What is published of a training that has no checkpoint yet, or else the training."""
    path = None if config.published is None else published_file(config.published, method.name)
    if run.training is None or path is None or not path.is_file() or list_checkpoints(run.folder):
        return run
    document = run.training.document()
    for results in read_published(path, (*trusted_modules(config.trust), *trusted_in(document))):
        if results.number == run.number:
            check_training(results, path, portable_training(document))
            return TrainingRun(run.number, path, results=results)
    return run
