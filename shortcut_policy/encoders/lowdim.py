"""Encoder of low-dimensional observations."""

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor, nn


class LowDimEncoder(nn.Module):
    """Concatenate all observations of all observed steps, as Diffusion Policy's low-dimensional policies do.

    Args:
        obs_shapes: Shape of one step of each observation.
        n_obs_steps: Observed steps.

    Attributes:
        cond_dim: C, width of the condition.
    """

    def __init__(self, obs_shapes: Mapping[str, tuple[int, ...]], n_obs_steps: int) -> None:
        super().__init__()
        self.cond_dim = n_obs_steps * sum(prod(shape) for shape in obs_shapes.values())

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Normalised observations, name -> (B, n_obs_steps, *shape), to (B, C)."""
        return torch.cat([value.flatten(1) for value in obs.values()], dim=1)
