"""Scripted experts for robomimic's tasks: state machines that see the whole simulation.

Each start can be solved in several ways, and the ways are drawn: which side the gripper grasps from, which
way round it travels, how fast. Together with noise on the actions this makes demonstrations that the mean of
is not one, so that regression is at a disadvantage, as on human data.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from shortcut_envs.checks import check_deviation
from shortcut_envs.robosuite.env import LONG_TASKS, RobosuiteEnv
from shortcut_envs.robosuite.scripted_gripper import CLOSED, OPEN, ScriptedGripper, above
from shortcut_policy.data.robomimic_writer import attributes_of

_GIVE, _TAKE = -0.02, 0.075  # metres from the middle of the hammer's handle to its head, of the two hands
_GRIP = 0.061  # metres from the middle of the nut to where fingers hold its handle, clear of its ring
_ON_TOP = 0.16  # metres over the table of the nut's middle, with 2 cm of air to the peg
_LOWERING = (0.13, 0.115, 0.1, 0.07, 0.04)  # so little at a time that moving sideways is not left out
_MOST_BACK = -1.9  # radians that the last joint can turn that way from where it rests
_HANDLE = 0.026  # metres between fingers that hold it across
_PATIENCE = 1000  # control steps, more than an episode has
_DROPPED = 0.7  # metres, height below which a hammer lies on the floor
_LEFT_OUT = ("joint_pos", "joint_pos_cos", "joint_pos_sin", "joint_vel", "eef_quat_site", "gripper_qvel")


class RobosuiteExpert:
    """Common to all tasks: record what a script does until the task is solved.

    Args:
        noise: See `ScriptedGripper`.
        compact: Leave out what training a policy on ``object`` and the gripper does not need: ``next_obs``,
            joints, and the model of the scene, which is larger than all the rest.
    """

    task: str
    version = 1  # of the demonstrations: change it with anything that changes them

    def __init__(self, noise: float = 0.1, compact: bool = False) -> None:
        check_deviation("expert.noise", noise)
        self.noise, self.compact = noise, compact
        self.attributes: Mapping[str, Any] = {
            **attributes_of(_env(self.task).args),
            "expert": type(self).__name__,
            "expert_version": self.version,
            "noise": noise,
            "compact": compact,
        }

    def script(self, *hands: ScriptedGripper) -> Iterator[np.ndarray]:
        """Actions one by one, (7,) a hand; each is played before the next one is asked for."""
        raise NotImplementedError

    def episode(self, random: np.random.Generator) -> dict[str, Any] | None:
        """One demonstration from a random start, by the names in a robomimic file, or None if it failed."""
        env = _env(self.task)
        _, info = env.reset(seed=int(random.integers(2**32)))
        steps: list[dict[str, Any]] = []
        observation, solved = self._observation(env), False
        hands = [
            ScriptedGripper(env, random, self.noise, robot) for robot in range(len(env.simulation.robots))
        ]
        for action in self.script(*hands):
            states = info["states"]
            _, reward, solved, truncated, info = env.step(action)
            following = self._observation(env)
            steps.append(
                {
                    "actions": action,
                    "states": states,
                    "rewards": float(reward),
                    "dones": int(solved),
                    **{f"obs/{key}": value for key, value in observation.items()},
                    **{f"next_obs/{key}": value for key, value in following.items()},
                }
            )
            observation = following
            if solved or truncated:
                break
        if not solved:
            return None
        episode: dict[str, Any] = {key: np.stack([step[key] for step in steps]) for key in steps[0]}
        if self.compact:
            return {key: values for key, values in episode.items() if not key.startswith("next_obs/")}
        return {"model_file": env.simulation.sim.model.get_xml(), **episode}

    def _observation(self, env: RobosuiteEnv) -> dict[str, np.ndarray]:
        stored = env.stored_observation()
        return {key: value for key, value in stored.items() if not (self.compact and key.endswith(_LEFT_OUT))}


class LiftExpert(RobosuiteExpert):
    """Lift: grasps the cube across either pair of faces, coming from either side."""

    task = "Lift"

    def script(self, *hands: ScriptedGripper) -> Iterator[np.ndarray]:
        """See `RobosuiteExpert.script`."""
        (hand,) = hands
        data = hand.env.simulation.sim.data
        body = hand.env.simulation.cube_body_id
        turn = _yaw_of(data.body_xmat[body])
        yaw = hand.choose(hand.nearest_yaws(turn + np.arange(4) * np.pi / 2)[:2])
        cube = np.array(data.body_xpos[body])
        side = hand.choose(np.array([-1.0, 1.0]))
        yield from hand.move(_via(hand, cube, side, 0.1), yaw, OPEN, 0.03)
        for _ in range(3):
            cube = np.array(data.body_xpos[body])
            yield from hand.grasp(above(cube, 0.05), cube, yaw, 0.015, 0.006)
            yield from hand.move(above(hand.position, 0.12), yaw, CLOSED)


class CanExpert(RobosuiteExpert):
    """Can: grasps the can at one of three angles, and carries it over the bins in front or behind."""

    task = "PickPlaceCan"
    version = 2

    def script(self, *hands: ScriptedGripper) -> Iterator[np.ndarray]:
        """See `RobosuiteExpert.script`."""
        (hand,) = hands
        simulation = hand.env.simulation
        body = simulation.obj_body_id["Can"]
        goal = np.array(simulation.target_bin_placements[simulation.object_id])
        yaw = hand.yaw_at_rest + hand.choose(np.array([-0.9, 0.0, 0.9]))
        side = hand.choose(np.array([-1.0, 1.0]))
        for _ in range(3):
            can = np.array(simulation.sim.data.body_xpos[body])
            yield from hand.grasp(above(can, 0.12), above(can, 0.01), yaw)
            if hand.opening > 0.01:
                break
        high = can[2] + 0.15
        yield from hand.move(np.array([*hand.position[:2], high]), yaw, CLOSED, 0.03)
        middle = (hand.position + goal) / 2
        yield from hand.move(np.array([middle[0] + side * 0.1, middle[1], high]), yaw, CLOSED, 0.04)
        # The arm is stretched there and keeps a few centimetres and a third of a radian of error. Waiting for
        # less until time is up would let the fingers open at a moment that no observation tells.
        for height in (high, can[2] + 0.04):
            yield from hand.move(np.array([*goal[:2], height]), yaw, CLOSED, 0.04, turn_tolerance=0.5)
        yield from hand.hold(OPEN, 6)
        yield from hand.move(np.array([*goal[:2], high]), yaw, OPEN, 0.02)


class SquareExpert(RobosuiteExpert):
    """Square: grasps the handle with either finger on either side, coming from either side."""

    task = "NutAssemblySquare"
    version = 2

    def script(self, *hands: ScriptedGripper) -> Iterator[np.ndarray]:
        """See `RobosuiteExpert.script`."""
        (hand,) = hands
        nut = Nut(hand.env.simulation)
        yaw = hand.choose(nut.yaws_of_grasp(hand))
        side = hand.choose(np.array([-1.0, 1.0]))
        # The nut falls on the table meanwhile. Turned in one go, the arm can end up bent to its limits.
        half = (hand.yaw_at_rest + yaw) / 2
        yield from hand.move(_via(hand, nut.position, side, 0.1), half, OPEN, 0.04)
        for _ in range(4):
            yield from self._pick(hand, nut, yaw)
            if nut.is_held(hand):
                yield from self._place(hand, nut, yaw)
            yield from hand.hold(OPEN, 10)
            yield from hand.move(above(hand.position, 0.1), hand.yaw, OPEN, 0.02, 20)
            yaw = nut.yaws_of_grasp(hand)[0]

    def _pick(self, hand: ScriptedGripper, nut: "Nut", yaw: float) -> Iterator[np.ndarray]:
        yield from hand.move(above(nut.handle, 0.06), yaw, OPEN, 0.005, settle=2)
        yield from hand.move(nut.handle, yaw, OPEN, 0.006, max_steps=40)
        yield from hand.close()
        yield from hand.move(above(hand.position, 0.13), yaw, CLOSED, 0.03)

    def _place(self, hand: ScriptedGripper, nut: "Nut", yaw: float) -> Iterator[np.ndarray]:
        yaw = nut.yaw_of_place(hand, yaw)
        yield from hand.move(nut.to_peg(hand, yaw, _ON_TOP + 0.01), yaw, CLOSED, 0.02, 50)
        # An arm that still moves would be a centimetre off when the nut comes down, and lay it on the peg.
        yield from hand.move(nut.to_peg(hand, yaw, _ON_TOP), yaw, CLOSED, 0.003, 60, settle=3)
        for height in _LOWERING:
            yield from hand.move(nut.to_peg(hand, yaw, height), yaw, CLOSED, 0.006, 20)


class TransportExpert(RobosuiteExpert):
    """Transport: one arm takes the lid off and hands the hammer over, the other clears the trash away first.

    Where the lid is laid, which faces of the trash are grasped, where and how high the hammer changes hands
    and how fast each arm moves are drawn.
    """

    task = "TwoArmTransport"
    version = 2

    def script(self, *hands: ScriptedGripper) -> Iterator[np.ndarray]:
        """See `RobosuiteExpert.script`."""
        giver, taker = hands
        random, transport = giver.random, giver.env.simulation.transport
        meeting = np.array(
            [random.uniform(-0.08, 0.08), random.uniform(-0.02, 0.02), random.uniform(1.0, 1.08)]
        )
        shared = Handover(meeting)
        arms = [self._give(giver, transport, shared), self._take(taker, transport, shared)]
        while transport.payload_pos[2] > _DROPPED:
            yield np.concatenate([next(arm) for arm in arms])

    def _give(self, hand: ScriptedGripper, transport: Any, shared: "Handover") -> Iterator[np.ndarray]:
        yaw, handle = hand.yaw_at_rest, transport.lid_handle_pos
        yield from hand.grasp(above(handle, 0.08), handle, yaw)
        yield from hand.move(above(handle, 0.1), yaw, CLOSED, 0.03)
        aside = np.array(
            [hand.random.uniform(-0.26, -0.16), handle[1] + hand.random.uniform(-0.05, 0.05), 0.0]
        )
        yield from hand.move(above(aside, handle[2] + 0.1), yaw, CLOSED, 0.03)
        yield from hand.move(above(aside, 0.84), yaw, CLOSED, 0.02, max_steps=30)
        yield from hand.hold(OPEN, 6)
        yield from hand.move(above(aside, 1.0), yaw, OPEN, 0.03)
        for _ in range(3):
            hammer = transport.payload_pos
            grip = along_handle(transport, _GIVE)
            # Further from the middle than asked for, the head would weigh the hammer down in the fingers.
            yield from hand.grasp(above(grip, 0.2), grip, yaw, settle=4)
            yield from hand.move(above(grip, 0.25), yaw, CLOSED, 0.03)
            if transport.payload_pos[2] > hammer[2] + 0.1:
                break
        target = shared.meeting + np.array([0, _GIVE, 0])
        yield from hand.move(above(target, 0.05), yaw, CLOSED, 0.03)
        yield from hand.move(target, yaw, CLOSED, 0.015)
        shared.offered = True
        steady = hand.move(target, yaw, CLOSED, max_steps=_PATIENCE, settle=_PATIENCE)
        while not shared.taken:
            yield next(steady)
        yield from hand.hold(OPEN, 6)
        shared.released = True
        yield from hand.move(above(hand.position, 0.12), yaw, OPEN, 0.03)
        yield from hand.move(hand.position + np.array([0, -0.2, 0]), yaw, OPEN, 0.03)
        while True:
            yield from hand.hold(OPEN, 1)

    def _take(self, hand: ScriptedGripper, transport: Any, shared: "Handover") -> Iterator[np.ndarray]:
        rest = hand.yaw_at_rest
        for _ in range(3):
            trash = transport.trash_pos
            turn = Rotation.from_quat(transport.trash_quat).as_euler("zyx")[0]
            yaw = hand.choose(hand.nearest_yaws(turn + np.arange(4) * np.pi / 2)[:2])
            yield from hand.grasp(above(trash, 0.2), trash, yaw)
            yield from hand.move(above(trash, 0.22), yaw, CLOSED, 0.03)
            if transport.trash_pos[2] > trash[2] + 0.1:
                break
        goal = transport.trash_bin_pos
        yield from hand.move(above(goal, 0.24), yaw, CLOSED, 0.03)
        yield from hand.move(above(goal, 0.1), yaw, CLOSED, 0.03, max_steps=25)
        yield from hand.hold(OPEN, 6)
        yield from hand.move(above(goal, 0.28), yaw, OPEN, 0.03)
        waiting = shared.meeting + np.array([0, 0.2, 0.12])
        yield from hand.move(waiting, rest, OPEN, 0.03)
        while not shared.offered:
            yield from hand.hold(OPEN, 1)
        while not shared.taken:
            yield from hand.move(above(along_handle(transport, _TAKE), 0.1), rest, OPEN, 0.015)
            yield from hand.move(lambda: along_handle(transport, _TAKE), rest, OPEN, 0.006, settle=3)
            yield from hand.close()
            shared.taken = hand.opening > _HANDLE
        while not shared.released:
            yield from hand.hold(CLOSED, 1)
        yield from hand.move(above(hand.position, 0.06), rest, CLOSED, 0.03)
        yield from hand.move(hand.position + np.array([0, 0.15, 0]), rest, CLOSED, 0.03)
        goal = transport.target_bin_pos + np.array([0, _TAKE, 0])
        yield from hand.move(above(goal, 0.28), rest, CLOSED, 0.02)
        yield from hand.move(above(goal, 0.06), rest, CLOSED, 0.02, max_steps=40)
        yield from hand.hold(OPEN, 6)
        while True:
            yield from hand.move(above(goal, 0.28), rest, OPEN, 0.03)
            yield from hand.hold(OPEN, 1)


@dataclass
class Handover:
    """What the two arms of Transport know of each other.

    Attributes:
        meeting: (3,) where the middle of the hammer's handle changes hands.
        offered: The giver holds still there.
        taken: The taker's fingers are closed.
        released: The giver's are open.
    """

    meeting: np.ndarray
    offered: bool = False
    taken: bool = False
    released: bool = False


class Nut:
    """The nut of Square as the simulation has it."""

    def __init__(self, simulation: Any) -> None:
        self._data, self._body = simulation.sim.data, simulation.obj_body_id["SquareNut"]
        self._peg = np.array(self._data.body_xpos[simulation.peg1_body_id])
        self._table = float(simulation.table_offset[2])

    @property
    def position(self) -> np.ndarray:
        """(3,) metres, of the middle of its hole."""
        return np.array(self._data.body_xpos[self._body])

    @property
    def yaw(self) -> float:
        """Angle of its handle about the world's z."""
        return _yaw_of(self._data.body_xmat[self._body])

    @property
    def handle(self) -> np.ndarray:
        """(3,) metres, where to hold it."""
        return self.position + _GRIP * np.array([np.cos(self.yaw), np.sin(self.yaw), 0])

    def is_held(self, hand: ScriptedGripper) -> bool:
        """By its handle, level, and off the table."""
        level = self._data.body_xmat[self._body].reshape(3, 3)[2, 2]
        return level > 0.97 and float(np.linalg.norm(self.handle - hand.position)) < 0.03

    def yaws_of_grasp(self, hand: ScriptedGripper) -> np.ndarray:
        """Of a hand across the handle, the nearest first; there is always one."""
        return self._reached(hand, self.yaw + np.array([0.5, -0.5]) * np.pi)

    def yaw_of_place(self, hand: ScriptedGripper, yaw: float) -> float:
        """Of a hand that was told to hold the nut at ``yaw``, where it fits over the peg: the next one.

        The hole is square and fits four ways round, but for a handle that points away the arm is too short.
        """
        ways = self._reached(hand, yaw - self.yaw + np.array([0.5, 1.0, -0.5]) * np.pi)
        # Next to what the hand was told, not to its angle: the same a turn on is another place for the wrist.
        return float(ways[np.argmin(np.abs(ways - yaw))])

    def to_peg(self, hand: ScriptedGripper, yaw: float, height: float) -> Callable[[], np.ndarray]:
        """Where a hand at ``yaw`` has to be for the nut to be over the peg, ``height`` over the table.

        Led by the nut, so that it does not matter how it lies in the fingers.
        """

        def target() -> np.ndarray:
            turned = Rotation.from_euler("z", yaw - hand.yaw).apply(hand.position - self.position)
            return np.array([*(self._peg + turned)[:2], self._table + height])

        return target

    def _reached(self, hand: ScriptedGripper, yaws: np.ndarray) -> np.ndarray:
        near = hand.nearest_yaws(yaws, 2.4)
        return near[near > hand.yaw_at_rest + _MOST_BACK]


def along_handle(transport: Any, distance: float) -> np.ndarray:
    """(3,) the point of the hammer's handle so far from its middle, towards the head."""
    axis = Rotation.from_quat(transport.payload_quat).as_matrix()[:, 2]
    return transport.payload_pos + distance * np.sign(axis[1]) * axis  # the head is on the taker's side


def _via(hand: ScriptedGripper, goal: np.ndarray, side: float, height: float) -> np.ndarray:
    """A point half way to ``goal``, off the straight line to one side, ``height`` above it."""
    way = (goal - hand.position)[:2]
    across = np.array([-way[1], way[0]]) / max(float(np.linalg.norm(way)), 1e-6)
    middle = hand.position[:2] + way / 2 + side * hand.random.uniform(0.05, 0.09) * across
    return np.array([*middle, goal[2] + height])


def _yaw_of(matrix: np.ndarray) -> float:
    x = np.asarray(matrix).reshape(3, 3)[:, 0]
    return float(np.arctan2(x[1], x[0]))


@cache
def _env(task: str) -> RobosuiteEnv:
    """One for all episodes of a process: making it takes longer than resetting it."""
    return RobosuiteEnv(task, max_steps=900 if task in LONG_TASKS else 500)
