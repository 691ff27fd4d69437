"""Absolute actions for robomimic's files, most of which hold displacements."""

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from shortcut_envs.robosuite.env import ABSOLUTE_SIZE, DELTA_SIZE, RobosuiteEnv
from shortcut_envs.robosuite.rotation_6d import to_6d
from shortcut_envs.robosuite.setup import make_env, quiet
from shortcut_policy.data import RobomimicSource
from shortcut_policy.data.action_kind import ACTIONS, SIZES
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.robomimic_source import RobomimicStore
from shortcut_policy.data.source import episode_rows, expand
from shortcut_policy.errors import InputError
from shortcut_policy.paths import atomic_path, cache_folder
from shortcut_policy.provenance import code_hash, library_versions, short_hash

STATES = "states"
#: Metres, median over steps: so near to their recorded path replayed demonstrations have to stay.
REPLAY_TOLERANCE = 0.02
#: Whose arithmetic is part of the actions, beside this package's.
LIBRARIES = ("mujoco", "numpy", "robosuite", "scipy")


class AbsoluteActions:
    """Demonstrations of robomimic's tasks whose ``actions`` are poses, (10,) an arm (an `EpisodeSource`).

    An arm's ten numbers are position in metres, rotation of the gripper's site as six numbers, and gripper as
    recorded. What a file holds decides how they come about (`shortcut_policy.data.action_kind`):

    * Displacements: each recorded state is set in robosuite and its controller asked where the displacement
      leads from there (Chi et al. 2023 convert robomimic's data in this way). That takes a minute for 200
      demonstrations, once: the result is kept in ``cache``, by a hash of states, actions and environment.
    * Poses of Diffusion Policy's ``*_abs.hdf5``, (7,) an arm with a rotation vector: the same numbers in
      another form, without a simulator.
    * Poses in this form already, in stores of ``scripts/render.py``: as they are.

    When displacements are converted, the first demonstrations are replayed and have to follow the recorded
    path.

    Args:
        path: See `RobomimicSource`; or a store that ``scripts/render.py`` made of such a file.
        filter_key: See there; of files only.
        objects: See there.
        cache: Folder; see `cache_folder` if None.
        replayed: Demonstrations that are replayed.

    Raises:
        InputError: The file has displacements and no ``states``, or replays leave its path.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        filter_key: str | None = None,
        objects: Any = "repaired",
        cache: str | os.PathLike[str] | None = None,
        replayed: int = 3,
    ) -> None:
        self._source = _open(path, filter_key, objects)
        self.path, self.keys = self._source.path, self._source.keys
        self.episode_ends = self._source.episode_ends
        self.env_args, self.lacking = self._source.env_args, self._source.lacking
        self.chunk_rows: dict[str, int] = getattr(self._source, "chunk_rows", {})
        stored = self._source.read(ACTIONS, 0, int(self.episode_ends[-1]))
        if self._source.action_kind == "displacement":
            self._actions = self._load(stored, cache_folder(cache), replayed)
        else:
            self._actions = poses_of(stored) if self._source.action_kind == "rotation_vector" else stored
        self.shapes = {**self._source.shapes, ACTIONS: self._actions.shape[1:]}
        self.dtypes = {**self._source.dtypes, ACTIONS: self._actions.dtype}

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """See `RobomimicSource.read`."""
        return self._actions[start:stop] if key == ACTIONS else self._source.read(key, start, stop)

    def stamp(self, key: str) -> list[Any] | None:
        """See `RobomimicSource.stamp`; none for the actions, which are not in the file."""
        return None if key == ACTIONS else self._source.stamp(key)

    def scene(self, episode: int) -> str | None:
        """See `RobomimicSource.scene`."""
        return self._source.scene(episode) if isinstance(self._source, RobomimicSource) else None

    def _load(self, actions: np.ndarray, folder: Path, replayed: int) -> np.ndarray:
        if STATES not in self.keys:
            raise InputError(
                f"{self.path} has no states, which absolute actions are computed from; use the file that the "
                "observations were extracted from, or actions as they are stored"
            )
        states = self._source.read(STATES, 0, len(actions))
        settings = short_hash(vars(self.env_args), code_hash(__package__), library_versions(*LIBRARIES))
        digest = hashlib.blake2b(settings.encode(), digest_size=16)
        digest.update(states.tobytes())
        digest.update(actions.tobytes())
        path = folder / f"absolute_actions_{digest.hexdigest()}.npy"
        if path.is_file():
            kept: np.ndarray = np.load(path)
            return kept
        absolute = self._compute(states, actions)
        self._check_replays(absolute, replayed)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, absolute)
        return absolute

    def _compute(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        simulation = make_env(self.env_args, "delta")
        with quiet():
            simulation.reset()
        arms = actions.reshape(len(actions), len(simulation.robots), DELTA_SIZE)
        absolute = np.empty((len(actions), len(simulation.robots), ABSOLUTE_SIZE))
        for row in tqdm(range(len(actions)), desc="absolute actions", unit=" steps", mininterval=1.0):
            simulation.sim.set_state_from_flattened(states[row])
            simulation.sim.forward()
            for arm, robot in enumerate(simulation.robots):
                position, rotation = goal_of(robot, arms[row, arm, :6])
                absolute[row, arm] = [*position, *to_6d(Rotation.from_matrix(rotation)), arms[row, arm, 6]]
        simulation.close()
        return absolute.reshape(len(actions), -1)

    def _check_replays(self, absolute: np.ndarray, replayed: int) -> None:
        env = RobosuiteEnv(dataset=self.path, actions="absolute")
        for number, name in enumerate(self._source.demos[:replayed]):
            start, stop = episode_rows(self, number)
            states = self._source.read(STATES, start, start + 1)
            met = replay(env, states[0], absolute[start : stop - 1])[1]
            recorded = np.stack([self._source.read(key, start + 1, stop) for key in hands(env)], axis=1)
            distance = float(np.median(np.linalg.norm(met - recorded, axis=-1), axis=0).max())
            if distance > REPLAY_TOLERANCE:
                raise InputError(
                    f"the absolute actions of {name} of {self.path} lead {distance * 100:.1f} cm away from "
                    "its path (median over steps): its states or env_args are not those it was recorded "
                    "with; use actions as they are stored"
                )
        env.close()


def poses_of(actions: np.ndarray) -> np.ndarray:
    """Poses with rotations as six numbers, (N, 10) an arm, from those with rotation vectors, (N, 7) an arm.

    A rotation vector is the axis times the angle in radians, of the gripper's site in the world, as
    robosuite's controllers take it.
    """
    arms = actions.astype(np.float64).reshape(-1, SIZES["rotation_vector"])
    turns = to_6d(Rotation.from_rotvec(arms[:, 3:6]))
    return np.concatenate([arms[:, :3], turns, arms[:, 6:]], axis=1).reshape(len(actions), -1)


def goal_of(robot: Any, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where ``displacement`` (6,) leads a robot of robosuite from here: position (3,) and rotation (3, 3)."""
    controller = robot.part_controllers["right"]
    robot.composite_controller.update_state()
    controller.update(force=True)
    controller.set_goal(displacement)
    if controller.input_ref_frame == "world":
        return controller.goal_pos, controller.goal_ori
    turn = controller.origin_ori
    return controller.origin_pos + turn @ controller.goal_pos, turn @ controller.goal_ori


