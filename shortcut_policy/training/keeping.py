"""Which checkpoints of a run are kept."""

import math
from pathlib import Path

from shortcut_policy.checkpoint import checkpoint_step, list_checkpoints, read_description, remove_folder
from shortcut_policy.training.config import TrainerConfig


def remove_others(run: Path, config: TrainerConfig) -> None:
    """Remove the checkpoints that are neither among the newest nor the best nor regular ones."""
    older = list_checkpoints(run)[: -config.keep_last]
    best = sorted(older, key=_score, reverse=True)[: config.keep_best]
    every = config.keep_every
    regular = [folder for folder in older if every and checkpoint_step(folder) % every == 0]
    for folder in set(older) - set(best) - set(regular):
        remove_folder(folder)


def _score(folder: Path) -> float:
    score: float = read_description(folder)["metadata"].get("selection", {}).get("score", -math.inf)
    return score
