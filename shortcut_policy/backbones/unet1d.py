"""Temporal UNet over action chunks, after Diffusion Policy's (Janner et al. 2022; Chi et al. 2023).

Made to be trained on a CPU, too: convolutions over time are 2-D ones of height 1 on channels-last tensors, or
products of matrices where these are faster (`_computed_as_product`), SiLU takes the place of Mish, and the
small network has kernels of 3 (``benchmarks/training_step.py``).
"""

from collections.abc import Sequence
from typing import cast

import torch
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
            self.up.append(nn.ModuleList([*blocks, _Upsampling(width)]))
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
        modulations = iter(self._modulations(self.embed_t(t) + self.embed_d(d), cond))
        h, skips = x, []
        for stage in self.down:
            first, second, *downsample = cast(nn.ModuleList, stage)
            h = second(first(h, next(modulations)), next(modulations))
            skips.append(h)
            for layer in downsample:
                h = layer(h)
        for block in self.middle:
            h = block(h, next(modulations))
        for stage in self.up:
            first, second, upsample = cast(nn.ModuleList, stage)
            h = torch.cat([h, skips.pop()], dim=-1)
            h = upsample(second(first(h, next(modulations)), next(modulations)))
        return self.head(h).to(x.dtype)

    def _modulations(self, step: Tensor, cond: Tensor) -> Sequence[Tensor]:
        """What each block gets, in the order in which they come: (B, 2 out) each.

        Args:
            step: Embedding of t and d, (B, E); in an exported graph (1, E), a constant like all that is made
                of it alone, and then one product with the condition is left for all blocks.
            cond: (B, C).
        """
        stages = [*self.down, self.middle, *self.up]
        blocks = [block for stage in stages for block in list(cast(nn.ModuleList, stage))[:2]]
        layers = [cast(ResidualBlock, block).film for block in blocks]
        if not torch.compiler.is_exporting() or len(step) > 1:
            film = F.silu(torch.cat([step, cond], dim=-1))
            return [layer(film) for layer in layers]
        weight, bias = (
            torch.cat([layer.weight for layer in layers]),
            torch.cat([layer.bias for layer in layers]),
        )
        known = F.linear(F.silu(step), weight[:, : step.shape[1]], bias)
        of_all = known + F.linear(F.silu(cond), weight[:, step.shape[1] :])
        return of_all.split([layer.out_features for layer in layers], dim=1)


class ResidualBlock(nn.Module):
    """Convolution, norm, SiLU, FiLM; convolution, norm, SiLU; residual: (B, T, in) to (B, T, out)."""

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

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """With scale and bias from ``modulation`` (B, 2 out), which `film` makes of the condition."""
        h = F.silu(self.norm_1(self.convolve_1(x)))
        scale, bias = modulation.unsqueeze(1).chunk(2, dim=-1)
        h = torch.addcmul(bias, h, 1 + scale)
        h = F.silu(self.norm_2(self.convolve_2(h)))
        return h + self.residual(x)


