"""Makes environments of robosuite 1.5 from the ``env_args`` of any robomimic file."""

import importlib
import importlib.metadata
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal

from shortcut_envs.opengl import choose_opengl
from shortcut_policy.data import EnvArgs
from shortcut_policy.errors import InputError

Actions = Literal["delta", "absolute"]

#: robosuite calls functions whose signatures changed in this mujoco.
MUJOCO_LIMIT = (3, 10)
#: The controller of all published robomimic data: a step of 1 is 5 cm or 0.5 rad.
OSC_POSE = {
    "type": "OSC_POSE",
    "input_max": 1,
    "input_min": -1,
    "output_max": [0.05, 0.05, 0.05, 0.5, 0.5, 0.5],
    "output_min": [-0.05, -0.05, -0.05, -0.5, -0.5, -0.5],
    "kp": 150,
    "impedance_mode": "fixed",
    "kp_limits": [0, 300],
    "position_limits": None,
    "orientation_limits": None,
    "uncouple_pos_ori": True,
    "interpolation": None,
    "ramp_ratio": 0.2,
}
#: What controllers of robosuite 1.4 had and those of 1.5 take for something else or ignore.
OLD_KEYS = ("control_delta", "damping", "damping_limits")
#: The environment's own business, whatever a file says.
OURS = (
    "has_renderer",
    "has_offscreen_renderer",
    "use_camera_obs",
    "camera_names",
    "camera_heights",
    "camera_widths",
    "camera_depths",
    "ignore_done",
    "use_object_obs",
    "controller_configs",
    "render_gpu_device_id",
    "horizon",
    "hard_reset",
)


def make_env(args: EnvArgs, actions: Actions) -> Any:
    """An environment of robosuite, which draws nothing: see `shortcut_envs.robosuite.drawing`.

    Args:
        args: Of the file, of robosuite 1.4 or 1.5.
        actions: Whether its controllers take displacements or poses.

    Raises:
        InputError: robosuite is missing or does not fit its mujoco, or the task or an argument is unknown.
    """
    robosuite = import_robosuite()
    kwargs = {key: deepcopy(value) for key, value in args.kwargs.items() if key not in OURS}
    if args.name not in robosuite.ALL_ENVIRONMENTS:
        known = ", ".join(sorted(robosuite.ALL_ENVIRONMENTS))
        raise InputError(f"robosuite has no environment '{args.name}'; it has {known}")
    controllers = translate_controllers(args.kwargs.get("controller_configs"), actions)
    with quiet():
        try:
            return robosuite.make(
                args.name,
                **{
                    "robots": "Panda",
                    "control_freq": 20,
                    "reward_shaping": False,
                    "lite_physics": False,
                    **kwargs,
                },
                controller_configs=controllers,
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                ignore_done=True,
                use_object_obs=True,
            )
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise InputError(
                f"robosuite cannot make '{args.name}' with the arguments {sorted(kwargs)} ({error}); compare "
                "them with the env_args of a file that works"
            ) from error


def drop_repeated_forwards(simulation: Any) -> None:
    """Evaluate the dynamics once a simulator step, after each reset of an environment made by `make_env`.

    As robomimic sets it, robosuite evaluates them before the controllers, again in each arm's controller and
    once more with the commands, although nothing but the commands has changed. Its ``lite_physics`` leaves
    that out. States are the same to the last bit (tested), in half of the time for two arms. It is set here
    and not when the environment is made: a new controller needs an evaluation of its own.
    """
    simulation.lite_physics = True
    for robot in simulation.robots:
        for controller in robot.part_controllers.values():
            controller.lite_physics = True


def import_robosuite() -> Any:
    """The module; `InputError` where it is missing or its mujoco is too new."""
    try:
        mujoco = importlib.metadata.version("mujoco")
        importlib.metadata.version("robosuite")
    except importlib.metadata.PackageNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, which robomimic's tasks need: pip install "
            "'shortcut-policy[robomimic]'"
        ) from error
    if tuple(int(number) for number in mujoco.split(".")[:2]) >= MUJOCO_LIMIT:
        raise InputError(
            f"mujoco {mujoco} does not work with robosuite 1.5: pip install mujoco==3.9.0, the version it "
            "was tested with"
        )
    choose_opengl()
    backend = os.environ.get("MUJOCO_GL")
    with quiet():
        try:
            return importlib.import_module("robosuite")
        except (AttributeError, ImportError) as error:
            if backend is None:
                raise
            raise InputError(
                f"robosuite cannot be imported with MUJOCO_GL={backend} ({error}): unset it, or install "
                "that OpenGL"
            ) from error
        finally:
            # It sets EGL, there or not, with which no process that this one starts could import mujoco.
            if backend is None:
                os.environ.pop("MUJOCO_GL", None)


def translate_controllers(configs: Any, actions: Actions) -> Any:
    """Controllers of robosuite 1.4 or 1.5 for robosuite 1.5.

    Displacements are in the frame of the file: the world's in 1.4 and where a file of 1.5 says so, otherwise
    that of the robot's base, which is turned by a quarter for either robot of Transport. Poses are in the
    world's.

    Args:
        configs: ``controller_configs`` of a file: one for all robots or a list; None for robomimic's own.
        actions: What the controllers take, whatever the file's did.

    Raises:
        InputError: A kind of controller that displacements and poses mean nothing to.
    """
    if isinstance(configs, list):
        return [translate_controllers(one, actions) for one in configs]
    configs = deepcopy(configs or OSC_POSE)
    if "body_parts" not in configs:
        configs = {"type": "BASIC", "body_parts": {"right": {**configs, "input_ref_frame": "world"}}}
    arms = {name: part for name, part in configs["body_parts"].items() if isinstance(part, dict)}
    for part in arms.values():
        if part.get("type") != "OSC_POSE":
            raise InputError(
                f"the file's controller is {part.get('type')}; only OSC_POSE is handled, which all published "
                "robomimic data were recorded with"
            )
        for key in OLD_KEYS:
            part.pop(key, None)
        frame = part.get("input_ref_frame", "base") if actions == "delta" else "world"
        part.update(input_type=actions, input_ref_frame=frame)
        part.setdefault("gripper", {"type": "GRIP"})
    return configs


def default_args(env_name: str) -> EnvArgs:
    """What robomimic's published data of a task were recorded with."""
    kwargs: dict[str, Any] = {"robots": "Panda"}
    if env_name == "TwoArmTransport":
        kwargs = {"robots": ["Panda", "Panda"], "env_configuration": "single-arm-opposed"}
    return EnvArgs(env_name, "1.5.1", {**kwargs, "controller_configs": translate_controllers(None, "delta")})


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that robosuite logs at import and at every environment."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
