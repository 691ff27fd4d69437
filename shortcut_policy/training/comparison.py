"""Whether two configurations of trainings, as their documents hold them, are of the same training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortcut_policy.settings import flatten

#: What does not reach the weights. But for two: noise is drawn on the device that trains (`cpu`), and a run
#: that changes between GPU and CPU goes on with other noise; with other `threads` the last digits differ.
FREE_TO_CHANGE = (
    "output",
    "resume",
    "wandb",
    "cpu",
    "trust",
    "trainer.cuda_graph",
    "trainer.threads",
    "trainer.find_unused_parameters",
    "trainer._target_",
    "data.cache",
)
#: What a run may change when it goes on: the above, and what it is watched by, tried in and kept as. A larger
#: ``trainer.max_steps`` is another matter, see `Trainer.resume`.
FREE_ON_RESUME = (
    *FREE_TO_CHANGE,
    "name",
    "data.memory_limit_mb",
    "task.env",
    *(f"trainer.rollout_{setting}" for setting in ("every", "steps", "episodes", "seed")),
    *(f"trainer.{setting}" for setting in ("log_every", "validate_every")),
    *(f"trainer.validation_{setting}" for setting in ("steps", "windows")),
    *(f"trainer.keep_{setting}" for setting in ("last", "best", "every")),
    "trainer.checkpoint_every",
)


def compared(config: Mapping[str, Any], ignored: Sequence[str] = FREE_TO_CHANGE) -> dict[str, Any]:
    """`flatten` a configuration, without the settings ``ignored`` and all below them.

    Of the data only the name of the file is kept: where it lies is a machine's affair.
    """
    settings = {
        key: value
        for key, value in flatten(config).items()
        if not any(key == name or key.startswith(f"{name}.") for name in ignored)
    }
    if isinstance(path := settings.get("task.source.path"), str):
        settings["task.source.path"] = Path(path).name
    return settings


def first_difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The first setting by name in which two flat configurations differ, and its two values; None if none.

    A setting that one of them lacks, because it is newer, is the same as one that is off.
    """
    off = (None, False)
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if before != now and not (before in off and now in off):
            return key, before, now
    return None
