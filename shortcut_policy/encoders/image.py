"""Encoder of cameras, beside the numbers of the other observations."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from shortcut_policy.encoders.crops import RowDraws, centre_crop, change_colours, crop_margins, random_crop
from shortcut_policy.encoders.spatial_softmax import SpatialSoftmax
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_choice, check_number, check_whole

CHANNELS = (1, 3, 4)
#: Name of the networks in the state of an encoder whose cameras share one.
SHARED = "shared"


class ImageEncoder(nn.Module):
    """What cameras see as features, one network a camera or one for all; other observations as they are.

    As in Diffusion Policy (Chi et al. 2023): a random crop in training and the middle one at play, a network
    without batch statistics, and the mean positions of its maps as features (`SpatialSoftmax`). An
    observation with three axes is a camera's: (H, W, C) or (C, H, W), with 1, 3 or 4 channels.

    Args:
        obs_shapes: Shape of one step of each observation.
        n_obs_steps: T, observed steps.
        trunk: Makes the network of a camera: called with ``in_channels``, returns a module with
            ``out_channels`` that turns pictures (N, C, H, W) in [-1, 1] into maps (N, out_channels, h, w).
        crop: Side of the crop in pixels, or height and width; None for whole pictures.
        pool: ``spatial_softmax``, or ``average`` over the places of the maps.
        n_points: Points of the spatial softmax.
        feature_dim: F, features of a picture.
        share_weights: One network for all cameras.
        picture_steps: Look at the pictures of so many of the observed steps, the newest; at all if None. The
            other observations count for all steps. One picture takes half the time of two, at play as well.
        tokens: Give a token for each picture and one for the numbers of each step, F wide and laid end to
            end, for a transformer with ``context_tokens`` and ``split_context``; else the numbers as they
            are after the features.
        frozen: Do not train the trunks: for pretrained ones. Off by default: frozen ImageNet weights were far
            worse than weights from scratch in Chi et al. 2023 (section on vision encoders).
        shift: In training the crop may leave the picture by so many pixels, which repeat its border.
        brightness: In training, see `change_colours`.
        contrast: The same.
        hue: The same.

    Attributes:
        cond_dim: Width of the condition.
        cond_tokens: Tokens in it; 0 if it is a vector.
        cameras: Names of the observations that are pictures, in their order.

    Raises:
        InputError: No observation is a picture, one has other channels or is smaller than the crop, or a
            setting is out of its bounds.
    """

    def __init__(
        self,
        obs_shapes: Mapping[str, tuple[int, ...]],
        n_obs_steps: int,
        trunk: Callable[..., nn.Module],
        crop: int | Sequence[int] | None = None,
        pool: str = "spatial_softmax",
        n_points: int = 32,
        feature_dim: int = 64,
        share_weights: bool = False,
        picture_steps: int | None = None,
        tokens: bool = False,
        frozen: bool = False,
        shift: int = 0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        hue: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("encoder.pool", pool, ("spatial_softmax", "average"))
        for name, whole, least in (
            ("n_points", n_points, 1),
            ("feature_dim", feature_dim, 1),
            ("shift", shift, 0),
        ):
            check_whole(f"encoder.{name}", whole, least)
        for name, number, most in (
            ("brightness", brightness, 1),
            ("contrast", contrast, 1),
            ("hue", hue, 0.5),
        ):
            check_number(f"encoder.{name}", number, partial(_up_to, most), f"from 0 to {most}")
        self.cameras = tuple(name for name, shape in obs_shapes.items() if len(shape) == 3)
        if not self.cameras:
            raise InputError(
                f"none of the observations {', '.join(obs_shapes)} is a picture, with three axes: give "
                "encoder=lowdim"
            )
        self.channels_first = {name: _channels_first(name, obs_shapes[name]) for name in self.cameras}
        self.sizes = {
            name: _crop_size(name, self._picture(name, obs_shapes[name]), crop) for name in self.cameras
        }
        self.shift, self.brightness, self.contrast, self.hue = shift, brightness, contrast, hue
        self.numbers = tuple(name for name in obs_shapes if name not in self.cameras)
        width = sum(prod(obs_shapes[name]) for name in self.numbers)
        self._make_networks(obs_shapes, trunk, pool, n_points, feature_dim, share_weights, frozen)
        self.picture_steps = n_obs_steps if picture_steps is None else picture_steps
        check_whole("encoder.picture_steps", self.picture_steps, 1, n_obs_steps)
        seen = self.picture_steps * len(self.cameras)
        self.embed_numbers = nn.Linear(width, feature_dim) if tokens and width else None
        self.cond_tokens = seen + n_obs_steps * (width > 0) if tokens else 0
        self.cond_dim = self.cond_tokens * feature_dim or seen * feature_dim + n_obs_steps * width

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Normalised observations, name -> (B, T, *shape), to the condition (B, cond_dim).

        Pictures are larger than the crop, and then their middle counts, or of its size.
        """
        seen = {name: self._features(name, self._newest(obs[name])) for name in self.cameras}
        if not self.cond_tokens:
            return torch.cat([x.flatten(1) for x in (*seen.values(), *map(obs.__getitem__, self.numbers))], 1)
        tokens = list(seen.values())
        if self.embed_numbers is not None:
            tokens.append(self.embed_numbers(torch.cat([obs[name].flatten(2) for name in self.numbers], -1)))
        return torch.cat(tokens, dim=1).flatten(1)

    def augment(self, obs: Mapping[str, Tensor], draws: RowDraws) -> dict[str, Tensor]:
        """The observations with another crop and other colours of each row's pictures, for training.

        Args:
            obs: name -> (B, T, *shape), pictures in 0..255; they may be bytes.
            draws: The only source of random numbers, the same for any number of processes.
        """
        return {
            **obs,
            **{name: self._augmented(name, self._newest(obs[name]), draws) for name in self.cameras},
        }

    def points(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Where the spatial softmax of each camera looks: name -> (B, T, K, 2), x and y in pixels.

        Args:
            obs: Normalised observations, as `forward` takes them.

        Raises:
            InputError: The encoder has no spatial softmax.
        """
        found = {}
        for name in self.cameras:
            trunk, pool, _ = cast(nn.Sequential, self.networks[self.network_of[name]])
            if not isinstance(pool, SpatialSoftmax):
                raise InputError("encoder.pool=average has no points; give encoder.pool=spatial_softmax")
            pictures = self._picture_axes(name, obs[name])
            maps = trunk(self._cropped(name, pictures))
            # A place of the map stands for a square of the crop; its middle is where the point is.
            counts = torch.tensor([maps.shape[-1], maps.shape[-2]], device=maps.device)
            crop = torch.tensor(self.sizes[name][::-1], device=maps.device)
            top, left = crop_margins(pictures.shape[-3:-1], self.sizes[name])
            margin = torch.tensor([left, top], device=maps.device)
            places = (pool(maps) + 1) / 2 * (counts - 1) + 0.5
            points = margin + places * crop / counts - 0.5
            found[name] = points.unflatten(0, obs[name].shape[:2])
        return found

    @property
    def trunks(self) -> dict[str, nn.Module]:
        """The network of each camera, or the shared one."""
        return {name: cast(nn.Sequential, network)[0] for name, network in self.networks.items()}

    def _make_networks(
        self,
        obs_shapes: Mapping[str, tuple[int, ...]],
        trunk: Callable[..., nn.Module],
        pool: str,
        n_points: int,
        feature_dim: int,
        share_weights: bool,
        frozen: bool,
    ) -> None:
        channels = {name: self._picture(name, obs_shapes[name])[2] for name in self.cameras}
        if share_weights and len(set(channels.values())) > 1:
            raise InputError(
                f"encoder.share_weights=true needs cameras of equal channels, not {channels}: give false"
            )
        self.network_of = {name: SHARED if share_weights else name for name in self.cameras}
        self.networks = nn.ModuleDict()
        for camera, name in self.network_of.items():
            if name not in self.networks:
                own = trunk(in_channels=channels[camera]).requires_grad_(not frozen)
                self.networks[name] = nn.Sequential(own, *_head(own, pool, n_points, feature_dim))

    def _newest(self, value: Tensor) -> Tensor:
        """The steps whose pictures are looked at, (B, picture_steps, *shape)."""
        return value[:, -self.picture_steps :]

    def _features(self, name: str, value: Tensor) -> Tensor:
        """(B, T, *shape) to (B, T, F)."""
        network = self.networks[self.network_of[name]]
        pictures = self._cropped(name, self._picture_axes(name, value))
        features: Tensor = network(pictures)
        return features.unflatten(0, value.shape[:2])

    def _cropped(self, name: str, pictures: Tensor) -> Tensor:
        """(B, T, H, W, C) to (B T, C, height, width), whose channels lie side by side in memory."""
        return rearrange(centre_crop(pictures, self.sizes[name]), "b t h w c -> (b t) c h w")

    def _augmented(self, name: str, value: Tensor, draws: RowDraws) -> Tensor:
        pictures = random_crop(self._picture_axes(name, value), self.sizes[name], self.shift, draws)
        if self.brightness or self.contrast or self.hue:
            pictures = change_colours(pictures, self.brightness, self.contrast, self.hue, draws)
        return pictures.movedim(-1, 2) if self.channels_first[name] else pictures

    def _picture_axes(self, name: str, value: Tensor) -> Tensor:
        """(B, T, *shape) with the channels last."""
        return value.movedim(2, -1) if self.channels_first[name] else value

    def _picture(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Height, width and channels."""
        return (*shape[1:], shape[0]) if self.channels_first[name] else shape


def _up_to(most: float, number: float) -> bool:
    return 0 <= number <= most


def _head(trunk: nn.Module, pool: str, n_points: int, feature_dim: int) -> list[nn.Module]:
    channels = cast(int, trunk.out_channels)
    if pool == "average":
        return [nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Flatten(), nn.Linear(channels, feature_dim))]
    softmax = SpatialSoftmax(channels, n_points)
    return [softmax, nn.Sequential(nn.Flatten(), nn.Linear(softmax.out_features, feature_dim))]


def _channels_first(name: str, shape: tuple[int, ...]) -> bool:
    if shape[-1] in CHANNELS:
        return False
    if shape[0] in CHANNELS:
        return True
    raise InputError(
        f"task.obs.{name} has shape {list(shape)}, which is no picture: one with {CHANNELS} channels is "
        "(height, width, channels) or (channels, height, width); correct its shape or give another encoder"
    )


def _crop_size(name: str, picture: tuple[int, ...], crop: int | Sequence[int] | None) -> tuple[int, int]:
    height, width, _ = picture
    sides = [height, width] if crop is None else [crop, crop] if isinstance(crop, int) else list(crop)
    if len(sides) != 2:
        raise InputError(f"encoder.crop={crop} must be a side in pixels, height and width, or null")
    for side in sides:
        check_whole("encoder.crop", side, 1)
    if sides[0] > height or sides[1] > width:
        raise InputError(
            f"encoder.crop={crop} is larger than the pictures of task.obs.{name}, {height}x{width}: give a "
            "smaller crop, or null for whole pictures"
        )
    return sides[0], sides[1]
