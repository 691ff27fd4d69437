"""The expert's hand: travels and pushes on a scratch copy of Push-T and notes the targets that it gave."""

import math

import numpy as np

from shortcut_envs.pusht.physics import AGENT_RADIUS, PushTSimulator, PushTState
from shortcut_envs.pusht.pushes import rotate, to_body, to_world

ROOM = (23.0, 488.0)
"""Where the walls let the agent's centre go, in pixels."""
MAX_STEPS = 300
"""Control steps of an episode."""
# The target runs ahead of the agent by these lengths, in pixels; the PD controller then moves it about 11 and
# 7.5 pixels a step, the range of human demonstrations.
_TRAVEL_LEAD, _PUSH_LEAD = 27.0, 18.0
_MAX_JUMP = 22.0  # of the target from one step to the next, in pixels
_GRID = 8.0  # targets are multiples of 1/8 pixel: exact in float32, so storing them changes nothing
_ARRIVED = 9.0  # pixels from the end of a way at which the push takes over
_SETTLED = 2.0  # pixels a step; slower than this the agent has stopped
_LONGEST_PUSH = 60  # control steps


class ScriptedPusher:
    """Sets `simulator` to `state` and moves its agent, with targets that follow smoothly on `target` (2,).

    Attributes:
        state: the simulator's state now.
        targets: what was told to the agent so far, (2,) each, in pixels.
    """

    def __init__(self, simulator: PushTSimulator, state: PushTState, target: np.ndarray) -> None:
        simulator.set_state(state)
        self.state = state
        self.targets: list[np.ndarray] = []
        self._simulator = simulator
        self._target = target

    def follow(self, way: np.ndarray) -> None:
        """Go along the points (K, 2) until just before the last one."""
        points = np.concatenate([[self.state.agent], way])
        ends = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
        done = 0.0
        for _ in range(MAX_STEPS):
            stretch = np.arange(done, min(done + 30.0, ends[-1]) + 1e-9)
            done = stretch[np.argmin(((_along(points, ends, stretch) - self.state.agent) ** 2).sum(-1))]
            if ends[-1] - done < _ARRIVED:
                return
            self._move(_along(points, ends, np.array([min(done + _TRAVEL_LEAD, ends[-1])]))[0])

    def push(self, point: np.ndarray, normal: np.ndarray, length: float) -> None:
        """Push at a body-frame point until its face has advanced by `length` pixels or something blocks it.

        The target stays in front of the contact in the body frame, so the agent turns with the T.
        """
        advance = 0.0
        for step in range(_LONGEST_PUSH):
            before = self.state
            depth = float((to_body(np.array(before.agent), before.block) - point) @ normal)
            gap = max(0.0, -AGENT_RADIUS - depth)
            left = length - advance + gap
            self._move(to_world(point + normal * (depth + min(_PUSH_LEAD, left)), before.block))
            motion = np.array(self.state.agent) - before.agent
            moved = float(motion @ rotate(normal, (before.block[2] + self.state.block[2]) / 2))
            advance += max(0.0, moved - gap)
            complete = left <= 0.5 or (length - advance < 1.0 and abs(moved) < _SETTLED)
            blocked = step > 6 and abs(moved) < 0.3
            if complete or blocked:
                return

    def _move(self, wish: np.ndarray) -> None:
        jump = np.clip(wish, *ROOM) - self._target
        jump *= min(1.0, _MAX_JUMP / max(math.hypot(*jump), 1e-9))
        self._target = np.round((self._target + jump) * _GRID) / _GRID
        self.targets.append(self._target)
        self._simulator.step(self._target)
        self.state = self._simulator.get_state()


def _along(points: np.ndarray, ends: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Points (L, 2) of a polyline at arc lengths `at` (L,); `ends` (K,) are those of its `points` (K, 2)."""
    return np.stack([np.interp(at, ends, points[:, axis]) for axis in (0, 1)], axis=-1)
