"""The folder of a run: its name, its lock, its configuration, and whether a training may go on in it."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from shortcut_policy.checkpoint import list_checkpoints, read_metadata
from shortcut_policy.errors import InputError, first_line
from shortcut_policy.locks import FileLock, remove_left
from shortcut_policy.no_checkpoint import check_can_go_on
from shortcut_policy.paths import write_atomic, written_out
from shortcut_policy.recipes import recipe, recipe_names
from shortcut_policy.renamed import rename
from shortcut_policy.training.comparison import FREE_ON_RESUME, compared, first_difference
from shortcut_policy.training.config import TrainingConfig

CONFIG, LOCK = "config.yaml", ".lock"
#: Parts of a configuration that have names, see `recipe`.
RECIPES = ("objective", "backbone", "encoder")
#: What a checkpoint calls the `DemonstrationDataset.totals` of its data.
TOTALS = "data_totals"


def output_folder(config: TrainingConfig) -> Path:
    """The run folder of a configuration, ``runs/<task>_<method>_<backbone>_seed<n>`` if it names none."""
    if config.output is not None:
        return written_out(config.output)
    backbone = snake_case(config.backbone)
    method = method_name(config.name, config.objective)
    return Path(f"runs/{config.task.name}_{method}_{backbone}_seed{config.seed}")


def method_name(name: str | None, objective: Mapping[str, Any]) -> str:
    """Name under which tables list a run: its own, or its objective's."""
    return name or snake_case(objective)


def snake_case(spec: Mapping[str, Any]) -> str:
    """Name of the class of a specification: ``flow_matching`` for ``{_target_: a.FlowMatching}``."""
    name = str(spec["_target_"]).rpartition(".")[2]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


@contextmanager
def only_training(output: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder: each would overwrite what the other logs and saves.

    Raises:
        InputError: One is at work there, or nothing can be written there.
    """
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK):
        raise InputError(
            f"nothing can be written to {output}: give another output; to go on with a run, copy its folder "
            "to where it can be written, and give that"
        )
    busy = f"another process is training in {output}: wait for it, end it, or give another output"
    with FileLock(output / LOCK, busy, f"start no second training in {output}"):
        yield


def remove_left_lock(output: Path) -> None:
    """Remove what is left of the lock of `only_training`, if nobody trains there."""
    remove_left(output / LOCK)


def write_config(output: Path, document: Mapping[str, Any]) -> None:
    """Write the ``config.yaml`` that `read_config` reads."""
    write_atomic(output / CONFIG, yaml.safe_dump(dict(document), sort_keys=False))


def read_config(run: Path) -> dict[str, Any]:
    """The configuration that a run was trained with, as it was written: it may lack newer settings.

    Raises:
        InputError: Its ``config.yaml`` is damaged.
    """
    path = run / CONFIG
    try:
        config: Any = rename(yaml.safe_load(path.read_text(encoding="utf-8")))
        damage = "" if isinstance(config, dict) and isinstance(config.get("task"), dict) else "no mapping"
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        damage = first_line(error)
    if damage:
        raise InputError(
            f"{path} is no configuration of a training ({damage}): put it back, or take another run"
        )
    read: dict[str, Any] = config
    return read


def check_output(output: Path, document: Mapping[str, Any], resume: bool) -> None:
    """Refuse to overwrite a run, or to go on with one under another configuration.

    What may change on the way is `FREE_ON_RESUME`, and ``trainer.max_steps`` for a larger one.

    Args:
        output: Run folder.
        document: All settings of the training, as ``config.yaml`` holds them.
        resume: Whether a run that is there is to go on.

    Raises:
        InputError: The folder is a file or holds another run, or one that the command began and Python is
            to go on with, or the other way round; or its ``config.yaml`` is lost, or its last
            checkpoint is not whole.
    """
    place = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not place.is_dir():
        raise InputError(f"output={output} cannot be a run folder: {place} is a file; give another output")
    checkpoints = list_checkpoints(output)
    if not checkpoints:
        check_can_go_on(output, None)
        return
    if not resume:
        raise InputError(
            f"{output} already holds a run; give resume=true to go on with it, or another output"
        )
    if not (output / CONFIG).is_file():
        raise InputError(
            f"{output} holds checkpoints but no {CONFIG}, which says what they were trained with: put it "
            "back, or give another output"
        )
    before = read_config(output)
    if (python := _of_python(before)) != _of_python(document):
        begun, how = (
            ("in Python", "Trainer(..., resume=True)") if python else ("by the command", "its resume=true")
        )
        raise InputError(
            f"{output} was begun {begun} and can only go on there, because its settings are written down in "
            f"another form: use {how}, or give another output"
        )
    old, new = (_decisive(each) for each in (before, document))
    if isinstance(steps := old.get("trainer.max_steps"), int | float) and new["trainer.max_steps"] > steps:
        new["trainer.max_steps"] = steps
    if difference := first_difference(old, new):
        key, was, wanted = difference
        raise InputError(
            f"{output} was trained with {key}={was}, not {wanted}; a run goes on with its own configuration"
            f"{_own(before, key)}: drop the change or give another output"
        )
    check_can_go_on(output, checkpoints[-1])


def check_data(output: Path, path: str | Path, size: Mapping[str, int]) -> None:
    """Refuse to go on with a run whose data have become more or less.

    Args:
        output: Run folder.
        path: Of the data.
        size: Of the data, as a checkpoint of theirs says it.

    Raises:
        InputError: The newest checkpoint says another size.
    """
    saved = list_checkpoints(output)
    known = read_metadata(saved[-1]) if saved else {}
    for key, found in size.items():
        if known.get(key, found) != found:
            what = key.replace("train_", "training ")
            raise InputError(
                f"{output} was trained with {known[key]} {what}, and {path} has {found} now: a run goes on "
                "with its own data, restore them or give another output"
            )


def _own(before: Mapping[str, Any], key: str) -> str:
    """The recipe that a run has of the part that differs: who changed nothing met another default."""
    settings = before.get("policy", before)
    group = key.removeprefix("policy.").partition(".")[0]
    if group not in RECIPES or not isinstance(own := settings.get(group), Mapping):
        return ""
    names = [name for name in recipe_names(group) if first_difference(own, recipe(group, name)) is None]
    return f", {group}={names[0]}" if names else ""


def _of_python(document: Mapping[str, Any]) -> bool:
    """Whether a training without the command wrote the settings, see `record.run_document`."""
    return "policy" in document


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must stay as they are; the order of the observations, which are put end to end."""
    return compared(config, FREE_ON_RESUME) | {"task.obs": list(config["task"].get("obs") or ())}
