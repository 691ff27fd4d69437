"""What a circular pusher can do to the T: the contacts on its faces and the motion that each one causes.

A push presses the agent's rim against one point of one face. Contacts are frictionless and the block stops
when nothing pushes it, so the impulse points along the face's inward normal and the block follows a constant
twist of its body frame: a circular arc, known in closed form.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shortcut_envs.pusht.physics import AGENT_RADIUS, OUTLINE

CENTRE = np.array([0.0, 45.0])
"""The block's centre of gravity in its body frame, in pixels."""
CLEARANCE = 8.0
"""Free space that the agent leaves between its rim and the T while it is not pushing, in pixels."""
ANGLE_SCALE = 45.0
"""Pixels that a radian of error counts for; both then cost about the same coverage."""
_INERTIA = 3000.0  # moment of inertia over mass, in square pixels
_SPACING = 9.0  # of neighbouring contacts, in pixels
_CORNER_MARGIN = 6.0  # keeps the agent off convex corners, where the normal is not the face's


class Contacts(NamedTuple):
    """C ways to push: `points` and inward unit `normals` (C, 2), `faces` (C,), all in the body frame.

    `velocity` (C, 2) of the centre and `spin` (C,) are the twist per pixel of advance of the pushed face.
    """

    points: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    velocity: np.ndarray
    spin: np.ndarray


def make_contacts() -> Contacts:
    """All contacts that the agent can reach with `CLEARANCE` to the other faces and press flat."""
    corners = np.array(OUTLINE)
    points, normals, faces = [], [], []
    for face, start in enumerate(corners):
        end = corners[(face + 1) % len(corners)]
        length = float(np.linalg.norm(end - start))
        along = (end - start) / length
        first, last = (_margin(corner) for corner in (start, end))
        count = round((length - first - last) / _SPACING) + 1
        for offset in np.linspace(first, length - last, count):
            points.append(start + offset * along)
            normals.append((-along[1], along[0]))  # inside is on this side all along the outline
            faces.append(face)
    return Contacts(
        np.array(points), np.array(normals), np.array(faces), *_twists(np.array(points), np.array(normals))
    )


def _margin(corner: np.ndarray) -> float:
    inner = abs(corner[0]) == 15.0 and corner[1] == 30.0
    return AGENT_RADIUS + CLEARANCE + 1.0 if inner else _CORNER_MARGIN


def _twists(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An impulse J along n moves the centre by J n and turns by J (r x n) / I; the contact advances by 1."""
    arm = points - CENTRE
    lever = arm[:, 0] * normals[:, 1] - arm[:, 1] * normals[:, 0]
    impulse = 1 / (1 + lever**2 / _INERTIA)
    return impulse[:, None] * normals, impulse * lever / _INERTIA


def push_outcomes(pose: np.ndarray, contacts: Contacts, lengths: np.ndarray) -> np.ndarray:
    """Poses (C, L, 3) of the centre after pushes of these lengths (L,), in pixels, from one pose (3,)."""
    turned = contacts.spin[:, None] * lengths
    chord = (
        rotate(contacts.velocity[:, None], pose[2] + turned / 2) * np.sinc(turned / (2 * math.pi))[..., None]
    )
    return np.concatenate([pose[:2] + chord * lengths[:, None], (pose[2] + turned)[..., None]], axis=-1)


def best_advance(poses: np.ndarray, goal: np.ndarray, contacts: Contacts) -> tuple[np.ndarray, np.ndarray]:
    """How far each push has to go from each pose to end nearest to the goal, and how far that is from it.

    Args:
        poses: (P, 3) centre x, y in pixels and angle in radians.
        goal: (3,) the same of the goal.
        contacts: the C pushes.

    Returns:
        advance of the pushed face and `pose_distance` left, both (P, C), in pixels.
    """
    gap = (goal[:2] - poses[:, :2])[:, None]
    turn = wrap(goal[2] - poses[:, 2])[:, None]
    weight = ANGLE_SCALE**2
    advance = np.zeros((len(poses), len(contacts.spin)))
    for _ in range(4):  # an arc is nearly straight: a few projections on its chord converge
        chord = _chord(poses, contacts, advance)
        along = (chord * gap).sum(-1) + weight * contacts.spin * turn
        advance = np.maximum(along / ((chord**2).sum(-1) + weight * contacts.spin**2), 0.0)
    miss = gap - _chord(poses, contacts, advance) * advance[..., None]
    return advance, np.sqrt((miss**2).sum(-1) + weight * (turn - contacts.spin * advance) ** 2)


def _chord(poses: np.ndarray, contacts: Contacts, advance: np.ndarray) -> np.ndarray:
    """Mean velocity (P, C, 2) of the centre, in the world, over an advance (P, C)."""
    half = contacts.spin * advance / 2
    return rotate(contacts.velocity, poses[:, 2, None] + half) * np.sinc(half / math.pi)[..., None]


def pose_distance(poses: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """Distance (...) of poses (..., 3) to the goal (3,), in pixels; angles count `ANGLE_SCALE` a radian."""
    turn = ANGLE_SCALE * wrap(goal[2] - poses[..., 2])
    return np.sqrt(((goal[:2] - poses[..., :2]) ** 2).sum(-1) + turn**2)


def centre_pose(block: Sequence[float]) -> np.ndarray:
    """(3,) centre of gravity and angle of a block whose body frame is at `block` (x, y, angle)."""
    return np.array([*to_world(CENTRE, block), block[2]])


def block_pose(pose: np.ndarray) -> tuple[float, float, float]:
    """The inverse of `centre_pose`."""
    x, y = pose[:2] - rotate(CENTRE, pose[2])
    return float(x), float(y), float(pose[2])


def to_world(points: np.ndarray, block: Sequence[float]) -> np.ndarray:
    """Body-frame points (..., 2) in the world."""
    return rotate(points, block[2]) + np.array(block[:2])


def to_body(points: np.ndarray, block: Sequence[float]) -> np.ndarray:
    """World points (..., 2) in the body frame."""
    return rotate(points - np.array(block[:2]), -block[2])


def rotate(vectors: np.ndarray, angle: np.ndarray | float) -> np.ndarray:
    """Turn vectors (..., 2) by angles (...)."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([cos * x - sin * y, sin * x + cos * y], axis=-1)


def wrap(angle: np.ndarray) -> np.ndarray:
    """The same angles in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi
