"""Temporal UNet over action chunks, after Diffusion Policy's (Janner et al. 2022; Chi et al. 2023).

Made to be trained on a CPU, too: convolutions over time are 2-D ones of height 1 on channels-last tensors, or
products of matrices where they are wide, SiLU takes the place of Mish, and the small network has kernels of 3
(``benchmarks/training_step.py``).
"""

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from shortcut_policy.backbones.embeddings import ScalarEmbedding
from shortcut_policy.errors import InputError


class ConditionalUnet1D(nn.Module):
    """UNet of FiLM residual blocks (Perez et al. 2018), given noise level, step size and observation.

    Args:
        action_dim: A, width of x.
        horizon: T, length of x; a multiple of ``2 ** (len(down_dims) - 1)``.
        cond_dim: C, width of the condition.
        down_dims: Channels at each resolution, each a multiple of ``n_groups``. (64, 128, 256) with kernels
            of 3 has 4.5M parameters, for a CPU; (256, 512, 1024) with kernels of 5 is the baseline's.
        kernel_size: Odd width of the convolutions in the blocks.
        n_groups: Groups of the group normalisation.
        embedding_dim: Width of the embeddings of t and d.
        time_scale: Top frequency of these embeddings, see `ScalarEmbedding`.
    """

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        down_dims: Sequence[int] = (64, 128, 256),
        kernel_size: int = 3,
        n_groups: int = 8,
        embedding_dim: int = 256,
        time_scale: float = 10.0,
    ) -> None:
        super().__init__()
        _check(horizon, down_dims, kernel_size, n_groups)
        self.embed_t = ScalarEmbedding(embedding_dim, time_scale)
        self.embed_d = ScalarEmbedding(embedding_dim, time_scale)
        shared = {"cond_dim": embedding_dim + cond_dim, "kernel_size": kernel_size, "n_groups": n_groups}

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        channels = action_dim
        for level, width in enumerate(down_dims):
            stage: list[nn.Module] = [
                ResidualBlock(channels, width, **shared),
                ResidualBlock(width, width, **shared),
            ]
            if level < len(down_dims) - 1:
                stage.append(_Convolution(width, width, 3, stride=2))
            self.down.append(nn.ModuleList(stage))
            channels = width
        self.middle = nn.ModuleList([ResidualBlock(channels, channels, **shared) for _ in range(2)])
        for width in reversed(down_dims[:-1]):
            blocks = [ResidualBlock(2 * channels, width, **shared), ResidualBlock(width, width, **shared)]
            upsample = nn.ConvTranspose2d(width, width, (1, 4), stride=(1, 2), padding=(0, 1))
            self.up.append(nn.ModuleList([*blocks, upsample]))
            channels = width
        self.head = nn.Sequential(
            _Convolution(channels, channels, kernel_size),
            _GroupNorm(n_groups, channels),
            nn.SiLU(),
            _Convolution(channels, action_dim, 1),
        )
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Average velocity over [t, t + d].

        Args:
            x: (B, T, A).
            t: (B,) in [0, 1], 0 is noise.
            d: (B,) in [0, 1].
            cond: (B, C).
        """
        film = F.silu(torch.cat([self.embed_t(t) + self.embed_d(d), cond], dim=-1))
        h = rearrange(x, "b t a -> b a 1 t").contiguous(memory_format=torch.channels_last)
        skips = []
        for stage in self.down:
            first, second, *downsample = cast(nn.ModuleList, stage)
            h = second(first(h, film), film)
            skips.append(h)
            for layer in downsample:
                h = layer(h)
        for block in self.middle:
            h = block(h, film)
        for stage in self.up:
            first, second, upsample = cast(nn.ModuleList, stage)
            h = torch.cat([h, skips.pop()], dim=1)
            h = upsample(second(first(h, film), film))
        return rearrange(self.head(h), "b a 1 t -> b t a").to(x.dtype)


class ResidualBlock(nn.Module):
    """Convolution, norm, SiLU, FiLM; convolution, norm, SiLU; residual: (B, in, 1, T) to (B, out, 1, T)."""

    def __init__(
        self, in_channels: int, out_channels: int, cond_dim: int, kernel_size: int, n_groups: int
    ) -> None:
        super().__init__()
        self.convolve_1 = _Convolution(in_channels, out_channels, kernel_size)
        self.norm_1 = _GroupNorm(n_groups, out_channels)
        self.film = nn.Linear(cond_dim, 2 * out_channels)
        self.convolve_2 = _Convolution(out_channels, out_channels, kernel_size)
        self.norm_2 = _GroupNorm(n_groups, out_channels)
        same = in_channels == out_channels
        self.residual = nn.Identity() if same else _Convolution(in_channels, out_channels, 1)

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """Modulate by ``film`` (B, cond_dim), which has passed its nonlinearity."""
        h = F.silu(self.norm_1(self.convolve_1(x)))
        scale, bias = rearrange(self.film(film), "b (two c) -> two b c 1 1", two=2)
        h = torch.addcmul(bias, h, 1 + scale)
        h = F.silu(self.norm_2(self.convolve_2(h)))
        return h + self.residual(x)


class _GroupNorm(nn.GroupNorm):
    """With a forward-mode derivative: PyTorch's takes a view of its input that channels-last ones refuse."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if forward_ad.unpack_dual(x).tangent is None else x.contiguous())


class _Convolution(nn.Linear):
    """Convolution over time, (B, in, 1, T) to (B, out, 1, T / stride); its weight is the matrix (out, k in).

    As a matrix it is what Muon orthogonalises (`make_optimizers`). Where a CPU trains it in bfloat16 and it
    is wide, it is computed as one, too: oneDNN's backward pass of a wide convolution over a short time takes
    several times as long as that of a product with all windows of the input
    (``benchmarks/training_step.py``).
    """

    #: Input channels from which the product is faster.
    WIDE = 128

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(kernel_size * in_channels, out_channels)
        self.in_channels, self.kernel_size, self.stride = in_channels, kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Padded with zeros to keep T."""
        size, stride, margin = self.kernel_size, self.stride, self.kernel_size // 2
        wide = self.in_channels >= self.WIDE and torch.is_grad_enabled()
        if not wide or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            weight = rearrange(self.weight, "o (k i) -> o i 1 k", k=size)
            return F.conv2d(x, weight, self.bias, (1, stride), (0, margin))
        h = F.pad(rearrange(x, "b c 1 t -> b t c"), (0, 0, margin, margin))
        last = h.shape[1] - size
        windows = torch.cat([h[:, i : i + last + 1 : stride] for i in range(size)], dim=-1)
        return rearrange(super().forward(windows), "b t o -> b o 1 t")


def _check(horizon: int, down_dims: Sequence[int], kernel_size: int, n_groups: int) -> None:
    if n_groups < 1 or not down_dims or any(width < 1 or width % n_groups for width in down_dims):
        raise InputError(
            f"backbone.down_dims={list(down_dims)} must be multiples of backbone.n_groups={n_groups}, and "
            "that at least 1"
        )
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"backbone.kernel_size={kernel_size} must be odd and at least 1")
    stride = 2 ** (len(down_dims) - 1)
    if horizon % stride:
        raise InputError(
            f"horizon={horizon} must be a multiple of {stride}, the stride of a UNet with "
            f"{len(down_dims)} resolutions; change horizon or backbone.down_dims"
        )
