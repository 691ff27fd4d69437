"""Where things are in a picture: the expected position of each channel of a feature map."""

import torch
from einops import einsum, rearrange
from torch import Tensor, nn


class SpatialSoftmax(nn.Module):
    """Key points of feature maps (Levine et al. 2016, "End-to-End Training of Deep Visuomotor Policies").

    A convolution of width 1 makes one map a point; the softmax over each map is a distribution over its
    places, and its mean is the point.

    Args:
        in_channels: C of the maps.
        n_points: K.
    """

    def __init__(self, in_channels: int, n_points: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(in_channels, n_points, 1)
        self.out_features = 2 * n_points

    def forward(self, features: Tensor) -> Tensor:
        """Maps (N, C, h, w) to points (N, K, 2), x and y in [-1, 1] from the left and from the top."""
        maps = self.maps(features)
        height, width = maps.shape[-2:]
        # In float32: the mean of hundreds of places does not survive sums of eight bits.
        places = rearrange(maps, "n k h w -> n k (h w)").float().softmax(dim=-1)
        grid = torch.stack(
            [
                axis_positions(width, maps.device).expand(height, width),
                axis_positions(height, maps.device)[:, None].expand(height, width),
            ]
        )
        return einsum(places, grid.flatten(1), "n k p, two p -> n k two").to(maps.dtype)


def axis_positions(length: int, device: torch.device) -> Tensor:
    """Positions along an axis, -1 to 1, (length,); 0 for a single one."""
    return torch.linspace(-1, 1, length, device=device) if length > 1 else torch.zeros(1, device=device)
