"""What the actions of robomimic's tasks are: displacements, or poses in one of two forms."""

from typing import Any, Literal

import numpy as np

from shortcut_policy.data.env_args import EnvArgs
from shortcut_policy.data.object_state import LAYOUTS
from shortcut_policy.data.source import EpisodeSource
from shortcut_policy.errors import InputError

#: ``displacement``: robomimic's own, (7,) an arm. ``rotation_vector``: poses (7,), position in metres, axis
#: times angle, gripper, as in Diffusion Policy's ``*_abs.hdf5``. ``rotation_6d``: this library's, (10,).
ActionKind = Literal["displacement", "rotation_vector", "rotation_6d"]

ACTIONS = "actions"
#: Numbers of an arm.
SIZES: dict[ActionKind, int] = {"displacement": 7, "rotation_vector": 7, "rotation_6d": 10}
#: Rounding of actions that were stored in float32.
TOLERANCE = 1e-6
#: Metres: a pose that is asked for is so near to the gripper, which a displacement moves by 0.09 at most. No
#: displacement is, because grippers move about a metre over the floor, and displacements about zero.
NEAR = 0.25


def kind_of_actions(source: EpisodeSource, env_args: EnvArgs) -> ActionKind:
    """What the key ``actions`` holds.

    Seen from the numbers: Diffusion Policy's files of poses say that they hold displacements, because their
    ``env_args`` are those of the file that they were made of.

    Raises:
        InputError: Displacements outside [-1, 1], or ``env_args`` that ask for poses which these are not.
    """
    size = source.shapes[ACTIONS][0]
    if env_args.name not in LAYOUTS:
        return "displacement"  # of whatever it is: other environments may take any actions
    if size % SIZES["rotation_6d"] == 0:
        return "rotation_6d"
    actions = source.read(ACTIONS, 0, int(source.episode_ends[-1]))
    distance = _distance_to_grippers(source, actions)
    said = _says_poses(env_args)
    if said if distance is None else distance < NEAR:
        return "rotation_vector"
    if said:
        raise InputError(
            f"the env_args of {source.path} say that its actions are poses, but they lie up to "
            f"{distance:.2g} m away from the grippers: is input_type or control_delta that of another file?"
        )
    low, high = float(actions.min()), float(actions.max())
    if max(-low, high) > 1 + TOLERANCE:
        raise InputError(
            f"the actions of {source.path} reach from {low:.4g} to {high:.4g}, but those of robosuite's "
            "controllers lie in [-1, 1], and poses where the grippers are: scale them as they were when they "
            "were recorded (absolute actions are made from these by the library)"
        )
    return "displacement"


def _distance_to_grippers(source: EpisodeSource, actions: np.ndarray) -> float | None:
    """Metres, the largest, if the actions were poses; None where the file does not hold the grippers."""
    hands = [f"robot{arm}_eef_pos" for arm in range(actions.shape[1] // 7)]
    if not hands or not set(hands) <= set(source.keys):
        return None
    there = np.stack([source.read(key, 0, len(actions)) for key in hands], axis=1)
    asked = actions.reshape(len(actions), len(hands), -1)[..., :3]
    return float(np.linalg.norm(asked - there, axis=-1).max())


def _says_poses(env_args: EnvArgs) -> bool:
    """Whether the file's controller takes poses, in the way of robosuite 1.4 or 1.5."""
    configs: Any = env_args.kwargs.get("controller_configs") or {}
    first = configs[0] if isinstance(configs, list) else configs
    if "body_parts" in first:
        # control_delta means nothing to robosuite 1.5.
        arms = [part for part in first["body_parts"].values() if isinstance(part, dict)]
        return any(part.get("input_type") == "absolute" for part in arms)
    return first.get("control_delta") is False
