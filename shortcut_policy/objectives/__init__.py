"""Objectives: how to make a regression target for one and the same step map."""

from shortcut_policy.objectives.anchored_shortcut import AnchoredShortcut
from shortcut_policy.objectives.base import (
    Draws,
    LossContext,
    Metrics,
    Objective,
)
from shortcut_policy.objectives.consistency_distillation import ConsistencyDistillation
from shortcut_policy.objectives.consistency_training import ConsistencyTraining
from shortcut_policy.objectives.diffusion import Diffusion
from shortcut_policy.objectives.flow_matching import FlowMatching
from shortcut_policy.objectives.live_reflow import LiveReflow
from shortcut_policy.objectives.meanflow import MeanFlow
from shortcut_policy.objectives.mip import MIP
from shortcut_policy.objectives.progressive_distillation import ProgressiveDistillation
from shortcut_policy.objectives.reflow import Reflow
from shortcut_policy.objectives.regression import Regression
from shortcut_policy.objectives.shortcut import Shortcut
from shortcut_policy.objectives.soflow import SoFlow
from shortcut_policy.objectives.step_map import StepMap

__all__ = [
    "MIP",
    "AnchoredShortcut",
    "ConsistencyDistillation",
    "ConsistencyTraining",
    "Diffusion",
    "Draws",
    "FlowMatching",
    "LiveReflow",
    "LossContext",
    "MeanFlow",
    "Metrics",
    "Objective",
    "ProgressiveDistillation",
    "Reflow",
    "Regression",
    "Shortcut",
    "SoFlow",
    "StepMap",
]
