"""What a policy with cameras sees, to be shown beside what it does."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw

from shortcut_policy.encoders import ImageEncoder
from shortcut_policy.encoders.crops import crop_margins
from shortcut_policy.encoders.spatial_softmax import SpatialSoftmax
from shortcut_policy.policy import Policy

POINT_RADIUS = 4


class Sight:
    """Draws the cameras of one step: their pictures, the crop, and the points of the spatial softmax.

    A point keeps its colour through an episode. Encoders of other classes than `ImageEncoder`, and those
    without a spatial softmax, have no points.

    Args:
        policy: With a camera at least.
    """

    def __init__(self, policy: Policy) -> None:
        self.cameras = sorted(policy.cameras)
        self.normalizer = policy.normalizer
        self.encoder = policy.encoder if isinstance(policy.encoder, ImageEncoder) else None

    def __call__(self, obs: Mapping[str, Any], height: int) -> np.ndarray:
        """The cameras of one step side by side, (height, width, 3) uint8.

        Args:
            obs: name -> (*shape), as an environment gives them.
            height: In pixels.
        """
        points = self._points(obs)
        return np.concatenate(
            [self._camera(name, obs[name], points.get(name), height) for name in self.cameras], axis=1
        )

    @torch.no_grad()
    def _points(self, obs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Points of each camera, (K, 2) in pixels."""
        if self.encoder is None or not any(isinstance(m, SpatialSoftmax) for m in self.encoder.modules()):
            return {}
        device = next(self.encoder.parameters()).device
        one = {
            name: torch.as_tensor(np.asarray(obs[name]), device=device)[None, None] for name in self.cameras
        }
        seen = {name: self.normalizer.normalize(name, x) for name, x in one.items()}
        return {name: x[0, 0].float().cpu().numpy() for name, x in self.encoder.points(seen).items()}

    def _camera(self, name: str, value: Any, points: np.ndarray | None, height: int) -> np.ndarray:
        picture = np.asarray(value)
        if self.encoder is not None and self.encoder.channels_first[name]:
            picture = np.moveaxis(picture, 0, -1)
        scale = height / picture.shape[0]
        width = 2 * round(picture.shape[1] * scale / 2)  # what films need
        colours = np.broadcast_to(picture[..., :3], (*picture.shape[:2], 3)).astype(np.uint8)
        canvas = Image.fromarray(np.ascontiguousarray(colours)).resize(
            (width, height), Image.Resampling.NEAREST
        )
        draw = ImageDraw.Draw(canvas)
        if self.encoder is not None:
            rows, columns = self.encoder.sizes[name]
            top, left = crop_margins(picture.shape[:2], (rows, columns))
            corners = [left, top, left + columns, top + rows]
            draw.rectangle([round(corner * scale) for corner in corners], outline=(90, 90, 90))
        found = np.empty((0, 2)) if points is None else points
        colours_of_points = colormaps["hsv"](np.linspace(0, 1, len(found), endpoint=False))
        for (x, y), colour in zip(found, colours_of_points, strict=True):
            at = ((x + 0.5) * scale, (y + 0.5) * scale)
            box = [at[0] - POINT_RADIUS, at[1] - POINT_RADIUS, at[0] + POINT_RADIUS, at[1] + POINT_RADIUS]
            draw.ellipse(box, fill=tuple(int(255 * part) for part in colour[:3]), outline=(0, 0, 0))
        return np.array(canvas)
