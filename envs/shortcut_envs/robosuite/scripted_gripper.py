"""The hand of a robosuite robot as a script moves it."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from shortcut_envs.robosuite.env import RobosuiteEnv

OPEN, CLOSED = -1.0, 1.0
_STEP, _TURN = 0.05, 0.5  # metres and radians that an action of 1 asks for
_GAIN = 1.5
_NEAR, _INTEGRAL = 0.03, 0.2  # metres; joint friction leaves a centimetre of error without an integral part
_CLOSING = 12  # control steps until the fingers hold


class ScriptedGripper:
    """The gripper of one robot as a script moves it: every motion is an iterator over actions.

    Args:
        env: With displacements as actions.
        random: All draws of the episode.
        noise: Standard deviation of what is added to the position part of an action, as a share of the speed
            that the hand moves at, which is drawn from 0.6 to 1 of the largest action.
        robot: Number of the robot.
    """

    def __init__(self, env: RobosuiteEnv, random: np.random.Generator, noise: float, robot: int = 0) -> None:
        self.env, self.random, self.noise, self.robot = env, random, noise, robot
        self.speed = random.uniform(0.6, 1.0)
        self._site = env.simulation.robots[robot].eef_site_id["right"]
        self.yaw_at_rest = self.yaw

    @property
    def position(self) -> np.ndarray:
        """(3,) metres, between the fingertips."""
        return np.array(self.env.simulation.sim.data.site_xpos[self._site])

    @property
    def rotation(self) -> Rotation:
        """Of the gripper's site; its z points out of the hand, its x along the fingers' motion."""
        return Rotation.from_matrix(self.env.simulation.sim.data.site_xmat[self._site].reshape(3, 3))

    @property
    def yaw(self) -> float:
        """Angle of the site's x axis about the world's z."""
        x = self.rotation.as_matrix()[:, 0]
        return float(np.arctan2(x[1], x[0]))

    @property
    def opening(self) -> float:
        """Metres between the fingers."""
        fingers = self.env.simulation.sim.data.qpos[
            self.env.simulation.robots[self.robot]._ref_gripper_joint_pos_indexes["right"]
        ]
        return float(np.abs(fingers).sum())

    def move(
        self,
        target: np.ndarray | Callable[[], np.ndarray],
        yaw: float,
        gripper: float,
        tolerance: float = 0.01,
        max_steps: int = 80,
        speed: float = 1.0,
        settle: int = 1,
        turn_tolerance: float = 0.1,
    ) -> Iterator[np.ndarray]:
        """Go to ``target`` (3,), pointing down, until it is reached or ``max_steps`` have passed.

        Args:
            target: Metres; or a function that says at every step where it is now.
            yaw: Radians.
            gripper: OPEN or CLOSED.
            tolerance: Metres, of each coordinate.
            max_steps: At most so many.
            speed: Share of the hand's own.
            settle: Control steps in a row within the tolerance; an arm that has just come there still moves.
            turn_tolerance: Radians.
        """
        missed, there = np.zeros(3), 0
        for _ in range(max_steps):
            offset = (target() if callable(target) else target) - self.position
            turn = (pointing_down(yaw) * self.rotation.inv()).as_rotvec()
            near = np.abs(offset).max() < tolerance and np.linalg.norm(turn) < turn_tolerance
            there = there + 1 if near else 0
            if there == settle:
                return
            if np.abs(offset).max() < _NEAR:
                missed += _INTEGRAL * offset
            yield self._action(offset + missed, turn, gripper, speed * self.speed)

    def hold(self, gripper: float, steps: int) -> Iterator[np.ndarray]:
        """Stay, while the fingers move."""
        place, yaw = self.position, self.yaw
        for _ in range(steps):
            turn = (pointing_down(yaw) * self.rotation.inv()).as_rotvec()
            yield self._action(place - self.position, turn, gripper, 1.0)

    def grasp(
        self,
        over: np.ndarray,
        target: np.ndarray,
        yaw: float,
        near: float = 0.02,
        tolerance: float = 0.008,
        settle: int = 1,
    ) -> Iterator[np.ndarray]:
        """Go to ``over`` (3,), to within ``near``, then down to ``target`` (3,), and close the fingers."""
        yield from self.move(over, yaw, OPEN, near)
        yield from self.move(target, yaw, OPEN, tolerance, settle=settle)
        yield from self.close()

    def close(self) -> Iterator[np.ndarray]:
        """Stay until the fingers hold."""
        yield from self.hold(CLOSED, _CLOSING)

    def nearest_yaws(self, yaws: np.ndarray, limit: float = 1.75) -> np.ndarray:
        """Those that the wrist reaches, written as near to where it rests as they can be; nearest first."""
        turned = (yaws - self.yaw_at_rest + np.pi) % (2 * np.pi) - np.pi
        order = np.argsort(np.abs(turned))
        return (self.yaw_at_rest + turned[order])[np.abs(turned[order]) < limit]

    def choose(self, options: np.ndarray) -> Any:
        """One of them, all alike."""
        return options[self.random.integers(len(options))]

    def _action(self, offset: np.ndarray, turn: np.ndarray, gripper: float, speed: float) -> np.ndarray:
        step = _GAIN * offset / _STEP
        # Shortened as a whole, so that the path stays straight.
        step = step * min(1.0, speed / max(np.abs(step).max(), 1e-9))
        step = step + self.noise * speed * self.random.standard_normal(3)
        return np.clip(np.concatenate([step, turn / _TURN, [gripper]]), -1, 1)


def pointing_down(yaw: float) -> Rotation:
    """Orientation of a gripper's site that points down, with its x axis at ``yaw``."""
    return Rotation.from_euler("z", yaw) * Rotation.from_euler("x", np.pi)


def above(point: np.ndarray, height: float) -> np.ndarray:
    """The point ``height`` metres higher."""
    return point + np.array([0, 0, height])
