"""Which checkpoints of a run are kept."""

import os
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shortcut_policy.checkpoint import (
    checkpoint_step,
    drop_older_states,
    leftovers,
    list_checkpoints,
    read_metadata,
    remove_folder,
)
from shortcut_policy.errors import InputError
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.run_folder import only_training, remove_left_lock


def selected_by_score(values: Mapping[str, float]) -> dict[str, Any]:
    """What a checkpoint's metadata say of its ``selection``: the first of the scores of its rollouts."""
    name, score = next(iter(values.items()))
    return {"name": name, "score": score}


def selected_by_error(values: Mapping[str, float]) -> dict[str, Any]:
    """The same of a validation: the first error of its samples, or the loss; less is better."""
    name = next((name for name in values if name.startswith("action_error")), "loss")
    return {"name": name, "score": -values[name]}


def tidy(run: Path, config: TrainerConfig) -> None:
    """Finish what a killed training had begun to remove."""
    drop_older_states(run)
    remove_others(run, config)


def tidy_finished(run: Path, config: TrainerConfig) -> None:
    """The same for a run that has reached its end, where nothing is to be written if nothing is left."""
    if (leftovers(run) or _others(run, config)) and int(os.environ.get("RANK", 0)) == 0:
        with suppress(InputError, OSError), only_training(run):
            tidy(run, config)
    remove_left_lock(run)


def remove_others(run: Path, config: TrainerConfig) -> None:
    """Remove the checkpoints that are neither among the newest nor the best nor regular ones.

    A run that goes on may be watched otherwise, without rollouts or at other step counts. Scores of different
    names cannot be compared, so the best are kept of each name.
    """
    for folder in _others(run, config):
        remove_folder(folder)


def _others(run: Path, config: TrainerConfig) -> set[Path]:
    older = list_checkpoints(run)[: -config.keep_last]
    scores: dict[str | None, dict[Path, float]] = defaultdict(dict)
    for folder in older:
        selection = read_metadata(folder).get("selection", {})
        if "score" in selection:  # without a name in checkpoints of earlier releases
            scores[selection.get("name")][folder] = selection["score"]
    ranked = [sorted(of_name, key=of_name.__getitem__, reverse=True) for of_name in scores.values()]
    best = {folder for folders in ranked for folder in folders[: config.keep_best]}
    every = config.keep_every
    regular = {folder for folder in older if every and checkpoint_step(folder) % every == 0}
    return set(older) - best - regular
