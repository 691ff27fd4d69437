"""Push-T as a gymnasium environment: push the T-shaped block onto the goal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_envs.checks import finite_vector, known_options
from shortcut_envs.pusht.physics import (
    CONTROL_HZ,
    GOAL_POSE,
    KEYPOINTS,
    SUCCESS_COVERAGE,
    WORKSPACE,
    PushTSimulator,
    PushTState,
    sample_start,
    transform_points,
)
from shortcut_envs.pusht.render import smooth_image, state_image
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole

IMAGE_SIZE = 96
"""Side of the image observation in pixels, that of the human data set."""
_MAX_SEED = 2**32 - 1


class PushTEnv(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Push-T with the physics, starts, reward and metric of Diffusion Policy's environment (Chi et al. 2023).

    Action: (2,) float32, target position in [0, 512] pixels that a PD controller steers to for 0.1 s; to one
    outside as well, as in the reference.
    Reward: clip(coverage / 0.95, 0, 1), where coverage is the part of the goal T under the block.
    Episode: terminated when coverage > 0.95 (strictly), truncated after `max_steps`.

    Observation, float32 unless said otherwise:
        "state": {"state": (5,)} = agent x, y, block x, y in pixels, block angle in [0, 2 pi].
        "keypoints": {"keypoint": (9, 2), "agent_pos": (2,)} in pixels.
        "image": {"image": (96, 96, 3) uint8, "agent_pos": (2,)}.

    `info` at every reset and step: `coverage` (0..1), `score` (the reward), `is_success` (bool), `state` (5,)
    float64, `block_pose` (3,) with the angle not wrapped, `agent_velocity` (2,) in pixels per second and
    `goal_pose` (3,).

    Reset: `reset(seed=s)` starts from `RandomState(s)` as Diffusion Policy does, so that its evaluation start
    i is seed 100000 + i; without a seed the start is drawn from `np_random`. `options={"state": (5,)}` starts
    from an observed state instead, with everything at rest.

    Args:
        observation: "state", "keypoints" or "image".
        goal_pose: x, y in pixels and angle in radians of the goal.
        legacy_reset: place random starts before turning them, as the reference does for its published
            numbers; False turns first, so that the drawn position is where the block ends up.
            `options["state"]` is always turned first.
        render_mode: "rgb_array" or None.
        render_size: side in pixels of what `render` returns.
        max_steps: length at which an episode is truncated.

    Raises:
        InputError: for an argument or reset option outside of what is described here, a seed above 2**32 - 1,
            or an action that is not two finite numbers.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ, "paths": True}  # noqa: RUF012

    def __init__(
        self,
        observation: str = "keypoints",
        goal_pose: Sequence[float] | np.ndarray = GOAL_POSE,
        legacy_reset: bool = True,
        render_mode: str | None = None,
        render_size: int = 256,
        max_steps: int = 300,
    ) -> None:
        space = _observation_spaces().get(observation)
        if space is None:
            raise InputError(
                f"Push-T observation is {observation!r}; choose one of {', '.join(_observation_spaces())}."
            )
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise InputError(f"Push-T render_mode is {render_mode!r}; choose 'rgb_array' or None.")
        check_whole("render_size", render_size, 1)
        check_whole("max_steps", max_steps, 1)
        self.observation = observation
        #: Whether pictures are drawn; while not, that of observations stays as it was (`ActionChunkEpisode`).
        self.draws = True
        self._picture: np.ndarray | None = None
        self.observation_space = space
        self.action_space = spaces.Box(0.0, WORKSPACE, (2,), np.float32)
        self.simulator = PushTSimulator(finite_vector("Push-T goal_pose", goal_pose, "x, y, angle"))
        self.legacy_reset = legacy_reset
        self.render_mode = render_mode
        self.render_size = render_size
        self.max_steps = max_steps
        self._steps = 0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode; see the class for what `seed` and `options={"state": ...}` mean."""
        super().reset(seed=seed)
        state = known_options(options, "state").get("state")
        if state is not None:
            start = finite_vector("Push-T reset option 'state'", state, "agent x, y, block x, y, angle")
            self.simulator.set_state(PushTState.at_rest(start), settle=True)
        else:
            start = sample_start(np.random.RandomState(self._start_seed(seed)))
            self.simulator.set_state(PushTState.at_rest(start), legacy_order=self.legacy_reset, settle=True)
        self._steps = 0
        return self._observe(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Move towards `action` (2,) for 0.1 s; returns observation, reward, terminated, truncated, info."""
        self.simulator.step(finite_vector("Push-T action", action, "target x, y"))
        self._steps += 1
        info = self._info()
        return self._observe(), info["score"], info["is_success"], self._steps >= self.max_steps, info

    def render(self) -> np.ndarray | None:
        """The scene now, (render_size, render_size, 3) uint8; None without a render mode."""
        if self.render_mode is None:
            return None
        state = self.simulator.get_state()
        return smooth_image(state.agent, state.block, self.simulator.goal_pose, self.render_size)

    def _start_seed(self, seed: int | None) -> int:
        if seed is None:
            return int(self.np_random.integers(_MAX_SEED, endpoint=True))
        if seed > _MAX_SEED:
            raise InputError(f"Push-T reset seed is {seed}; it must be at most {_MAX_SEED}.")
        return int(seed)

    def _observe(self) -> dict[str, np.ndarray]:
        if self.observation == "state":
            return {"state": self.simulator.observed_state().astype(np.float32)}
        state = self.simulator.get_state()
        agent_pos = np.array(state.agent, dtype=np.float32)
        if self.observation == "keypoints":
            keypoint = transform_points(KEYPOINTS, state.block).astype(np.float32)
            return {"keypoint": keypoint, "agent_pos": agent_pos}
        if self.draws or self._picture is None:
            self._picture = state_image(self.simulator.observed_state(), self.simulator.goal_pose, IMAGE_SIZE)
        return {"image": self._picture.copy(), "agent_pos": agent_pos}

    def _info(self) -> dict[str, Any]:
        coverage = self.simulator.coverage()
        state = self.simulator.get_state()
        return {
            "coverage": coverage,
            "score": min(coverage / SUCCESS_COVERAGE, 1.0),
            "is_success": coverage > SUCCESS_COVERAGE,
            "state": self.simulator.observed_state(),
            "block_pose": np.array(state.block),
            "agent_velocity": np.array(state.agent_velocity),
            "goal_pose": np.array(self.simulator.goal_pose),
        }


def _observation_spaces() -> dict[str, spaces.Dict]:
    # Half a workspace of margin: the T may overlap a wall at the start and can be squeezed through one.
    low, high = -WORKSPACE / 2, WORKSPACE * 3 / 2
    agent_pos = spaces.Box(low, high, (2,), np.float32)
    state = spaces.Box(
        np.array([low] * 4 + [0.0], np.float32),
        np.array([high] * 4 + [2 * math.pi], np.float32),
        dtype=np.float32,
    )
    keypoint = spaces.Box(low, high, (len(KEYPOINTS), 2), np.float32)
    image = spaces.Box(0, 255, (IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    return {
        "state": spaces.Dict(state=state),
        "keypoints": spaces.Dict(keypoint=keypoint, agent_pos=agent_pos),
        "image": spaces.Dict(image=image, agent_pos=agent_pos),
    }
