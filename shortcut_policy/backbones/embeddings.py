"""Embeddings of the two scalars that a step map is conditioned on, the noise level t and the step size d."""

import math
from typing import cast

import torch
from torch import Tensor, nn

from shortcut_policy.errors import InputError
from shortcut_policy.float32_buffers import Float32Buffers


class ScalarEmbedding(Float32Buffers):
    """Sinusoidal features of a number in [0, 1], then two layers (Vaswani et al. 2017; Ho et al. 2020).

    Args:
        dim: Width of the embedding, even and at least 4.
        scale: The number is multiplied by this first: the top angular frequency. 1000 gives the features of
            a diffusion model with 1000 noise levels; the code of the shortcut paper uses 1, which hardly
            tells near values of t apart.
    """

    frequencies: Tensor

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        if dim < 4 or dim % 2:
            raise InputError(f"backbone.embedding_dim={dim} must be even and at least 4")
        half = dim // 2
        frequencies = scale * torch.exp(-math.log(10_000) * torch.arange(half) / (half - 1))
        # Derived from the configuration, so not part of a checkpoint.
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * half, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def forward(self, value: Tensor) -> Tensor:
        """(B,) in [0, 1] to (B, dim)."""
        angle = value[:, None].to(self.frequencies.dtype) * self.frequencies
        features = torch.cat([angle.sin(), angle.cos()], dim=-1)
        return self.mlp(features.to(cast(nn.Linear, self.mlp[0]).weight.dtype))

    @torch.no_grad()
    def make_constant(self, value: float) -> None:
        """Give every number the embedding that ``value`` has now; training can tell them apart again."""
        last = cast(nn.Linear, self.mlp[-1])
        # A product of few rows rounds otherwise than one of many: these are the bits of a batch.
        last.bias.copy_(self(self.frequencies.new_full((64,), value))[0])
        last.weight.zero_()
