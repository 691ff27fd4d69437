"""Ways of the agent round the T from one push to the next, without touching it."""

from typing import NamedTuple

import numpy as np
import shapely
from scipy.sparse.csgraph import dijkstra

from shortcut_envs.pusht.physics import AGENT_RADIUS, OUTLINE
from shortcut_envs.pusht.pushes import CLEARANCE, Contacts, wrap

_RADIUS = AGENT_RADIUS + CLEARANCE  # of the agent's centre from the T
_HUB = np.array([0.0, 30.0])  # the T is star-shaped about it, so ways turn about it in one sense
_BACKWARDS = 0.05  # radians that a way may turn against its sense, for entering the corners under the bar
_ABOUT_EQUAL = 0.85  # ratio of lengths from which on either way round is as good


class Ways(NamedTuple):
    """Shortest ways from one place to in front of every contact, turning round the T in either sense.

    `lengths` (2, C) in pixels, infinite where there is no way; `points[sense][contact]` (K, 2) from the start
    on, without it.
    """

    lengths: np.ndarray
    points: tuple[list[np.ndarray], list[np.ndarray]]

    def either(self, contact: int, favourite: int) -> np.ndarray:
        """The shorter of the two ways (K, 2) to a contact, or the one of `favourite` if it hardly matters."""
        lengths = self.lengths[:, contact]
        about_equal = min(lengths) > _ABOUT_EQUAL * max(lengths)
        return self.points[favourite if about_equal else int(np.argmin(lengths))][contact]


class Roadmap:
    """A visibility graph round the T, in its body frame.

    Attributes:
        nodes: (N, 2) a few points round every convex corner, then the point in front of each contact.
        between_contacts: (C, C) length in pixels of the shortest way from in front of one to the other.
    """

    def __init__(self, contacts: Contacts) -> None:
        block = shapely.Polygon(OUTLINE)
        corners = np.array(block.buffer(_RADIUS, quad_segs=3).exterior.coords)[:-1]
        self.nodes = np.concatenate([corners, contacts.points - _RADIUS * contacts.normals])
        self._corners = len(corners)
        self._obstacle = block.buffer(_RADIUS - 2.0)
        shapely.prepare(self._obstacle)
        self._rim = block.buffer(_RADIUS - 1.0).exterior
        self._gaps = self._free_gaps(self.nodes[:, None], self.nodes[None])
        self.between_contacts = dijkstra(_graph(self._gaps))[self._corners :, self._corners :]

    def ways(self, start: np.ndarray, reachable: np.ndarray) -> Ways:
        """The ways from `start` (2,), which may touch the T, over the nodes that are `reachable` (N,)."""
        leave = self._leave(start)
        points = np.concatenate([self.nodes, leave[None]])
        gaps = np.full((len(points), len(points)), np.inf)
        gaps[: self._corners, :-1] = self._gaps[: self._corners]  # contacts are ends, not stations
        gaps[-1, :-1] = self._free_gaps(leave, self.nodes)
        gaps[:, :-1][:, ~reachable] = np.inf
        bearing = np.arctan2(*(points - _HUB).T[::-1])
        turn = wrap(bearing[None] - bearing[:, None])
        lengths, ways = zip(*(self._one_sense(points, gaps, sense * turn) for sense in (1, -1)), strict=True)
        return Ways(np.stack(lengths) + np.linalg.norm(leave - start), ways)

    def _one_sense(
        self, points: np.ndarray, gaps: np.ndarray, turn: np.ndarray
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        graph = _graph(np.where(turn < -_BACKWARDS, np.inf, gaps))
        lengths, previous = dijkstra(graph, indices=len(points) - 1, return_predecessors=True)
        ends = range(self._corners, len(points) - 1)
        return lengths[ends], [points[_chain(previous, end)] for end in ends]

    def _leave(self, start: np.ndarray) -> np.ndarray:
        """The nearest point to `start` that is clear of the T."""
        point = shapely.Point(start)
        if not self._obstacle.intersects(point):
            return start
        return np.array(self._rim.interpolate(self._rim.project(point)).coords[0])

    def _free_gaps(self, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Distances between points (..., 2), infinite where the T is in between."""
        start, end = np.broadcast_arrays(start, end)
        lines = shapely.linestrings(np.stack([start, end], axis=-2))
        return np.where(self._obstacle.intersects(lines), np.inf, np.linalg.norm(end - start, axis=-1))


def _graph(gaps: np.ndarray) -> np.ndarray:
    """Dense graph for `dijkstra`, in which zero means no edge."""
    return np.where(np.isfinite(gaps), np.maximum(gaps, 1e-6), 0.0)


def _chain(previous: np.ndarray, end: int) -> list[int]:
    """The nodes from the first to `end`; `previous` of the first is negative."""
    chain = [end]
    while previous[chain[-1]] >= 0:
        chain.append(int(previous[chain[-1]]))
    return chain[::-1]
