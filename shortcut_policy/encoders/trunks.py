"""Networks of pictures: (N, channels, H, W) in [-1, 1] to feature maps (N, out_channels, h, w)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_choice

#: Mean and standard deviation of ImageNet's pictures, of red, green and blue in [0, 1], which networks that
#: were trained on it expect to be taken off.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CHANNELS_PER_GROUP = 16


class LightConvolutions(nn.Module):
    """Three convolutions that a CPU can train: a quarter of the resolution, 26 thousand weights.

    The first one takes patches of 8 in steps of 4, where most of the picture's pixels are done with; those
    after it keep the resolution, on which the precision of a spatial softmax rests.

    Args:
        in_channels: Of the pictures.
        width: Channels of the feature maps, a multiple of 16.
        depth: Convolutions after the first one.
    """

    def __init__(self, in_channels: int, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        if width < CHANNELS_PER_GROUP or width % CHANNELS_PER_GROUP or depth < 0:
            raise InputError(
                f"encoder.trunk: width={width} must be a multiple of {CHANNELS_PER_GROUP} and depth={depth} "
                "at least 0"
            )
        layers: list[nn.Module] = []
        for i in range(1 + depth):
            layers += [
                nn.Conv2d(width, width, 3, padding=1)
                if i
                else nn.Conv2d(in_channels, width, 8, 4, padding=2),
                nn.GroupNorm(width // CHANNELS_PER_GROUP, width),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)
        self.out_channels = width
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, C, H, W) to (N, width, H / 4, W / 4)."""
        features: Tensor = self.layers(x)
        return features


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2016) without pooling and classifier: 11.18M weights, maps of 1/32 of the size.

    With group normalisation it is the visual encoder of Diffusion Policy (Chi et al. 2023): batch statistics
    do not go with averaged weights. Names of its parameters are torchvision's, so that weights trained there
    can be loaded (`load_weights`).

    Args:
        in_channels: Of the pictures.
        norm: ``group``, 16 channels a group; or ``frozen_batch``, the batch normalisation that pretrained
            weights come with, its statistics never changed.
        imagenet_statistics: Take off ImageNet's mean and deviation, as pretrained weights expect.
    """

    def __init__(self, in_channels: int, norm: str = "group", imagenet_statistics: bool = False) -> None:
        super().__init__()
        check_choice("encoder.trunk.norm", norm, ("group", "frozen_batch"))
        self.standardise = Standardise(in_channels) if imagenet_statistics else nn.Identity()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, padding=3, bias=False)
        self.bn1 = _norm(norm, 64)
        channels = 64
        for i, width in enumerate((64, 128, 256, 512), start=1):
            first = BasicBlock(channels, width, norm, stride=1 if i == 1 else 2)
            self.add_module(f"layer{i}", nn.Sequential(first, BasicBlock(width, width, norm)))
            channels = width
        self.out_channels = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Pictures (N, C, H, W) to (N, 512, H / 32, W / 32), rounded up."""
        h = F.relu(self.bn1(self.conv1(self.standardise(x))))
        h = F.max_pool2d(h, 3, stride=2, padding=1)
        for i in range(1, 5):
            h = self.get_submodule(f"layer{i}")(h)
        return h


class BasicBlock(nn.Module):
    """Two convolutions of width 3 and a residual, (N, in, h, w) to (N, out, h / stride, w / stride)."""

    def __init__(self, in_channels: int, out_channels: int, norm: str, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = _norm(norm, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = _norm(norm, out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, _norm(norm, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, which is not negative."""
        h = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(h)) + self.downsample(x))


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with statistics and scale of a pretrained network, none of which is trained.

    Args:
        channels: C.
        eps: Added to the variance.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) to the same."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return torch.addcmul(shift[:, None, None], x, scale[:, None, None])


class Standardise(nn.Module):
    """From [-1, 1] to the standardised colours that networks of ImageNet take.

    Args:
        channels: Of the pictures.
        mean: Of each colour in [0, 1].
        std: Of each colour there.

    Raises:
        InputError: The pictures have other channels than the three colours.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        channels: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if channels != len(mean):
            raise InputError(
                f"a network that was trained on pictures of {len(mean)} colours is given pictures of "
                f"{channels} channels: give imagenet_statistics=false and weights of your own"
            )
        given = torch.tensor(std)
        self.register_buffer("scale", (0.5 / given)[:, None, None], persistent=False)
        self.register_buffer("shift", ((0.5 - torch.tensor(mean)) / given)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        return torch.addcmul(self.shift, x, self.scale)


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "frozen_batch":
        return FrozenBatchNorm(channels)
    return nn.GroupNorm(channels // CHANNELS_PER_GROUP, channels)
