"""What robosuite's ``object`` observation holds, in one order and without the two faults of robosuite 1.5.

The vector has the same length in robosuite 1.4 and 1.5 and another order, so that a mix-up fails silently.
And in 1.5 an object's pose relative to the gripper is computed from the object's pose of the frame before: it
is zero in the first observation after a reset and millimetres off while the object moves. Demonstrations and
environments both go through `ObjectState`, so that a policy sees one thing, whichever version recorded its
demonstrations.
"""

from dataclasses import dataclass

import numpy as np

from shortcut_policy.errors import InputError

#: The observation.
OBJECT = "object"
#: Observations of the gripper that relative poses are computed from.
EEF = ("robot0_eef_pos", "robot0_eef_quat")


@dataclass(frozen=True)
class Part:
    """Consecutive numbers of the vector."""

    name: str
    size: int


def _pose(name: str) -> list[Part]:
    return [Part(f"{name}_pos", 3), Part(f"{name}_quat", 4)]


def _relative(name: str) -> list[Part]:
    return [Part(f"{name}_to_eef_pos", 3), Part(f"{name}_to_eef_quat", 4)]


def _layouts() -> dict[str, dict[str, list[Part]]]:
    lift = [*_pose("cube"), Part("gripper_to_cube_pos", 3)]
    layouts = {"Lift": {"1.4": lift, "1.5": lift}}
    for task, names, flags in (
        ("PickPlaceCan", ["Can"], []),
        ("NutAssemblySquare", ["SquareNut"], []),
        ("ToolHang", ["base", "frame", "tool"], ["frame_is_assembled", "tool_on_frame"]),
    ):
        rest = [Part(flag, 1) for flag in flags]
        layouts[task] = {
            "1.4": [part for name in names for part in (*_pose(name), *_relative(name))] + rest,
            "1.5": [part for name in names for part in (*_relative(name), *_pose(name))] + rest,
        }
    poses = [*_pose("payload"), *_pose("trash"), *_pose("lid_handle")]
    bins = [Part("target_bin_pos", 3), Part("trash_bin_pos", 3)]
    inside = [Part("payload_in_target_bin", 1), Part("trash_in_trash_bin", 1)]
    offsets = [
        Part("gripper0_to_payload", 3),
        Part("gripper0_to_lid_handle", 3),
        Part("gripper1_to_payload", 3),
        Part("gripper1_to_trash", 3),
    ]
    layouts["TwoArmTransport"] = {
        "1.4": [*poses, *bins, *offsets, *inside],
        "1.5": [*poses, *bins, *inside, *offsets],
    }
    return layouts


#: Environment name -> minor version of robosuite -> parts in order, as measured on 1.4.1 and 1.5.1.
LAYOUTS = _layouts()
#: The version in whose order everything is handed on.
CURRENT = "1.5"


class ObjectState:
    """Brings ``object`` vectors of one task and robosuite version into the current order, repaired.

    Args:
        env_name: Of robosuite, such as ``PickPlaceCan``.
        env_version: Of the robosuite that made the vectors, such as ``1.4.1``; empty if that is not known.
        where: What to call them in errors.

    Attributes:
        needs_gripper: Whether the vector holds poses relative to the gripper, which `EEF` is needed for.

    Raises:
        InputError: The order of this version is not known.
    """

    def __init__(self, env_name: str, env_version: str, where: str) -> None:
        if not env_version:
            raise InputError(
                f"the env_args of {where} do not say which robosuite made it (env_version): add it, such as "
                "1.4.1 or 1.5.1, because the order of the 'object' observation depends on it"
            )
        version = ".".join(env_version.split(".")[:2])
        versions = LAYOUTS.get(env_name)
        if version not in ("1.4", "1.5") or (versions is None and version != CURRENT):
            known = "only 1.5 is handled for this task" if versions is None else "1.4 and 1.5 are handled"
            raise InputError(
                f"{where} was made with robosuite {env_version}, whose order of the 'object' observation of "
                f"{env_name} is not known; {known}: record or extract the observations again with robosuite "
                "1.5"
            )
        self.where, self.env_name = where, env_name
        # A task that is not in the table passes unchanged.
        self._stored = _slices(versions[version]) if versions else {}
        self._current = _slices(versions[CURRENT]) if versions else {}
        self._relative = [
            name.removesuffix("_to_eef_pos") for name in self._current if name.endswith("_to_eef_pos")
        ]
        self.needs_gripper = bool(self._relative)
        self.size = sum(part.size for part in versions[CURRENT]) if versions else None

    def __call__(self, rows: np.ndarray, *gripper: np.ndarray) -> np.ndarray:
        """(..., D) as stored to (..., D) in the current order, with relative poses of the same moment.

        Args:
            rows: Stored vectors.
            gripper: The observations `EEF`, if they are needed: (..., 3) position in metres and (..., 4)
                orientation, x y z w.
        """
        if self.size is None:
            return rows
        if rows.shape[-1] != self.size:
            raise InputError(
                f"{self.where}: an 'object' observation of {self.env_name} has {self.size} numbers, not "
                f"{rows.shape[-1]}; is env_args that of another task?"
            )
        out = np.empty_like(rows)
        for name, columns in self._current.items():
            out[..., columns] = rows[..., self._stored[name]]
        for name in self._relative:
            position, quaternion = (out[..., self._current[f"{name}_{what}"]] for what in ("pos", "quat"))
            offset, turn = relative_pose(position, quaternion, *gripper)
            out[..., self._current[f"{name}_to_eef_pos"]] = offset
            out[..., self._current[f"{name}_to_eef_quat"]] = turn
        return out


def relative_pose(
    position: np.ndarray, quaternion: np.ndarray, eef_pos: np.ndarray, eef_quat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pose in the gripper's frame: (..., 3) metres and (..., 4) x y z w with w >= 0."""
    from scipy.spatial.transform import Rotation  # half a second, which only robosuite's tasks need

    shape = position.shape[:-1]
    gripper = Rotation.from_quat(eef_quat.reshape(-1, 4)).inv()
    offset = gripper.apply((position - eef_pos).reshape(-1, 3))
    turn = gripper * Rotation.from_quat(quaternion.reshape(-1, 4))
    return offset.reshape(*shape, 3), turn.as_quat(canonical=True).reshape(*shape, 4)


def _slices(parts: list[Part]) -> dict[str, slice]:
    slices, at = {}, 0
    for part in parts:
        slices[part.name] = slice(at, at + part.size)
        at += part.size
    return slices
