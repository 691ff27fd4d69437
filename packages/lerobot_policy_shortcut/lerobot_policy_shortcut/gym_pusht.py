"""The keypoints of our Push-T from those of the package gym-pusht: other points of the same block.

gym-pusht observes the 8 corners of the block's two boxes, our policies the 9 points of the human data set. A
point (x, y) of the block is at ``(c x - s y + p, s x + c y + q)`` in the world: linear in the four numbers
c, s, p, q of its pose. So the pose follows from the corners by least squares, exactly, since the block is
rigid, and our points from the pose: one matrix for both.
"""

import numpy as np

#: The corners in the block's frame, in the order in which gym-pusht 0.1.8 observes them.
CORNERS = np.array(
    [(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)], np.float64
)
#: Numbers of an observation of gym-pusht, and of ours.
CORNER_NUMBERS, KEYPOINT_NUMBERS = 16, 18


def keypoints_from_corners() -> np.ndarray:
    """The matrix that turns gym-pusht's ``environment_state`` (16,) into our ``keypoint`` (18,) = (9, 2)."""
    from shortcut_envs.pusht.physics import KEYPOINTS

    return _linear(KEYPOINTS) @ np.linalg.pinv(_linear(CORNERS))


def _linear(points: np.ndarray) -> np.ndarray:
    """The matrix (2P, 4) from c, s, p, q to the points (P, 2) in the world, flat."""
    rows = np.zeros((len(points), 2, 4))
    rows[:, 0, 0], rows[:, 0, 1], rows[:, 0, 2] = points[:, 0], -points[:, 1], 1
    rows[:, 1, 0], rows[:, 1, 1], rows[:, 1, 3] = points[:, 1], points[:, 0], 1
    return rows.reshape(-1, 4)
