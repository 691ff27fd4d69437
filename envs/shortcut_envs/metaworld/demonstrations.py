"""Demonstrations of Meta-World."""

import os

from shortcut_envs.metaworld.tasks import tasks_of
from shortcut_envs.recorded import Recorded

#: Demonstrations of each task of a set that a sentence proposes.
EACH = 50


class MetaWorldDemonstrations(Recorded):
    """A store that ``scripts/collect.py expert=metaworld`` wrote.

    Args:
        path: See `Recorded`.
        task: One of Meta-World's, or a set of them: what the demonstrations are of.

    Raises:
        InputError: There is no such task; or see `Recorded`.
    """

    def __init__(self, path: str | os.PathLike[str], task: str) -> None:
        tasks = tasks_of(task)
        many = f" episodes={len(tasks) * EACH} workers=2" if len(tasks) > 1 else ""
        super().__init__(path, task, f"scripts/collect.py expert=metaworld expert.task={task}{many}")
