"""Networks that predict a step map: ``forward(x, t, d, cond) -> like x``."""

from shortcut_policy.backbones.dit import ActionDit, ImageDit
from shortcut_policy.backbones.epsilon import NoiseAsVelocity
from shortcut_policy.backbones.mlp import Mlp
from shortcut_policy.backbones.precision import evaluate
from shortcut_policy.backbones.preconditioned import Preconditioned
from shortcut_policy.backbones.unet1d import ConditionalUnet1D

__all__ = [
    "ActionDit",
    "ConditionalUnet1D",
    "ImageDit",
    "Mlp",
    "NoiseAsVelocity",
    "Preconditioned",
    "evaluate",
]
