"""A plain network over flat vectors, for single actions and points."""

from itertools import pairwise

import torch
from einops import rearrange
from torch import Tensor, nn

from shortcut_policy.backbones.embeddings import ScalarEmbedding
from shortcut_policy.errors import InputError


class Mlp(nn.Module):
    """Layers over x, the embeddings of noise level and step size, and the observation, end to end.

    Args:
        action_dim: A, width of x.
        horizon: T, length of x.
        cond_dim: C, width of the condition.
        width: Of the hidden layers.
        depth: Number of hidden layers, at least 1.
        embedding_dim: Width of the embeddings of t and d.
        time_scale: Top frequency of these embeddings, see `ScalarEmbedding`.
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        width: int = 128,
        depth: int = 3,
        embedding_dim: int = 32,
        time_scale: float = 10.0,
    ) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise InputError(f"backbone.width={width} and backbone.depth={depth} must be at least 1")
        self.embed_t = ScalarEmbedding(embedding_dim, time_scale)
        self.embed_d = ScalarEmbedding(embedding_dim, time_scale)
        size = horizon * action_dim
        widths = [size + embedding_dim + cond_dim, *[width] * depth]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, size))

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Average velocity over [t, t + d].

        Args:
            x: (B, T, A).
            t: (B,) in [0, 1], 0 is noise.
            d: (B,) in [0, 1].
            cond: (B, C).
        """
        flat = rearrange(x, "b t a -> b (t a)")
        step = (self.embed_t(t) + self.embed_d(d)).expand(x.shape[0], -1)
        out = self.layers(torch.cat([flat, step, cond], dim=-1))
        return rearrange(out, "b (t a) -> b t a", t=x.shape[1]).to(x.dtype)
