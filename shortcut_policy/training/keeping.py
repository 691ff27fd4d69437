"""Which checkpoints of a run are kept."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shortcut_policy.checkpoint import checkpoint_step, list_checkpoints, read_metadata, remove_folder
from shortcut_policy.training.config import TrainerConfig


def selected_by_score(values: Mapping[str, float]) -> dict[str, Any]:
    """What a checkpoint's metadata say of its ``selection``: the first of the scores of its rollouts."""
    name, score = next(iter(values.items()))
    return {"name": name, "score": score}


def selected_by_error(values: Mapping[str, float]) -> dict[str, Any]:
    """The same of a validation: the first error of its samples, or the loss; less is better."""
    name = next((name for name in values if name.startswith("action_error")), "loss")
    return {"name": name, "score": -values[name]}


def remove_others(run: Path, config: TrainerConfig) -> None:
    """Remove the checkpoints that are neither among the newest nor the best nor regular ones.

    A run that goes on may be watched otherwise, without rollouts or at other step counts. Scores of different
    names cannot be compared, so the best are kept of each name.
    """
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
    for folder in set(older) - best - regular:
        remove_folder(folder)
