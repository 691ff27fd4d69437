"""The physics of Push-T: a circular pusher, a T-shaped block, four walls and a goal pose.

The same world as the reference (Florence et al. 2021; Chi et al. 2023, "Diffusion Policy"): 512 x 512 pixels
with y down, 100 Hz physics, 10 Hz control. Nothing here knows gymnasium: planners search on a scratch copy.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pymunk
import shapely

WORKSPACE = 512.0
"""Side of the square workspace, in pixels; actions are target positions in [0, WORKSPACE]^2."""
AGENT_RADIUS = 15.0
GOAL_POSE = (256.0, 256.0, math.pi / 4)
"""Default goal of the block's body frame: x, y in pixels, angle in radians."""
SUCCESS_COVERAGE = 0.95

CONTROL_HZ = 10
PHYSICS_STEPS = 10
"""Physics steps in one control step."""
_DT = 0.01
_K_P, _K_V = 100.0, 20.0

# The T in its body frame: a 120 x 30 bar whose upper edge holds the origin, and a 30 x 90 stem below it.
BAR = ((-60.0, 30.0), (60.0, 30.0), (60.0, 0.0), (-60.0, 0.0))
STEM = ((-15.0, 30.0), (-15.0, 120.0), (15.0, 120.0), (15.0, 30.0))
OUTLINE = (
    (-60.0, 0.0),
    (60.0, 0.0),
    (60.0, 30.0),
    (15.0, 30.0),
    (15.0, 120.0),
    (-15.0, 120.0),
    (-15.0, 30.0),
    (-60.0, 30.0),
)
_OUTLINE = np.array(OUTLINE)
_AREA = 120.0 * 30.0 + 30.0 * 90.0
_REACH = 2 * math.hypot(15.0, 120.0)  # farther apart than this, two Ts cannot overlap

WALLS = (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506)))
WALL_RADIUS = 2

# Body-frame coordinates of the 9 points on the T that the human data set records as `keypoint`, in its order.
KEYPOINTS = np.array(
    [
        (9.269, 90.023),
        (-60.992, -1.187),
        (60.907, -1.393),
        (-0.270, 25.544),
        (-14.064, 122.811),
        (39.000, 32.861),
        (-39.955, 32.734),
        (-16.822, 62.872),
        (23.541, -1.700),
    ]
)


class PushTState(NamedTuple):
    """Everything `PushTSimulator.set_state` sets: pixels, radians (unwrapped) and seconds."""

    agent: tuple[float, float]
    block: tuple[float, float, float]
    agent_velocity: tuple[float, float] = (0.0, 0.0)
    block_velocity: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def at_rest(cls, values: Sequence[float] | np.ndarray) -> "PushTState":
        """From the five numbers of a recorded state: agent x, y, block x, y, angle."""
        agent_x, agent_y, block_x, block_y, angle = (float(value) for value in values)
        return cls((agent_x, agent_y), (block_x, block_y, angle))


def transform_points(points: np.ndarray, pose: Sequence[float] | np.ndarray) -> np.ndarray:
    """Body-frame `points` (P, 2) in the world, for a body at `pose` (x, y, angle); returns (P, 2)."""
    x, y, angle = pose
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]]) + (x, y)


def sample_start(random: np.random.RandomState) -> np.ndarray:
    """Diffusion Policy's random start, (5,): agent x, y in [50, 450), block x, y in [100, 400), any angle.

    `RandomState(i)` gives demonstration i of the human data set and `RandomState(100000 + i)` evaluation
    start i; both are meant in legacy order (see `PushTSimulator.set_state`).
    """
    return np.array(
        [
            random.randint(50, 450),
            random.randint(50, 450),
            random.randint(100, 400),
            random.randint(100, 400),
            random.randn() * 2 * np.pi - np.pi,
        ]
    )


