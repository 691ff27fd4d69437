"""Demonstrations of OGBench's tasks."""

import os
from collections.abc import Sequence

from shortcut_envs.ogbench.scenes import check_scene
from shortcut_envs.recorded import Recorded
from shortcut_policy.errors import InputError


class OGBenchDemonstrations(Recorded):
    """A store that ``scripts/collect.py expert=ogbench`` wrote.

    Args:
        path: See `Recorded`.
        scene: See `OGBenchEnv`.
        cameras: As well; those whose pictures it must hold.

    Raises:
        InputError: There is no such scene, or the pictures are not there; or see `Recorded`.
    """

    def __init__(self, path: str | os.PathLike[str], scene: str, cameras: Sequence[str] = ()) -> None:
        check_scene(scene)
        command = f"scripts/collect.py expert=ogbench expert.scene={scene}"
        if cameras:
            command += f" expert.cameras=[{','.join(cameras)}]"
        super().__init__(path, scene, command)
        lost = [camera for camera in cameras if f"{camera}_image" not in self.keys]
        if lost:
            raise InputError(
                f"{self.path} holds demonstrations without the pictures of {', '.join(lost)}: give the path "
                f"of others as task.source.path, or record some with {command} output=<path>"
            )
