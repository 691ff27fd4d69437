"""Encoders of what a network is conditioned on: normalised observations, or classes, to a vector."""

from shortcut_policy.encoders.classes import ClassEncoder
from shortcut_policy.encoders.image import ImageEncoder
from shortcut_policy.encoders.lowdim import LowDimEncoder
from shortcut_policy.encoders.per_task import PerTaskEncoder
from shortcut_policy.encoders.timm_trunk import TimmTrunk
from shortcut_policy.encoders.trunks import LightConvolutions, ResNet18

__all__ = [
    "ClassEncoder",
    "ImageEncoder",
    "LightConvolutions",
    "LowDimEncoder",
    "PerTaskEncoder",
    "ResNet18",
    "TimmTrunk",
]
