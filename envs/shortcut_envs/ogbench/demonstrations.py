"""Demonstrations of OGBench's tasks."""

import os

from shortcut_envs.ogbench.scenes import check_scene
from shortcut_envs.recorded import Recorded


class OGBenchDemonstrations(Recorded):
    """A store that ``scripts/collect.py expert=ogbench`` wrote.

    Args:
        path: See `Recorded`.
        scene: See `OGBenchEnv`.

    Raises:
        InputError: There is no such scene; or see `Recorded`.
    """

    def __init__(self, path: str | os.PathLike[str], scene: str) -> None:
        check_scene(scene)
        super().__init__(path, scene, f"scripts/collect.py expert=ogbench expert.scene={scene}")