class _GroupNorm(nn.GroupNorm):
    """Group normalisation of (B, T, C)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return self._in_place(x)
        channels = _to_channels(x)
        # PyTorch's forward-mode derivative takes a view of its input that channels-last ones refuse.
        dual = forward_ad.unpack_dual(x).tangent is not None
        return _to_steps(super().forward(channels.contiguous() if dual else channels))

    def _in_place(self, x: Tensor) -> Tensor:
        """The same in operations that runtimes do without another layout."""
        grouped = x.unflatten(2, (self.num_groups, -1))
        centred = grouped - grouped.mean((1, 3), keepdim=True)
        scaled = centred * torch.rsqrt(centred.square().mean((1, 3), keepdim=True) + self.eps)
        return scaled.flatten(2) * self.weight + self.bias


#: What PyTorch convolves with on this machine's CPU. With oneDNN switched off it is 12 times slower than a
#: product; with it, but without AVX-512, gradients take two to three times as long (torch 2.13).
HAS_ONEDNN = torch.backends.mkldnn.is_available()
HAS_AVX512 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _computed_as_product(x: Tensor, fast_in_fp32: bool, fast_in_bf16: bool) -> bool:
    """Whether to convolve x (B, T, C) by one product with all of its windows, which are put side by side.

    So it is in exported graphs, which runtimes do faster (``benchmarks/act.py``). On a CPU it depends
    (``benchmarks/training_step.py``): convolutions over so short a time are fast with oneDNN alone, and their
    gradients in fp32 with AVX-512 alone.

    Args:
        fast_in_fp32: The layer is faster as a product in training with fp32 and without AVX-512.
        fast_in_bf16: The same in bf16.
    """
    if torch.compiler.is_exporting():
        return True
    if x.device.type != "cpu":
        return False
    if not HAS_ONEDNN:
        return True
    if not torch.is_grad_enabled():
        return False
    return fast_in_bf16 if torch.is_autocast_enabled("cpu") else fast_in_fp32 and not HAS_AVX512


class _Convolution(nn.Linear):
    """Convolution over time, (B, T, in) to (B, T / stride, out); its weight is the matrix (out, k in).

    As a matrix it is what Muon orthogonalises (`make_optimizers`). It may be computed as one, too, see
    `_computed_as_product`.
    """

    #: Input channels from which the product is faster in bf16, and products of input and output channels from
    #: which it is in fp32.
    WIDE, LARGE = 128, 64 * 128

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__(kernel_size * in_channels, out_channels)
        self.in_channels, self.kernel_size, self.stride = in_channels, kernel_size, stride

    def forward(self, x: Tensor) -> Tensor:
        """Padded with zeros to keep T."""
        size, stride, margin = self.kernel_size, self.stride, self.kernel_size // 2
        in_fp32 = size == 1 or self.in_channels * self.out_features >= self.LARGE
        if not _computed_as_product(x, in_fp32, self.in_channels >= self.WIDE):
            # The matrix seen as (out, in, 1, k) has the layout of channels-last weights: nothing is copied.
            weight = self.weight.view(-1, size, self.in_channels).transpose(1, 2).unsqueeze(2)
            return _to_steps(F.conv2d(_to_channels(x), weight, self.bias, (1, stride), (0, margin)))
        return super().forward(x if size == 1 else _windows(x, size, margin, stride))


class _Upsampling(nn.ConvTranspose2d):
    """Twice the time, (B, T, C) to (B, 2 T, C), by a transposed convolution with a kernel of 4."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, (1, 4), stride=(1, 2), padding=(0, 1))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Or as one product, each of whose rows is an even step and the odd one behind it."""
        if not _computed_as_product(x, fast_in_fp32=True, fast_in_bf16=False):
            return _to_steps(super().forward(_to_channels(x), output_size))
        w_0, w_1, w_2, w_3 = self.weight[:, :, 0].unbind(2)
        nothing = torch.zeros_like(w_0)
        # Even steps see the step before and their own, odd ones their own and the one after.
        even, odd = torch.cat([w_3, w_1, nothing]), torch.cat([nothing, w_2, w_0])
        bias = None if self.bias is None else torch.cat([self.bias, self.bias])
        pairs = F.linear(_windows(x, 3, 1, 1), torch.cat([even, odd], 1).T, bias)
        return pairs.unflatten(2, (2, -1)).flatten(1, 2)


def _to_channels(x: Tensor) -> Tensor:
    """(B, T, C) to (B, C, 1, T), whose memory format is channels-last: nothing moves."""
    return x.transpose(1, 2).unsqueeze(2)


def _to_steps(x: Tensor) -> Tensor:
    """(B, C, 1, T) to (B, T, C)."""
    return x.squeeze(2).transpose(1, 2)


def _windows(x: Tensor, size: int, margin: int, stride: int) -> Tensor:
    """Windows of ``size`` steps of (B, T, C), padded with zeros, side by side: (B, T / stride, size C)."""
    padded = F.pad(x, (0, 0, margin, margin))
    if torch.compiler.is_exporting():  # one operation, which runtimes do faster than slices put together
        chosen = torch.arange(0, x.shape[1], stride)[:, None] + torch.arange(size)
        chosen = chosen.flatten().to(x.device)
        return padded.index_select(1, chosen).unflatten(1, (-1, size)).flatten(2)
    last = padded.shape[1] - size
    return torch.cat([padded[:, i : i + last + 1 : stride] for i in range(size)], dim=-1)


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
