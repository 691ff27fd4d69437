"""Any network of pictures that ``timm`` has, as a trunk of `ImageEncoder`."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from shortcut_policy.encoders.trunks import Standardise
from shortcut_policy.errors import InputError


class TimmTrunk(nn.Module):
    """The last feature map of a model of ``timm``, which has a `pip` extra of this library: ``[timm]``.

    Its weights are random until they are read from a file: nothing is downloaded.

    Args:
        in_channels: Of the pictures.
        name: Of the model, such as ``vit_small_patch14_dinov2``, ``vit_small_patch16_dinov3`` or
            ``vit_base_patch32_clip_224``.
        options: For ``timm.create_model``. Transformers need ``dynamic_img_size: true`` for pictures of
            another size than they were made for; sides are multiples of the patch.

    Raises:
        InputError: timm is not installed, or does not know the model or the options.
    """

    def __init__(self, in_channels: int, name: str, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise InputError(
                f"encoder.trunk.name={name} needs timm, which cannot be imported ({error}): pip install "
                "'shortcut-policy[timm]', with the torchvision that belongs to your torch"
            ) from error
        try:
            self.model = timm.create_model(
                name, pretrained=False, num_classes=0, in_chans=in_channels, **(options or {})
            )
        except (RuntimeError, TypeError, ValueError, AssertionError) as error:
            raise InputError(
                f"encoder.trunk: timm cannot make {name} with {dict(options or {})} ({error})"
            ) from error
        config = self.model.pretrained_cfg
        colours = tuple(config["mean"]), tuple(config["std"])
        self.standardise = Standardise(in_channels, *colours) if in_channels == 3 else nn.Identity()
        self.out_channels = int(self.model.num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, C, H, W) to the last feature map, (N, out_channels, h, w)."""
        maps = self.model.forward_intermediates(
            self.standardise(x), indices=1, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        last: Tensor = maps[-1]
        return last
