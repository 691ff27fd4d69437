"""Diffusion transformer (Peebles and Xie 2023) as a step map: a core, a head for actions and one for images.

Transformer blocks whose normalisations are scaled, shifted and gated by what the network is told: adaLN-Zero.
The core knows nothing of what its tokens are: its weights can go from a network of images to one of actions.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from shortcut_policy.backbones.embeddings import ScalarEmbedding
from shortcut_policy.errors import InputError

NORM_EPS = 1e-6


@dataclass(frozen=True)
class DitSize:
    """Size of a core.

    Attributes:
        width: Channels of a token, a multiple of ``heads``.
        depth: Number of blocks.
        heads: Of the attention.
    """

    width: int
    depth: int
    heads: int


#: The sizes of Peebles and Xie 2023, table 1.
SIZES = {
    "S": DitSize(width=384, depth=12, heads=6),
    "B": DitSize(width=768, depth=12, heads=12),
    "L": DitSize(width=1024, depth=24, heads=16),
    "XL": DitSize(width=1152, depth=28, heads=16),
}


class DitCore(nn.Module):
    """Tokens in, tokens out, given noise level, step size and condition.

    The blocks begin as the identity, and the tokens that come out do not depend on what it is told, until
    training has moved the modulations away from zero.

    Args:
        size: One of ``SIZES``.
        qk_norm: Normalise queries and keys (Dehghani et al. 2023), which keeps attention from saturating in
            long trainings at high learning rates.
        recompute: Compute the blocks a second time in the backward pass instead of keeping what is inside
            them (gradient checkpointing): less memory, about a third more time.
        embedding_dim: Width of the embeddings of t and d.
        time_scale: Top frequency of these embeddings, see `ScalarEmbedding`.
    """

    def __init__(
        self,
        size: DitSize,
        qk_norm: bool = False,
        recompute: bool = False,
        embedding_dim: int = 256,
        time_scale: float = 10.0,
    ) -> None:
        super().__init__()
        self.size, self.recompute = size, recompute
        self.embed_t = ScalarEmbedding(embedding_dim, time_scale)
        self.embed_d = ScalarEmbedding(embedding_dim, time_scale)
        self.project = nn.Linear(embedding_dim, size.width)
        self.blocks = nn.ModuleList(DitBlock(size, qk_norm) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width, NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Linear(size.width, 2 * size.width)
        _zero(self.modulation)

    def forward(self, tokens: Tensor, t: Tensor, d: Tensor, condition: Tensor) -> Tensor:
        """Transform the tokens.

        Args:
            tokens: (B, N, width).
            t: (B,) in [0, 1], 0 is noise.
            d: (B,) in [0, 1].
            condition: (B, width), added to the embeddings of t and d.

        Returns:
            (B, N, width), normalised.
        """
        told = F.silu(self.project(self.embed_t(t) + self.embed_d(d)) + condition)
        recompute = self.recompute and torch.is_grad_enabled()
        for block in self.blocks:
            if recompute:
                # The blocks draw no random numbers.
                tokens = checkpoint(block, tokens, told, use_reentrant=False, preserve_rng_state=False)
            else:
                tokens = block(tokens, told)
        shift, scale = rearrange(self.modulation(told), "b (two c) -> two b 1 c", two=2)
        return _modulate(self.norm(tokens), shift, scale)


class DitBlock(nn.Module):
    """Attention and two layers, both behind a modulated normalisation and a gate: (B, N, C) to (B, N, C)."""

    def __init__(self, size: DitSize, qk_norm: bool) -> None:
        super().__init__()
        width = size.width
        self.norm = nn.LayerNorm(width, NORM_EPS, elementwise_affine=False)
        self.attention = Attention(width, size.heads, qk_norm)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.modulation = nn.Linear(width, 6 * width)
        _zero(self.modulation)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Modulate by ``told`` (B, C), which has passed its nonlinearity."""
        parts = rearrange(self.modulation(told), "b (six c) -> six b 1 c", six=6)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = parts
        x = torch.addcmul(x, gate_1, self.attention(_modulate(self.norm(x), shift_1, scale_1)))
        return torch.addcmul(x, gate_2, self.mlp(_modulate(self.norm(x), shift_2, scale_2)))


