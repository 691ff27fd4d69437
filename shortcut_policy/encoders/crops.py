"""What is done to pictures in training: another crop and other colours for each window of a batch."""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from einops import rearrange
from torch import Tensor

#: Of red, green and blue in the brightness that is seen, and in the two directions of colour (NTSC's YIQ).
YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


class RowDraws(Protocol):
    """Source of random numbers for the rows of a batch, such as `objectives.Draws`."""

    def uniform(self, rows: int) -> Tensor:
        """One number a row in [0, 1), (rows,)."""
        ...


@runtime_checkable
class Augmenting(Protocol):
    """An encoder that sees another version of the observations in training."""

    def augment(self, obs: Mapping[str, Tensor], draws: RowDraws) -> dict[str, Tensor]:
        """That version, in environment units, name -> (B, T, ...)."""
        ...


def random_crop(x: Tensor, size: Sequence[int], shift: int, draws: RowDraws) -> Tensor:
    """A random part of the pictures of each row, the same for all its steps.

    Args:
        x: (B, T, H, W, C).
        size: Height and width of the part.
        shift: The part may leave the picture by so many pixels, which repeat its border (Kostrikov et al.
            2020, "Image Augmentation Is All You Need").
        draws: Two numbers a row.

    Returns:
        (B, T, *size, C), of the same type.
    """
    if shift:
        rows, columns = (
            torch.arange(-shift, n + shift, device=x.device).clamp(0, n - 1) for n in x.shape[2:4]
        )
        x = x.index_select(2, rows).index_select(3, columns)
    x = x.contiguous()
    (b, t, _, _, c), (height, width) = x.shape, size
    places = [n - part + 1 for n, part in zip(x.shape[2:4], size, strict=True)]
    # Every place of the crop as a view: no index of single pixels, which takes ten times as long.
    strides = x.stride()
    views = x.as_strided(
        (b, *places, t, height, width * c),
        (strides[0], strides[2], strides[3], strides[1], strides[2], 1),
    )
    at = [(draws.uniform(b) * n).long().clamp(max=n - 1) for n in places]
    parts = views[torch.arange(b, device=x.device), *at]
    return rearrange(parts, "b t h (w c) -> b t h w c", c=c)


def crop_margins(picture: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    """Pixels above and left of the middle part of a picture, both given as height and width."""
    return (picture[0] - size[0]) // 2, (picture[1] - size[1]) // 2


def centre_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """The middle of pictures (..., H, W, C), a view (..., *size, C)."""
    top, left = crop_margins(x.shape[-3:-1], size)
    return x[..., top : top + size[0], left : left + size[1], :]


def change_colours(x: Tensor, brightness: float, contrast: float, hue: float, draws: RowDraws) -> Tensor:
    """Brighten, stretch and turn the colours of each row, all its steps alike, as torchvision's ColorJitter.

    Args:
        x: (B, T, H, W, C) in 0..255; hue is for three channels.
        brightness: All are multiplied by a number in 1 -+ this.
        contrast: Differences to the mean are multiplied by a number in 1 -+ this.
        hue: Colours are turned by up to -+ this part of the circle, 0.5 at most.
        draws: One number a row for each of the three that is above 0.

    Returns:
        The same shape as float32 in 0..255.
    """
    x = x.float()
    factors = {name: amount for name, amount in (("b", brightness), ("c", contrast)) if amount}
    for name, amount in factors.items():
        factor = 1 + amount * (2 * draws.uniform(len(x)) - 1)
        middle = x.mean(dim=(1, 2, 3, 4)) if name == "c" else torch.zeros_like(factor)
        x = middle.view(-1, 1, 1, 1, 1) + (x - middle.view(-1, 1, 1, 1, 1)) * factor.view(-1, 1, 1, 1, 1)
    if hue:
        x = torch.einsum("bthwc, bdc -> bthwd", x, _turns(hue * (2 * draws.uniform(len(x)) - 1)))
    return x.clamp(0, 255)


def _turns(parts: Tensor) -> Tensor:
    """Matrices (B, 3, 3) that turn red, green and blue by parts (B,) of the circle of colours."""
    to_yiq = torch.tensor(YIQ, device=parts.device)
    angle = 2 * math.pi * parts
    turn = torch.zeros(len(parts), 3, 3, device=parts.device)
    turn[:, 0, 0] = 1
    turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
    turn[:, 2, 1] = angle.sin()
    turn[:, 1, 2] = -angle.sin()
    return torch.linalg.inv(to_yiq) @ turn @ to_yiq