class PushTSimulator:
    """Push-T's dynamics and coverage, settable to any state.

    `set_state` makes a new world that never depends on what was simulated before. While nothing moves the
    block (its velocity is zero), a `PushTState` is the whole state: what follows
    `set_state(other.get_state())` agrees with what follows in `other` to rounding (at most 3e-13 pixels over
    20 steps of the human demonstrations). In the middle of a push the engine also holds cached impulses and a
    penetration correction that can be neither read nor set, and the two drift apart (median 2e-4, at most 0.4
    pixels); so they do when the block is wedged between agent and wall, where the order of solving contacts
    depends on the past. `copy` continues bit for bit from any moment, at the price of replaying every step
    since the last `set_state`.
    """

    def __init__(self, goal_pose: Sequence[float] | np.ndarray = GOAL_POSE) -> None:
        self.goal_pose = (float(goal_pose[0]), float(goal_pose[1]), float(goal_pose[2]))
        self._goal = shapely.polygons(transform_points(_OUTLINE, self.goal_pose))
        self.set_state(PushTState((256.0, 400.0), (256.0, 300.0, 0.0)))

    def set_state(self, state: PushTState, *, legacy_order: bool = False, settle: bool = False) -> None:
        """Put the world in `state`.

        Args:
            state: target state; recorded and observed states mean the pose of the body frame.
            legacy_order: place the block before turning it, as the reference's reset does. It turns about the
                centre of gravity, which moves the body frame: right for the raw samples of `sample_start`,
                wrong by up to 90 pixels for states that were recorded.
            settle: run one physics step, as the reference's reset does, to start pushing apart what overlaps.
        """
        self._start = (state, legacy_order, settle)
        self._actions: list[tuple[float, float]] = []
        # A new space each time: the old one would carry over contact impulses from what happened before.
        self._space, self._agent, self._block = _build_space()
        self._agent.position = state.agent
        self._agent.velocity = state.agent_velocity
        x, y, angle = state.block
        if legacy_order:
            self._block.position = (x, y)
            self._block.angle = angle
        else:
            self._block.angle = angle
            self._block.position = (x, y)
        self._block.velocity = state.block_velocity[:2]
        self._block.angular_velocity = state.block_velocity[2]
        if settle:
            self._space.step(_DT)

    def get_state(self) -> PushTState:
        """The current state; positions are those of the body frames and the angle is not wrapped."""
        agent, block = self._agent, self._block
        return PushTState(
            (agent.position.x, agent.position.y),
            (block.position.x, block.position.y, block.angle),
            (agent.velocity.x, agent.velocity.y),
            (block.velocity.x, block.velocity.y, block.angular_velocity),
        )

    def copy(self) -> "PushTSimulator":
        """A second world that continues bit for bit like this one; replays it since its `set_state`."""
        twin = PushTSimulator(self.goal_pose)
        state, legacy_order, settle = self._start
        twin.set_state(state, legacy_order=legacy_order, settle=settle)
        for action in self._actions:
            twin.step(action)
        return twin

    def step(self, action: Sequence[float] | np.ndarray) -> None:
        """Drive the agent towards `action` (x, y) in pixels for one control step of 0.1 s."""
        target_x, target_y = float(action[0]), float(action[1])
        self._actions.append((target_x, target_y))
        agent, step = self._agent, self._space.step
        vx, vy = agent.velocity
        # Plain floats: the same double arithmetic as the reference's numpy and vectors, several times faster.
        for _ in range(PHYSICS_STEPS):
            x, y = agent.position
            vx += (_K_P * (target_x - x) - _K_V * vx) * _DT
            vy += (_K_P * (target_y - y) - _K_V * vy) * _DT
            agent.velocity = (vx, vy)
            step(_DT)

    def coverage(self) -> float:
        """Fraction of the goal T that the block covers, in [0, 1]."""
        (x, y), angle = self._block.position, self._block.angle
        if math.hypot(x - self.goal_pose[0], y - self.goal_pose[1]) >= _REACH:
            return 0.0
        block = shapely.polygons(transform_points(_OUTLINE, (x, y, angle)))
        return float(shapely.intersection(self._goal, block).area / _AREA)

    def observed_state(self) -> np.ndarray:
        """The five recorded numbers, (5,) float64: agent x, y, block x, y in pixels, angle in [0, 2 pi)."""
        return np.array([*self._agent.position, *self._block.position, self._block.angle % (2 * math.pi)])


def _build_space() -> tuple[pymunk.Space, pymunk.Body, pymunk.Body]:
    """The walls, the agent and the block; order of creation and masses as in the reference."""
    space = pymunk.Space()
    space.gravity = (0, 0)
    space.damping = 0.0  # the block stops as soon as nothing pushes it
    space.add(*(pymunk.Segment(space.static_body, a, b, WALL_RADIUS) for a, b in WALLS))

    # Where the bodies stand when they are added shapes the collision tree, hence the order in which contacts
    # are solved. These are the reference's positions: with others, one human demonstration in 206 replays
    # differently.
    agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
    agent.position = (256, 400)
    space.add(agent, pymunk.Circle(agent, AGENT_RADIUS))

    # Twice the bar's moment instead of bar plus stem: the reference's slip, and so the benchmark's dynamics.
    # Contacts are frictionless: the reference sets friction on the bodies, where it has no effect.
    block = pymunk.Body(1.0, 2 * pymunk.moment_for_poly(1.0, BAR))
    bar, stem = pymunk.Poly(block, BAR), pymunk.Poly(block, STEM)
    block.center_of_gravity = (bar.center_of_gravity + stem.center_of_gravity) / 2
    block.position = (256, 300)
    space.add(block, bar, stem)
    return space, agent, block
