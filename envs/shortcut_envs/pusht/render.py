"""Draws Push-T in the colours and geometry of the human data set's images, without a display or GL.

The data set's images were drawn by pygame on a 512 x 512 canvas, one canvas pixel to the world pixel and
without antialiasing, and shrunk to 96 x 96 by bilinear interpolation (two neighbouring samples, no area
averaging). `dataset_image` follows that recipe with Pillow; `smooth_image` draws the scene antialiased, for
people to look at.
"""

import math
from collections.abc import Sequence

import numpy as np
import shapely
from PIL import Image, ImageDraw

from shortcut_envs.pusht.physics import (
    AGENT_RADIUS,
    BAR,
    GOAL_POSE,
    STEM,
    WALL_RADIUS,
    WALLS,
    WORKSPACE,
    transform_points,
)

_WHITE = (255, 255, 255)
_GOAL = (144, 238, 144)
_WALL = (211, 211, 211)
_AGENT_RIM, _AGENT_FILL = (65, 105, 225), (78, 126, 255)
_BLOCK_EDGE, _BLOCK_FILL = (119, 136, 153), (143, 163, 184)
_CONTACT = (231, 76, 60)
_RIM_WIDTH = 4  # the agent's rim, in world pixels
_EDGE_RADIUS = 2  # half the width of the block's outline
_CONTACT_REACH = 2  # how far a contact mark extends on either side
_SUPERSAMPLING = 4

Color = tuple[int, int, int]
Point = tuple[int, int]


def dataset_image(
    agent: Sequence[float],
    block_pose: Sequence[float],
    goal_pose: Sequence[float] = GOAL_POSE,
    size: int = 96,
) -> np.ndarray:
    """The scene as the human data set shows it.

    Args:
        agent: x, y in world pixels.
        block_pose: x, y and angle of the block; a recorded state is `(*agent, *block_pose)`.
        goal_pose: x, y and angle of the goal.
        size: side of the image in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    scene = _Scene(1.0)
    scene.draw(agent, block_pose, goal_pose)
    scene.mark_contacts(agent, block_pose)
    zoom = scene.canvas.width / size
    # `transform` takes the two nearest samples; `resize` would average over the area and blur.
    matrix = (zoom, 0.0, 0.0, 0.0, zoom, 0.0)
    image = scene.canvas.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.array(image)


def state_image(state: np.ndarray, goal_pose: Sequence[float] = GOAL_POSE, size: int = 96) -> np.ndarray:
    """The scene of an observed or recorded state.

    Args:
        state: (5,) agent x, y, block x, y in world pixels, angle; rounded to float32, as stores hold it, so
            that the image of a state is the same to the bit at play and from a recording.
        goal_pose: See `dataset_image`.
        size: See there.

    Returns:
        (size, size, 3) uint8.
    """
    rounded = np.asarray(state, np.float32).astype(np.float64).tolist()
    return dataset_image(rounded[:2], rounded[2:], goal_pose, size)


def smooth_image(
    agent: Sequence[float],
    block_pose: Sequence[float],
    goal_pose: Sequence[float] = GOAL_POSE,
    size: int = 256,
) -> np.ndarray:
    """The scene antialiased at any size; arguments and result as in `dataset_image`."""
    scene = _Scene(size * _SUPERSAMPLING / WORKSPACE)
    scene.draw(agent, block_pose, goal_pose)
    return np.array(scene.canvas.reduce(_SUPERSAMPLING))


class _Scene:
    """A canvas of `scale` pixels to the world pixel, and pygame's ways to draw on it."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        side = round(WORKSPACE * scale)
        self.canvas = Image.new("RGB", (side, side), _WHITE)
        self._draw = ImageDraw.Draw(self.canvas)

    def draw(self, agent: Sequence[float], block_pose: Sequence[float], goal_pose: Sequence[float]) -> None:
        for part in (BAR, STEM):
            self._draw.polygon(self._pixels(transform_points(np.array(part), goal_pose)), fill=_GOAL)
        (center,) = self._pixels([agent])
        self._disc(center, AGENT_RADIUS, _AGENT_RIM)
        self._disc(center, AGENT_RADIUS - _RIM_WIDTH, _AGENT_FILL)
        for part in (BAR, STEM):
            corners = self._pixels(transform_points(np.array(part), block_pose))
            self._draw.polygon(corners, fill=_BLOCK_FILL)
            for a, b in zip(corners, corners[1:] + corners[:1], strict=True):
                self._thick_line(a, b, _EDGE_RADIUS, _BLOCK_EDGE)
        for ends in WALLS:
            a, b = self._pixels(ends)
            self._thick_line(a, b, WALL_RADIUS, _WALL)

    def mark_contacts(self, agent: Sequence[float], block_pose: Sequence[float]) -> None:
        """Draw the short red line that the recorded images show where the agent touches the block."""
        center = np.array(agent, dtype=float)
        for part in (BAR, STEM):
            polygon = shapely.Polygon(transform_points(np.array(part), block_pose))
            touched = np.array(shapely.shortest_line(polygon, shapely.Point(center)).coords[0])
            distance = float(np.hypot(*(center - touched)))
            if 0.0 < distance <= AGENT_RADIUS:
                normal = (center - touched) / distance
                inner = center - normal * (AGENT_RADIUS + _CONTACT_REACH)
                outer = touched + normal * _CONTACT_REACH
                self._draw.line(self._pixels([inner, outer]), fill=_CONTACT)

    def _pixels(self, points: np.ndarray | Sequence[Sequence[float]]) -> list[Point]:
        return [(round(x * self.scale), round(y * self.scale)) for x, y in points]

    def _disc(self, center: Point, radius: float, color: Color) -> None:
        (x, y), radius = center, max(round(radius * self.scale), 1)
        self._draw.ellipse((x - radius, y - radius, x + radius - 1, y + radius - 1), fill=color)

    def _thick_line(self, a: Point, b: Point, radius: float, color: Color) -> None:
        """A line with round ends as pymunk draws it in pygame: thin lines, a wider polygon, two discs.

        For half of the directions the polygon is not square to the line: so it is in the recorded images.
        """
        width = max(round(radius * self.scale), 1)
        (ax, ay), (bx, by) = a, b
        dx, dy = abs(bx - ax), abs(by - ay)
        for offset in range(1 - width, width + 1):
            ox, oy = (offset, 0) if dx <= dy else (0, offset)
            self._draw.line([(ax + ox, ay + oy), (bx + ox, by + oy)], fill=color)
        ox, oy = (round(side * width / max(math.hypot(dx, dy), 1.0)) for side in (dy, dx))
        corners = [(ax - ox, ay - oy), (ax + ox, ay + oy), (bx + ox, by + oy), (bx - ox, by - oy)]
        self._draw.polygon(corners, fill=color)
        for end in (a, b):
            self._disc(end, radius, color)
