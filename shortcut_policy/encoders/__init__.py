"""Observation encoders: normalised observations to the condition vector of the network."""

from shortcut_policy.encoders.lowdim import LowDimEncoder

__all__ = ["LowDimEncoder"]
