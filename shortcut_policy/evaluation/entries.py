"""The entries of a benchmark: checkpoints that exist, or training configurations to run first."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from shortcut_policy.checkpoint import find_checkpoint, list_checkpoints
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR

SOURCES = ("checkpoint", "runs", "overrides")


@dataclass(frozen=True)
class Entry:
    """One method of the table; exactly one of ``checkpoint``, ``runs``, ``overrides`` says where it is from.

    Attributes:
        name: What the table calls it.
        steps: Step counts to sample with.
        checkpoint: A checkpoint folder or a run folder.
        runs: Run folders of the same training with different seeds.
        overrides: Hydra overrides of ``configs/train.yaml``: train first.
        seeds: Training seeds for ``overrides``.
        newest_only: Those of ``steps`` that are too costly for more than the newest checkpoint.
        train_minutes: Time budget of the training of one seed, for the announcement.
        rollout_minutes: Time budget of all its rollouts, for the announcement.
    """

    name: str
    steps: Sequence[int]
    checkpoint: str | None = None
    runs: Sequence[str] | None = None
    overrides: Sequence[str] | None = None
    seeds: Sequence[int] = (0,)
    newest_only: Sequence[int] = ()
    train_minutes: float | None = None
    rollout_minutes: float | None = None

    def __post_init__(self) -> None:
        if sum(getattr(self, source) is not None for source in SOURCES) != 1:
            raise InputError(f"benchmark entry '{self.name}' must have exactly one of {', '.join(SOURCES)}")
        if not self.steps:
            raise InputError(f"benchmark entry '{self.name}' has no step counts: give it steps=[...]")

    @property
    def folders(self) -> list[Path] | None:
        """Existing run or checkpoint folders, one a training seed; None if they are yet to be trained."""
        if self.checkpoint is not None:
            return [Path(self.checkpoint)]
        return None if self.runs is None else [Path(run) for run in self.runs]


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
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"two benchmark entries are named '{twice}': rename one")
    return entries


def last_checkpoints(folder: Path, count: int) -> list[Path]:
    """The newest ``count`` checkpoints of a run folder, newest last; a checkpoint folder stands for itself.

    Raises:
        InputError: there is no checkpoint, or the run has fewer.
    """
    found = list_checkpoints(folder)
    if not found:
        return [find_checkpoint(folder)]
    if len(found) < count:
        raise InputError(
            f"run {folder} holds {len(found)} checkpoints, but last_k={count} are to be averaged"
        )
    return found[-count:]


def train_entry(config: DictConfig) -> Path:
    """Train and return the run folder."""
    from shortcut_policy.training import run

    return Path(run(config))


def training_config(overrides: Sequence[str]) -> DictConfig:
    """``configs/train.yaml`` with ``overrides``, as ``scripts/train.py`` would compose it."""
    # The command line's own Hydra is done composing; its global state only stands in the way.
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("train", overrides=list(overrides))


def read_losses(run: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Kind of record ("train", "validation") -> (updates, losses), from a run's log if it has one."""
    curves: dict[str, tuple[list[int], list[float]]] = {}
    log = run / "log.jsonl"
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        record = json.loads(line)
        if "loss" in record:
            updates, losses = curves.setdefault(record["kind"], ([], []))
            updates.append(record["step"])
            losses.append(record["loss"])
    return curves


def _entry(item: Any) -> Entry:
    values = OmegaConf.to_container(item, resolve=True) if OmegaConf.is_config(item) else None
    if not isinstance(values, dict) or not {"name", "steps"} <= values.keys():
        raise InputError(f"benchmark entry {item} must be a mapping with at least 'name' and 'steps'")
    unknown = values.keys() - {field.name for field in fields(Entry)}
    if unknown:
        raise InputError(
            f"benchmark entry '{values['name']}' has an unknown key '{sorted(map(str, unknown))[0]}'"
        )
    return Entry(**{str(key): value for key, value in values.items()})