def replay(
    env: RobosuiteEnv, states: np.ndarray, actions: Any, model: str | None = None
) -> tuple[bool, np.ndarray]:
    """Play ``actions`` from a recorded state, in the recorded scene if its ``model`` is given.

    Returns:
        Whether the task was solved at some step; the grippers' positions after each action, (T, R, 3).
    """
    env.reset(seed=0, options={"states": states} | ({} if model is None else {"model": model}))
    solved, path = False, []
    for action in actions:
        observation, _, success, _, _ = env.step(action)
        solved |= success
        path.append([observation[key] for key in hands(env)])
    return solved, np.array(path)


def hands(env: RobosuiteEnv) -> list[str]:
    """Keys of the positions of all grippers."""
    return [f"robot{number}_eef_pos" for number in range(len(env.simulation.robots))]


def _open(
    path: str | os.PathLike[str], filter_key: str | None, objects: Any
) -> RobomimicSource | RobomimicStore:
    if expand(path).suffix in HDF5_SUFFIXES or not expand(path).is_dir():
        return RobomimicSource(path, filter_key, objects, poses=True)
    if filter_key is not None:
        raise InputError(
            f"filter_key={filter_key} chooses demonstrations of a file, and {path} is a zarr store"
        )
    return RobomimicStore(path)