class Attention(nn.Module):
    """Multi-head self-attention: (B, N, C) to (B, N, C)."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm_q, self.norm_k = (
            _HeadNorm(width // heads, NORM_EPS) if qk_norm else nn.Identity() for _ in range(2)
        )
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Attend from every token to all tokens."""
        q, k, v = rearrange(self.qkv(x), "b n (three h c) -> three b h n c", three=3, h=self.heads)
        return self.out(rearrange(_attend(self.norm_q(q), self.norm_k(k), v), "b h n c -> b n (h c)"))


class _HeadNorm(nn.RMSNorm):
    """In the precision of its weight, which autocast leaves alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class ActionDit(nn.Module):
    """DiT over action chunks, each step of the chunk a token.

    Args:
        action_dim: A, width of x.
        horizon: T, length of x; any.
        cond_dim: C, width of the condition.
        size: A name of ``SIZES``, or a mapping with the attributes of `DitSize`.
        context_tokens: 0: the condition is added to what the normalisations are told. n: it becomes n tokens
            in front of the chunk, to which its steps attend.
        split_context: Whether the condition is those n tokens end to end, as an encoder with ``tokens`` makes
            it; else each of them is made of all of it.
        qk_norm: See `DitCore`.
        recompute: See `DitCore`.
        embedding_dim: See `DitCore`.
        time_scale: See `DitCore`.
    """

    positions: Tensor

    def __init__(
        self,
        action_dim: int,
        horizon: int,
        cond_dim: int,
        size: str | Mapping[str, int] = "S",
        context_tokens: int = 0,
        split_context: bool = False,
        qk_norm: bool = False,
        recompute: bool = False,
        embedding_dim: int = 256,
        time_scale: float = 10.0,
    ) -> None:
        super().__init__()
        if context_tokens < 0:
            raise InputError(f"backbone.context_tokens={context_tokens} must be 0 or more")
        if split_context and (context_tokens == 0 or cond_dim % context_tokens):
            raise InputError(
                f"backbone.split_context=true: the condition has {cond_dim} numbers, which are not "
                f"backbone.context_tokens={context_tokens} tokens; give encoder.tokens=true and as many as "
                "it makes: n_obs_steps times the cameras, and one more where there are other observations"
            )
        width = dit_size(size).width
        self.context_tokens, self.split_context = context_tokens, split_context
        self.embed = nn.Linear(action_dim, width)
        sizes = (
            (cond_dim // context_tokens, width)
            if split_context
            else (cond_dim, max(1, context_tokens) * width)
        )
        self.embed_cond = nn.Linear(*sizes)
        self.core = DitCore(dit_size(size), qk_norm, recompute, embedding_dim, time_scale)
        self.head = nn.Linear(width, action_dim)
        _initialise(self)
        positions = sine_cosine([context_tokens + horizon], width)
        self.register_buffer("positions", positions, persistent=False)

    @property
    def embed_d(self) -> ScalarEmbedding:
        """The embedding of the step size."""
        return self.core.embed_d

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Average velocity over [t, t + d].

        Args:
            x: (B, T, A).
            t: (B,) in [0, 1], 0 is noise.
            d: (B,) in [0, 1].
            cond: (B, C).
        """
        if self.split_context:
            cond = rearrange(cond, "b (n c) -> b n c", n=self.context_tokens)
        tokens, condition = self.embed(x), self.embed_cond(cond)
        if self.context_tokens:
            context = (
                condition
                if self.split_context
                else rearrange(condition, "b (n c) -> b n c", n=self.context_tokens)
            )
            tokens, condition = torch.cat([context, tokens], dim=1), torch.zeros_like(context[:, 0])
        tokens = self.core(tokens + self.positions, t, d, condition)
        return self.head(tokens[:, self.context_tokens :]).to(x.dtype)


