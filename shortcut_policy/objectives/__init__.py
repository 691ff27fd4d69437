"""Objectives: how to make a regression target for one and the same step map."""

from shortcut_policy.objectives.base import Draws, LossContext, Metrics, Objective, StepMap
from shortcut_policy.objectives.diffusion import Diffusion
from shortcut_policy.objectives.flow_matching import FlowMatching
from shortcut_policy.objectives.regression import Regression
from shortcut_policy.objectives.shortcut import Shortcut

__all__ = [
    "Diffusion",
    "Draws",
    "FlowMatching",
    "LossContext",
    "Metrics",
    "Objective",
    "Regression",
    "Shortcut",
    "StepMap",
]
