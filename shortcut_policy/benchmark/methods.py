"""The entries of a benchmark: checkpoints, training configurations to run first, published results."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf

from shortcut_policy.benchmark.result_files import (
    RunResults,
    check_cells,
    check_protocol,
    check_training,
    portable_training,
    published_file,
    read_published,
    slug,
)
from shortcut_policy.checkpoint import find_checkpoint, has_reached, list_checkpoints
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.rollout.evaluate import Protocol
from shortcut_policy.settings import check_keys
from shortcut_policy.training.log import read_log
from shortcut_policy.training.run_folder import read_config

SOURCES = ("checkpoint", "runs", "overrides", "published")


@dataclass(frozen=True)
class Entry:
    """One method of the table; exactly one of `SOURCES` says where it is from.

    Attributes:
        name: What the table calls it.
        steps: Step counts to sample with.
        checkpoint: A checkpoint folder or a run folder.
        runs: Run folders of the same training with different seeds.
        overrides: Hydra overrides of ``configs/train.yaml``: train first.
        published: Folder of published results: show what they say, without a checkpoint.
        seeds: Training seeds for ``overrides``.
        newest_only: Those of ``steps`` that are too costly for more than the newest checkpoint.
        guidance: Scales to draw images with, a line of the table each, for a method that leaves it open.
        claim: What a paper says of its training compute relative to flow matching, for the compute table.
        train_minutes: Time budget of the training of one seed, for the announcement.
        rollout_minutes: Time budget of all its rollouts, for the announcement.
    """

    name: str
    steps: Sequence[int]
    checkpoint: str | None = None
    runs: Sequence[str] | None = None
    overrides: Sequence[str] | None = None
    published: str | None = None
    seeds: Sequence[int] = (0,)
    newest_only: Sequence[int] = ()
    guidance: Sequence[float] = ()
    claim: str | None = None
    train_minutes: float | None = None
    rollout_minutes: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip() or "/" in self.name:
            raise InputError(
                f"benchmark entry name={self.name} must be a word or more, without '/': files are named "
                "after it"
            )
        if sum(getattr(self, source) is not None for source in SOURCES) != 1:
            raise InputError(f"benchmark entry '{self.name}' must have exactly one of {', '.join(SOURCES)}")
        for key in ("steps", "newest_only", "seeds"):
            values = getattr(self, key)
            whole = isinstance(values, Sequence) and all(type(value) is int for value in values)
            if not whole or (not values and key != "newest_only"):
                raise InputError(
                    f"benchmark entry '{self.name}' has {key}={values}: give a list of whole numbers, "
                    "such as [1]"
                )
        for key in ("runs", "overrides"):
            if isinstance(getattr(self, key), str):
                raise InputError(
                    f"benchmark entry '{self.name}' has {key}={getattr(self, key)}: give a list, [...]"
                )


@dataclass(frozen=True)
class Run:
    """One training seed of an entry, and where its results come from.

    Attributes:
        number: The training seed, or the place in the entry's ``runs``.
        folder: Run or checkpoint folder to evaluate, existing or to be trained.
        training: Configuration that trains ``folder``, or goes on with it; None for one that is as it is.
        results: Published results, which take the place of both.
    """

    number: int
    folder: Path
    training: DictConfig | None = None
    results: RunResults | None = None


def find_runs(
    entry: Entry, shared: Sequence[str], output: Path, published: Path | None, rules: Protocol, last_k: int
) -> list[Run]:
    """The training seeds of an entry, those to be trained with their configuration.

    Args:
        entry: The entry.
        shared: Overrides of all trainings.
        output: Of the benchmark; trainings run below it.
        published: Folder of published results that stand in for trainings without a run folder.
        rules: Protocol that published results must have followed.
        last_k: Checkpoints of a run that are averaged.

    Raises:
        InputError: published results cannot be read, or are not what is asked for.
    """
    if entry.published is not None:
        path = published_file(Path(entry.published), entry.name)
        runs = [Run(results.number, path, results=results) for results in read_published(path)]
    elif entry.overrides is None:
        folders = [entry.checkpoint] if entry.runs is None else entry.runs
        return [Run(number, Path(str(folder))) for number, folder in enumerate(folders)]
    else:
        runs = [_trained_run(entry, seed, shared, output, published) for seed in entry.seeds]
    for run in runs:
        if run.results is not None:
            check_protocol(run.results, run.folder, rules)
            check_cells(run.results, run.folder, wanted_cells(entry, run.results.checkpoints, last_k))
    return runs


def training_run(entry: Entry, seed: int, shared: Sequence[str], output: Path) -> Run:
    """The run of one training seed of an entry with overrides, below ``output``, done or not."""
    folder = output / "runs" / f"{slug(entry.name)}_seed{seed}"
    own = [f"seed={seed}", f"output='{folder}'", "resume=true"]
    return Run(seed, folder, training=training_config([*shared, *(entry.overrides or ()), *own]))


def is_trained(run: Run) -> bool:
    """Whether there is nothing left to train of a run."""
    if run.training is None:
        return True
    return has_reached(run.folder, run.training.trainer.max_steps)


def wanted_cells(entry: Entry, checkpoints: Sequence[str], last_k: int) -> list[tuple[str, int]]:
    """(checkpoint, steps) that the table needs of a run with these checkpoints, oldest checkpoint first."""
    return [
        (checkpoint, steps)
        for checkpoint in checkpoints[-last_k:]
        for steps in entry.steps
        if checkpoint == checkpoints[-1] or steps not in entry.newest_only
    ]


def parse_entries(config: ListConfig | None) -> list[Entry]:
    """Entries from the list ``entries`` of a benchmark configuration.

    Raises:
        InputError: there are none, two share a name, or a key is missing or unknown.
    """
    if not config:
        raise InputError(
            "the benchmark has no entries: add 'entries: [{name: ..., checkpoint: ..., steps: [1]}]'"
        )
    entries = [_entry(item) for item in config]
    names = [entry.name for entry in entries]
    slugs = [slug(name) for name in names]
    twice = next((name for name in names if slugs.count(slug(name)) > 1), None)
    if twice is not None:
        raise InputError(
            f"two benchmark entries are named '{twice}', or so that their files would be: rename one"
        )
    return entries


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


def train_entry(config: DictConfig) -> Path:
    """Train and return the run folder."""
    from shortcut_policy.commands.train import run

    return Path(run(config))


def training_config(overrides: Sequence[str]) -> DictConfig:
    """``configs/train.yaml`` with ``overrides``, as ``scripts/train.py`` would compose it.

    What ``--config-dir`` of this command holds is there for it, too.

    Raises:
        InputError: Hydra cannot do that.
    """
    # The command line's own Hydra is done composing; its global state only stands in the way.
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            return compose("train", overrides=[*_own_configs(), *overrides])
    except HydraException as error:
        raise InputError(f"the overrides {list(overrides)} are not of a training: {error}") from error


def _own_configs() -> list[str]:
    """The override that adds the folder of the command's ``--config-dir``, if it was given one."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    folders = [f"file://{one.path}" for one in sources if one.provider == "command-line"]
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []


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


def _trained_run(entry: Entry, seed: int, shared: Sequence[str], output: Path, published: Path | None) -> Run:
    run = training_run(entry, seed, shared, output)
    path = None if published is None else published_file(published, entry.name)
    if path is not None and path.is_file() and not list_checkpoints(run.folder):
        for results in read_published(path):
            if results.number == seed:
                plain = OmegaConf.to_container(run.training, resolve=True)
                assert isinstance(plain, dict)
                check_training(results, path, portable_training({str(k): v for k, v in plain.items()}))
                return Run(seed, path, results=results)
    return run


def _entry(item: Any) -> Entry:
    values = OmegaConf.to_container(item, resolve=True) if OmegaConf.is_config(item) else None
    required = ["name", "steps"]
    if not isinstance(values, dict) or not values.keys() >= {*required}:
        raise InputError(f"benchmark entry {item} must be a mapping with at least 'name' and 'steps'")
    optional = [field.name for field in fields(Entry) if field.name not in required]
    check_keys(f"benchmark entry '{values['name']}'", values, required, optional)
    return Entry(**{str(key): value for key, value in values.items()})