class ImageDit(nn.Module):
    """DiT over images or their latents, each square patch a token.

    Args:
        image_shape: (C, H, W) of x, H and W multiples of ``patch_size``.
        cond_dim: Width of the condition.
        size: A name of ``SIZES``, or a mapping with the attributes of `DitSize`.
        patch_size: Side of a patch: DiT-B/2 has 2.
        qk_norm: See `DitCore`.
        recompute: See `DitCore`.
        embedding_dim: See `DitCore`.
        time_scale: See `DitCore`.
    """

    positions: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        cond_dim: int,
        size: str | Mapping[str, int] = "S",
        patch_size: int = 2,
        qk_norm: bool = False,
        recompute: bool = False,
        embedding_dim: int = 256,
        time_scale: float = 10.0,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        if patch_size < 1 or height % patch_size or width % patch_size:
            raise InputError(
                f"backbone.patch_size={patch_size} does not divide images of {height}x{width} into squares; "
                "give another patch size, or images of another size"
            )
        self.image_shape, self.patch_size = tuple(image_shape), patch_size
        numbers, hidden = channels * patch_size**2, dit_size(size).width
        self.embed = nn.Linear(numbers, hidden)
        self.embed_cond = nn.Linear(cond_dim, hidden)
        self.core = DitCore(dit_size(size), qk_norm, recompute, embedding_dim, time_scale)
        self.head = nn.Linear(hidden, numbers)
        _initialise(self)
        positions = sine_cosine([height // patch_size, width // patch_size], hidden)
        self.register_buffer("positions", positions, persistent=False)

    @property
    def embed_d(self) -> ScalarEmbedding:
        """The embedding of the step size."""
        return self.core.embed_d

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Average velocity over [t, t + d].

        Args:
            x: (B, C, H, W).
            t: (B,) in [0, 1], 0 is noise.
            d: (B,) in [0, 1].
            cond: (B, cond_dim).
        """
        tokens = self.embed(self.patchify(x)) + self.positions
        tokens = self.core(tokens, t, d, self.embed_cond(cond))
        return self.unpatchify(self.head(tokens)).to(x.dtype)

    def patchify(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to patches in reading order, (B, N, C * patch_size^2)."""
        return rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=self.patch_size, q=self.patch_size)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse of `patchify`."""
        lines, side = self.image_shape[1] // self.patch_size, self.patch_size
        return rearrange(patches, "b (h w) (c p q) -> b c (h p) (w q)", h=lines, p=side, q=side)


def dit_size(size: str | Mapping[str, int]) -> DitSize:
    """The size that a configuration gives by name or by numbers.

    Raises:
        InputError: There is no such name, the numbers are others than those of `DitSize`, or they do not fit.
    """
    if isinstance(size, str):
        if size not in SIZES:
            raise InputError(
                f"backbone.size={size} must be one of {', '.join(SIZES)}, or numbers, such as "
                "backbone.size={width: 192, depth: 6, heads: 3}"
            )
        return SIZES[size]
    try:
        found = DitSize(**size)
    except TypeError as error:
        raise InputError(
            f"backbone.size={dict(size)} must have the keys width, depth and heads ({error})"
        ) from error
    # The positions take a sine and a cosine for each of two axes.
    if min(found.width, found.depth, found.heads) < 1 or found.width % found.heads or found.width % 4:
        raise InputError(
            f"backbone.size={dict(size)}: all must be at least 1, and width a multiple of heads and of 4"
        )
    return found


def sine_cosine(lengths: Sequence[int], dim: int) -> Tensor:
    """Fixed position codes (Vaswani et al. 2017) of a line or a grid of tokens in reading order, (N, dim).

    Args:
        lengths: Tokens along each axis; N is their product.
        dim: Width of a code, a multiple of twice the number of axes, each of which has an equal part.
    """
    share = dim // len(lengths)
    frequencies = torch.exp(-math.log(10_000) * torch.arange(0, share, 2) / share)
    axes = torch.meshgrid(*[torch.arange(length) for length in lengths], indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in axes]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    forward_mode = forward_ad.unpack_dual(q).tangent is not None
    differentiated = torch.is_grad_enabled() or forward_mode
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and differentiated:
        # Whose backward pass on a CPU takes twenty times as long as that of float32.
        with torch.autocast("cpu", enabled=False):
            return _attend(q.float(), k.float(), v.float()).to(v.dtype)
    if not forward_mode:
        return F.scaled_dot_product_attention(q, k, v)
    # The fused kernels have no forward-mode derivative.
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


def _initialise(head: nn.Module) -> None:
    """Layers for inputs and outputs of equal variance; the last one at zero, so that the output is, too."""
    zero = [*(module for name, module in head.named_modules() if name.endswith("modulation")), head.head]
    for module in head.modules():
        if isinstance(module, nn.Linear) and module not in zero:
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    _zero(head.head)


def _zero(layer: Any) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
