"""Encoders of what a network is conditioned on: normalised observations, or classes, to a vector."""

from shortcut_policy.encoders.classes import ClassEncoder
from shortcut_policy.encoders.lowdim import LowDimEncoder

__all__ = ["ClassEncoder", "LowDimEncoder"]
