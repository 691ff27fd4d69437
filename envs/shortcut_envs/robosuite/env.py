"""robomimic's tasks on robosuite 1.5 as gymnasium environments."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_envs.checks import checked_action
from shortcut_envs.robosuite.drawing import Drawing
from shortcut_envs.robosuite.rotation_6d import from_6d
from shortcut_envs.robosuite.setup import Actions, default_args, drop_repeated_forwards, make_env, quiet
from shortcut_policy.data import EnvArgs
from shortcut_policy.data.object_state import CURRENT, EEF, OBJECT, ObjectState
from shortcut_policy.data.robomimic_source import read_env_args
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole

LONG_TASKS = ("TwoArmTransport", "ToolHang")
DELTA_SIZE, ABSOLUTE_SIZE = 7, 10


class RobosuiteEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """A task of robosuite with robomimic's observations, as `RobomimicSource` reads them.

    Action: (7,) a robot in [-1, 1], position and rotation step and gripper, with ``actions="delta"``;
    (10,) a robot with ``absolute``: position in metres, rotation of the gripper's site as six numbers
    (`shortcut_envs.robosuite.rotation_6d`), gripper in [-1, 1], where 1 closes it.
    Observation: the keys asked for, float32; ``object`` as `ObjectState` makes it; ``<camera>_image``
    (size, size, 3) uint8, of the state and nothing else (see `shortcut_envs.robosuite.drawing`).
    Reward: the task's, 1 when it is solved and 0 else, unless ``env_args`` ask for a shaped one.
    Episode: terminated when the task is solved, truncated after ``max_steps``.
    ``info`` at every reset and step: ``is_success``; ``states``, the simulator's, as files hold them.

    Reset: ``reset(seed=s)`` is the start that ``numpy.random.seed(s)`` gives robosuite; without a seed it is
    drawn from ``np_random``. ``options={"states": (D,)}`` starts from a recorded state, of robosuite 1.4 or
    1.5; with ``options={"states": ..., "model": xml}`` the scene is the recorded one too (``model_file`` of a
    file of 1.5), down to the size of Lift's cube, which is drawn at every reset.

    Args:
        task: Name of robosuite's environment; that of the file if None.
        dataset: robomimic file whose ``env_args`` are used; robomimic's defaults if None.
        actions: ``delta`` or ``absolute``.
        keys: Observations; all that are not images if None.
        cameras: Cameras whose images are observed, such as ``agentview`` and ``robot0_eye_in_hand``.
        image_size: Their side in pixels.
        render_mode: ``rgb_array`` or None.
        render_size: Side in pixels of what `render` returns.
        render_camera: Whose picture that is; if None, ``agentview``, and ``frontview`` for Transport, which
            shows both arms.
        max_steps: Length at which an episode is truncated; robomimic's, 400 or 700, if None.

    Raises:
        InputError: An argument, file or action that cannot be used, or robosuite is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self,
        task: str | None = None,
        dataset: str | os.PathLike[str] | None = None,
        actions: Actions = "delta",
        keys: Sequence[str] | None = None,
        cameras: Sequence[str] = (),
        image_size: int = 84,
        render_mode: str | None = None,
        render_size: int = 256,
        render_camera: str | None = None,
        max_steps: int | None = None,
    ) -> None:
        if actions not in ("delta", "absolute"):
            raise InputError(f"actions={actions} must be delta or absolute")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"render_mode={render_mode!r} must be 'rgb_array' or None")
        for setting, value in (("keys", keys), ("cameras", cameras)):
            if isinstance(value, str):
                raise InputError(f"{setting}={value} must be a list, such as [{value}]")
        args = _env_args(task, dataset)
        if max_steps is None:
            max_steps = 700 if args.name in LONG_TASKS else 400
        sizes = {"image_size": image_size, "render_size": render_size, "max_steps": max_steps}
        for name, size in sizes.items():
            check_whole(name, size, 1)
        self.args, self.actions, self.render_mode, self.render_size = args, actions, render_mode, render_size
        self.max_steps = max_steps
        self._cameras = tuple(cameras)
        self.metadata = {**self.metadata, "slow": bool(cameras)}
        self._object_state = ObjectState(args.name, CURRENT, f"the environment {args.name}")
        self._images, self._film = Drawing(image_size), Drawing(render_size)
        #: Whether cameras are drawn; while not, their observations stay as they were (`ActionChunkEpisode`).
        self.draws = True
        self._pictures: dict[str, np.ndarray] = {}
        self.simulation = make_env(args, actions)
        self._robots = len(self.simulation.robots)
        self.render_camera = render_camera or ("frontview" if self._robots > 1 else "agentview")
        for setting, asked in (("cameras", self._cameras), ("render_camera", (self.render_camera,))):
            self._check_cameras(setting, asked)
        self.render()
        self._raw = self.simulation._get_observations(force_update=True)
        first = self._all_observations()
        self._keys = tuple(keys) if keys is not None else tuple(sorted(first))
        missing = sorted(set(self._keys) - set(first))
        if missing:
            raise InputError(
                f"the environment {args.name} has no observation {missing[0]!r}; it has "
                f"{', '.join(sorted(first))}"
            )
        self.observation_space = spaces.Dict({key: _space(first[key]) for key in self._keys})
        self._action_size = self._robots * (DELTA_SIZE if actions == "delta" else ABSOLUTE_SIZE)
        limit = 1.0 if actions == "delta" else np.inf
        self.action_space = spaces.Box(-limit, limit, (self._action_size,), np.float32)
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for what ``seed`` and ``options={"states": ...}`` mean."""
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - {"states", "model"})
        if unknown or (options and "states" not in options):
            what = f"option {unknown[0]!r} is unknown" if unknown else "option 'model' needs 'states'"
            raise InputError(f"reset {what}; the options are 'states' and, with it, 'model'")
        self._reset_simulation(int(self.np_random.integers(2**32)) if seed is None else seed)
        if "model" in options:
            with quiet():
                self.simulation.reset_from_xml_string(self.simulation.edit_model_xml(options["model"]))
            self.simulation.sim.reset()
        drop_repeated_forwards(self.simulation)
        if options:
            self._set_states(options["states"])
        self._steps = 0
        self._raw = self.simulation._get_observations(force_update=True)
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Play ``action`` for one control period, 0.05 s."""
        self._raw, reward, _, _ = self.simulation.step(
            self._command(checked_action(action, self._action_size, self.args.name))
        )
        self._steps += 1
        info = self._info()
        return self._observe(), float(reward), info["is_success"], self._steps >= self.max_steps, info

    def stored_observation(self) -> dict[str, np.ndarray]:
        """All observations of now but images, float64, as robomimic's files hold them."""
        robots = tuple(robot.robot_model.naming_prefix for robot in self.simulation.robots)
        stored = {
            key: np.array(value, np.float64)
            for key, value in self._raw.items()
            if key.startswith(robots) and not key.endswith("proprio-state")
        }
        return {**stored, OBJECT: np.array(self._raw["object-state"], np.float64)}

    def render(self) -> np.ndarray | None:
        """The scene now, (render_size, render_size, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        return self._film(*self._scene(), [self.render_camera])[0]

    def images_of(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """What the cameras see of the scene that the last reset made.

        Args:
            states: (T, D) of the simulator, as ``info["states"]`` and files hold them.

        Returns:
            ``<camera>_image``: (T, size, size, 3) uint8.
        """
        model, now = self._scene()
        # Time comes first, then positions of the joints.
        drawn = [self._images(model, one[1 : 1 + len(now)], self._cameras) for one in states]
        return {
            f"{camera}_image": np.stack(images)
            for camera, images in zip(self._cameras, zip(*drawn, strict=True), strict=True)
        }

    def close(self) -> None:
        """Free the simulator."""
        self._images.close()
        self._film.close()
        self.simulation.close()

    def _scene(self) -> tuple[Any, np.ndarray]:
        """mujoco's model and the positions of its joints."""
        return self.simulation.sim.model._model, self.simulation.sim.data.qpos

    def _check_cameras(self, setting: str, asked: Sequence[str]) -> None:
        known = self.simulation.sim.model.camera_names
        wrong = [camera for camera in asked if camera not in known]
        if wrong:
            raise InputError(
                f"{setting}: {wrong[0]} is none of {self.args.name}'s cameras: {', '.join(known)}"
            )

    def _reset_simulation(self, seed: int) -> None:
        # robosuite draws starts from numpy's global generator, which is left as it was.
        before = np.random.get_state()
        np.random.seed(seed % 2**32)
        try:
            self.simulation.reset()
        finally:
            np.random.set_state(before)

    def _set_states(self, states: Any) -> None:
        now = self.simulation.sim.get_state().flatten()
        states = np.asarray(states, np.float64)
        if states.shape != now.shape or not np.isfinite(states).all():
            raise InputError(
                f"reset option 'states' must be {len(now)} finite numbers for {self.args.name}, not an array "
                f"of shape {list(states.shape)}; is it a state of another task?"
            )
        self.simulation.sim.set_state_from_flattened(states)
        self.simulation.sim.forward()
        for robot in self.simulation.robots:
            # The elbow is drawn to where it was at the reset, which recordings began with.
            joints = self.simulation.sim.data.qpos[robot._ref_arm_joint_pos_indexes]
            robot.part_controllers["right"].update_initial_joints(np.array(joints))

    def _command(self, action: np.ndarray) -> np.ndarray:
        """What robosuite takes, (7,) a robot."""
        if self.actions == "delta":
            return action
        arms = action.reshape(self._robots, ABSOLUTE_SIZE)
        turns = from_6d(arms[:, 3:9]).as_rotvec()
        return np.concatenate([arms[:, :3], turns, np.clip(arms[:, 9:], -1, 1)], axis=1).ravel()

    def _observe(self) -> dict[str, np.ndarray]:
        observed = self._all_observations()
        return {key: observed[key] for key in self._keys}

    def _all_observations(self) -> dict[str, np.ndarray]:
        stored = self.stored_observation()
        stored[OBJECT] = self._object_state(stored[OBJECT], *(stored[name] for name in EEF))
        low_dim = {key: value.astype(np.float32) for key, value in stored.items()}
        if self._cameras and (self.draws or not self._pictures):
            images = self._images(*self._scene(), self._cameras)
            names = (f"{camera}_image" for camera in self._cameras)
            self._pictures = dict(zip(names, images, strict=True))
        return low_dim | {name: picture.copy() for name, picture in self._pictures.items()}

    def _info(self) -> dict[str, Any]:
        success = self.simulation._check_success()
        solved = success["task"] if isinstance(success, Mapping) else success
        return {"is_success": bool(solved), "states": self.simulation.sim.get_state().flatten()}


def _env_args(task: str | None, dataset: str | os.PathLike[str] | None) -> EnvArgs:
    if dataset is not None:
        args = read_env_args(dataset)
        if task is not None and task != args.name:
            raise InputError(f"{dataset} was recorded in {args.name}, not in {task}: use its own task")
        return args
    if task is None:
        raise InputError("an environment needs a task, such as Lift, or a dataset that says which")
    return default_args(task)


def _space(value: np.ndarray) -> spaces.Box:
    if value.dtype == np.uint8:
        return spaces.Box(0, 255, value.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, value.shape, np.float32)
