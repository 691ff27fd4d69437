"""A scripted expert for Push-T that searches over pushes.

A manoeuvre is: go round the T to in front of a contact, push that face along its normal for some length,
stop. The expert takes the manoeuvre that is estimated to finish soonest, looking ahead over three pushes in
closed form, and adjusts its length on a scratch copy of the physics. Then it plans anew. The same criterion
holds everywhere, so a start takes one to three long pushes and a few small ones.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from shortcut_envs.checks import check_deviation, finite_vector
from shortcut_envs.pusht.physics import (
    AGENT_RADIUS,
    GOAL_POSE,
    KEYPOINTS,
    OUTLINE,
    SUCCESS_COVERAGE,
    PushTSimulator,
    PushTState,
    sample_start,
    transform_points,
)
from shortcut_envs.pusht.pushes import (
    CENTRE,
    best_advance,
    block_pose,
    centre_pose,
    make_contacts,
    pose_distance,
    push_outcomes,
    rotate,
    to_body,
    to_world,
)
from shortcut_envs.pusht.routes import Roadmap, Ways
from shortcut_envs.pusht.scripted_pusher import MAX_STEPS, ROOM, ScriptedPusher

_VERSION = 1  # of the demonstrations: change it with anything that changes them

# Durations: control steps and pixels a step. Those of the push at hand are measured; those of later pushes a
# little pessimistic, so that fewer of them win.
_TRAVEL_SPEED = 9.0
_PUSH_START, _PUSH_SPEED = 4.0, 7.2
_SWITCH, _LATER_PUSH_SPEED = 14.0, 6.0
_STUCK = 200.0  # when no push is left

_LENGTHS = np.array([1, 2, 3, 4.5, *range(6, 16, 2), *range(16, 40, 4), *range(40, 221, 8)], dtype=float)
_FAR = 30.0  # pose distance in pixels beyond which every push is a long one
_LONG = 20.0  # pixels, the shortest of the long pushes
_SAME_PUSH = 25.0  # pixels between contacts of a face, below which one push just goes on with the other
_OPTIONS = 5  # pushes that are looked into further
_FINISHED = 0.96  # coverage clearly past success, so that imitating it with a small error still succeeds

_BLOCK_ROOM = (8.0, 503.0)  # between the walls, for the T
_ELBOW_ROOM, _WALL_CHARGE = (
    105.0,
    0.5,
)  # nearer to a wall not every side of the T can be reached: steps a pixel


class Option(NamedTuple):
    """Estimated `cost` in control steps until the T is on the goal, `pose` (3,) after."""

    cost: float
    contact: int
    length: float
    pose: np.ndarray


class Manoeuvre(NamedTuple):
    """Estimated `cost` in control steps, `length` of the push in pixels and the `targets`, (2,) a step."""

    cost: float
    length: float
    targets: list[np.ndarray]


class PushTExpert:
    """Solves Push-T from random starts; what it does is a function of the state and of the generator.

    Args:
        goal_pose: x, y in pixels and angle in radians of the goal.
        contact_noise: standard deviation in pixels by which long pushes miss the planned contact.
        length_noise: standard deviation of the length of long pushes, as a fraction. With these errors the
            demonstrations also show how to correct what an imitator will get wrong.

    Attributes:
        attributes: what a store of its demonstrations says about them.

    Raises:
        InputError: a goal that is not three finite numbers, or a negative or infinite deviation.
    """

    def __init__(
        self,
        goal_pose: Sequence[float] = GOAL_POSE,
        contact_noise: float = 3.0,
        length_noise: float = 0.06,
    ) -> None:
        self.goal_pose = tuple(finite_vector("expert.goal_pose", goal_pose, "x, y, angle").tolist())
        check_deviation("expert.contact_noise", contact_noise)
        check_deviation("expert.length_noise", length_noise)
        self.attributes = {
            "expert": "pusht",
            "version": _VERSION,
            "env_id": "shortcut_policy/PushTKeypoints-v0",
            "goal_pose": list(self.goal_pose),
            "contact_noise": float(contact_noise),
            "length_noise": float(length_noise),
        }
        self._contact_noise, self._length_noise = contact_noise, length_noise
        self._goal = centre_pose(self.goal_pose)
        self._scratch = PushTSimulator(self.goal_pose)
        self._contacts = make_contacts()
        self._roadmap = Roadmap(self._contacts)
        points, faces = self._contacts.points, self._contacts.faces
        near = np.linalg.norm(points[:, None] - points[None], axis=-1) < _SAME_PUSH
        self._same = near & (faces[:, None] == faces[None])
        self._switch = np.where(self._same, np.inf, _SWITCH + self._roadmap.between_contacts / _TRAVEL_SPEED)

    def episode(self, random: np.random.Generator) -> dict[str, np.ndarray] | None:
        """A demonstration from a start as the environment's `reset(seed=...)` draws it, or None if it failed.

        Row t is what is seen before action t, as in the human data set: "state" (T, 5) agent x, y, block x,
        y, angle in [0, 2 pi); "keypoint" (T, 9, 2); "action" (T, 2), the target; all float32.
        """
        start = sample_start(np.random.RandomState(int(random.integers(2**32))))
        simulator = PushTSimulator(self.goal_pose)
        simulator.set_state(PushTState.at_rest(start), legacy_order=True, settle=True)
        states, actions, coverage = [], [], 0.0
        for target in self.targets(simulator, random):
            states.append(simulator.observed_state())
            actions.append(target)
            simulator.step(target)
            coverage = max(coverage, simulator.coverage())
            if len(actions) == MAX_STEPS:
                break
        if coverage <= SUCCESS_COVERAGE:
            return None
        keypoints = [transform_points(KEYPOINTS, state[2:]) for state in states]
        episode = {"state": states, "keypoint": keypoints, "action": actions}
        return {key: np.array(values, dtype=np.float32) for key, values in episode.items()}

    def targets(self, simulator: PushTSimulator, random: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the agent's next target (2,), in pixels, until the T is on the goal.

        The caller steps `simulator` with each one. Ends after the push that brings the coverage past 0.96, or
        when there is no push left that the agent can reach.
        """
        target, contact = np.array(simulator.get_state().agent), None
        while simulator.coverage() <= _FINISHED:
            state = simulator.get_state()
            # Drawn at every decision, whether used or not.
            favourite, miss = int(random.random() < 0.5), np.clip(random.standard_normal(2), -1.5, 1.5)
            ways = self._ways(np.array(state.agent), state.block, contact)
            option = self._decide(centre_pose(state.block), ways)
            if option is None:
                return
            way = to_world(ways.either(option.contact, favourite), state.block)
            manoeuvre = self._refine(state, target, option, way, miss)
            yield from manoeuvre.targets
            target, contact = manoeuvre.targets[-1], option.contact

    def _decide(self, pose: np.ndarray, ways: Ways) -> Option | None:
        """The push that seems to finish soonest when the next one is planned as carefully."""
        options = self._options(pose, ways)[:_OPTIONS]
        if not options:
            return None
        return options[int(np.argmin([self._look_ahead(option) for option in options]))]

    def _look_ahead(self, option: Option) -> float:
        """Cost of an option with its estimate of what follows replaced by that of the best next option."""
        if pose_charge(pose_distance(option.pose, self._goal)) == 0:
            return option.cost
        contact, block = option.contact, block_pose(option.pose)
        agent = self._contacts.points[contact] - AGENT_RADIUS * self._contacts.normals[contact]
        following = self._options(option.pose, self._ways(to_world(agent, block), block, contact))
        estimate = float(self._cost_to_go(option.pose[None], contact)[0])
        return option.cost - estimate + (following[0].cost if following else _STUCK)

    def _ways(self, agent: np.ndarray, block: tuple[float, float, float], previous: int | None) -> Ways:
        """Ways to the contacts that the walls leave free, without those that go on with the previous push."""
        nodes = to_world(self._roadmap.nodes, block)
        reachable = _room(nodes, *ROOM) > 0
        if previous is not None:
            reachable[-len(self._same) :] &= ~self._same[previous]
        return self._roadmap.ways(to_body(agent, block), reachable)

    def _options(self, pose: np.ndarray, ways: Ways) -> list[Option]:
        """The best push of every face, the cheapest first."""
        contacts = self._contacts
        shortest = self._shortest(pose)
        lengths = _LENGTHS[shortest <= _LENGTHS]
        poses = push_outcomes(pose, contacts, lengths)
        travel = ways.lengths.min(0)[:, None] / _TRAVEL_SPEED
        cost = travel + _PUSH_START + lengths / _PUSH_SPEED
        cost[~self._clear(pose, poses)] = np.inf
        rows, columns = np.nonzero(np.isfinite(cost))
        if len(rows) == 0:
            return []
        cost[rows, columns] += self._cost_to_go(poses[rows, columns], rows)
        options = []
        for face in np.unique(contacts.faces[rows]):
            members = np.flatnonzero(contacts.faces == face)
            row, column = np.unravel_index(int(np.argmin(cost[members])), (len(members), len(lengths)))
            best = members[row], column
            options.append(Option(float(cost[best]), int(best[0]), float(lengths[column]), poses[best]))
        return sorted(options, key=lambda option: option[:3])

    def _clear(self, pose: np.ndarray, poses: np.ndarray) -> np.ndarray:
        """Whether T and agent stay off the walls up to poses (C, L, 3); a T in a wall may leave it."""
        agents = self._contacts.points - AGENT_RADIUS * self._contacts.normals - CENTRE
        agents = poses[..., :2] + rotate(agents[:, None], poses[..., 2])
        enough = min(0.0, float(_block_room(pose)) - 3.0)
        clear = (_block_room(poses) >= enough) & (_room(agents, *ROOM) >= 0)
        return np.logical_and.accumulate(clear, axis=1)

    def _cost_to_go(self, poses: np.ndarray, contacts: np.ndarray | int) -> np.ndarray:
        """Estimated control steps (P,) that the poses (P, 3) still need after pushes at `contacts` (P,)."""
        advance, distance = best_advance(poses, self._goal, self._contacts)
        another = self._switch[contacts] + advance / _LATER_PUSH_SPEED + pose_charge(distance)
        finish = np.minimum(another.min(-1), pose_charge(pose_distance(poses, self._goal)))
        near_wall = np.maximum(_ELBOW_ROOM - np.minimum(poses[:, :2], 511.0 - poses[:, :2]), 0.0)
        return finish + _WALL_CHARGE * near_wall.sum(-1)

    def _refine(
        self, state: PushTState, target: np.ndarray, option: Option, way: np.ndarray, miss: np.ndarray
    ) -> Manoeuvre:
        """Carry the push out on the scratch copy with several lengths and take the best.

        A long push then misses it by `miss` (2,) standard deviations in where and how far it pushes.
        """
        pose = centre_pose(state.block)
        shortest = self._shortest(pose)
        miss = miss if shortest == _LONG else np.zeros(2)
        normal = self._contacts.normals[option.contact]
        shift = self._contact_noise * miss[0] * np.array([-normal[1], normal[0]])
        point = self._contacts.points[option.contact] + shift
        way = np.concatenate([way[:-1], way[-1:] + rotate(shift, state.block[2])])
        travel = ScriptedPusher(self._scratch, state, target)
        travel.follow(way)

        def push(length: float) -> Manoeuvre:
            length = max(shortest, length)
            hand = ScriptedPusher(
                self._scratch, travel.state, travel.targets[-1] if travel.targets else target
            )
            hand.push(point, normal, length)
            after = centre_pose(hand.state.block)
            left = 100.0 if pose_distance(after, pose) < 0.7 else 0.0  # pushing nothing is no plan
            if self._scratch.coverage() <= _FINISHED:
                left += max(float(self._cost_to_go(after[None], option.contact)[0]), _SWITCH)
            return Manoeuvre(len(hand.targets) + left, length, [*travel.targets, *hand.targets])

        width = float(np.clip(option.length / 2, 2.0, 10.0))
        tried: list[Manoeuvre] = []
        for step in (width, width / 4):
            middle = min(tried, key=lambda manoeuvre: manoeuvre[:2]).length if tried else option.length
            tried += [push(middle + offset * step) for offset in (-1, -0.5, 0, 0.5, 1)]
        best = min(tried, key=lambda manoeuvre: manoeuvre[:2])
        error = self._length_noise * float(miss[1])
        return push(best.length * (1 + error)) if error else best

    def _shortest(self, pose: np.ndarray) -> float:
        return _LONG if pose_distance(pose, self._goal) > _FAR else _LENGTHS[0]


def pose_charge(distance: np.ndarray) -> np.ndarray:
    """Control steps that a pose distance in pixels costs: a push, soon a second one, then its length."""
    over = np.maximum(distance - 1.2, 0.0)  # up to there the coverage is past 0.96
    pushes = 30 * np.minimum(over, 1.0) + 30 * (1 - np.exp(-over / 5)) + 30 * (1 - np.exp(-over / 40))
    return pushes + over / 4


def _block_room(poses: np.ndarray) -> np.ndarray:
    """Distance (...) of the T's nearest corner from the walls, for poses (..., 3); negative inside of one."""
    corners = poses[..., None, :2] + rotate(np.array(OUTLINE) - CENTRE, poses[..., 2, None])
    return _room(corners, *_BLOCK_ROOM).min(-1)


def _room(points: np.ndarray, low: float, high: float) -> np.ndarray:
    """Distance (...) of points (..., 2) from the sides of a square; negative outside of it."""
    return np.minimum(points - low, high - points).min(-1)
