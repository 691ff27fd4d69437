"""Rotations as six numbers (Zhou et al. 2019): continuous, and so easier to predict than angles.

The six are the first two rows of the rotation matrix, as in Diffusion Policy's absolute actions.
"""

import numpy as np
from scipy.spatial.transform import Rotation


def to_6d(rotation: Rotation) -> np.ndarray:
    """(N,) rotations to (N, 6); one rotation to (6,)."""
    matrix = rotation.as_matrix()
    return matrix[..., :2, :].reshape(*matrix.shape[:-2], 6)


def from_6d(numbers: np.ndarray) -> Rotation:
    """(..., 6) to rotations, the nearest by Gram-Schmidt: a policy's numbers need not be of unit length.

    Two rows that are zero or parallel give some rotation, never NaN.
    """
    first, second = numbers[..., :3].astype(np.float64), numbers[..., 3:].astype(np.float64)
    first = _unit(first, np.array([1.0, 0.0, 0.0]))
    second = second - (first * second).sum(-1, keepdims=True) * first
    # Any direction that is not along the first row.
    other = np.eye(3)[np.abs(first).argmin(-1)]
    second = _unit(second, other - (first * other).sum(-1, keepdims=True) * first)
    return Rotation.from_matrix(np.stack([first, second, np.cross(first, second)], axis=-2))


def _unit(vector: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector, axis=-1, keepdims=True)
    otherwise = otherwise / np.linalg.norm(otherwise, axis=-1, keepdims=True)
    return np.where(length > 1e-8, vector / np.maximum(length, 1e-8), otherwise)
