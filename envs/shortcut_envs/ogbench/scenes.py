"""Names of OGBench's manipulation scenes; nothing of OGBench is imported for them."""

import difflib
from collections.abc import Mapping

from shortcut_policy.errors import InputError

#: Scenes: the length of an episode, and module, class and kind of OGBench's.
SCENES: Mapping[str, tuple[int, str, str, str]] = {
    "cube-single": (200, "cube_env", "CubeEnv", "single"),
    "cube-double": (500, "cube_env", "CubeEnv", "double"),
    "cube-triple": (1000, "cube_env", "CubeEnv", "triple"),
    "cube-quadruple": (1000, "cube_env", "CubeEnv", "quadruple"),
    "scene": (750, "scene_env", "SceneEnv", "scene"),
    "puzzle-3x3": (500, "puzzle_env", "PuzzleEnv", "3x3"),
    "puzzle-4x4": (500, "puzzle_env", "PuzzleEnv", "4x4"),
}


def check_scene(scene: str) -> None:
    """Raise `InputError`, with the nearest names, unless there is a scene of this name."""
    if scene in SCENES:
        return
    near = difflib.get_close_matches(str(scene), SCENES, n=3, cutoff=0.4)
    known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(SCENES)}"
    raise InputError(f"OGBench's manipulation has no scene '{scene}'; {known}")
