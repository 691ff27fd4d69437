"""Demonstrations that an expert of this package recorded, checked to be of the task that is trained."""

import os

from shortcut_policy.data.source import expand
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError


class Recorded(ZarrSource):
    """A store that ``scripts/collect.py`` wrote, of one task.

    Args:
        path: See `ZarrSource`.
        task: That its demonstrations are to be of.
        command: That records some, but for the output.

    Raises:
        InputError: There is no such store, or it holds demonstrations of another task.
    """

    def __init__(self, path: str | os.PathLike[str], task: str, command: str) -> None:
        if not expand(path).exists():
            raise InputError(
                f"there are no demonstrations of {task} at {expand(path)}: record some with {command} "
                f"output={path}"
            )
        super().__init__(path)
        stored = self.attributes.get("task")
        if stored != task:
            words = f"of {stored}" if stored else "that do not say of which task they are"
            raise InputError(
                f"{self.path} holds demonstrations {words}, and the task is {task}: give the path of others "
                f"as task.source.path, or record some with {command} output=<path>"
            )
