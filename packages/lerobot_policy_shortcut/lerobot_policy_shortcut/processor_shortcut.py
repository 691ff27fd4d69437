"""What happens to observations before the policy and to actions after it: hardly anything.

Scaling is part of the policy, where it cannot be lost or doubled. LeRobot's steps are there all the same,
with nothing to do, because its commands expect them.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.configs import PipelineFeatureType, PolicyFeature
from lerobot.lerobot_types import PolicyAction
from lerobot.processor import (
    ObservationProcessorStep,
    PolicyProcessorPipeline,
    ProcessorStepRegistry,
    make_default_pre_post_processors,
)
from lerobot.utils.constants import OBS_ENV_STATE
from torch import Tensor

from lerobot_policy_shortcut.configuration_shortcut import ShortcutConfig
from lerobot_policy_shortcut.gym_pusht import CORNER_NUMBERS, KEYPOINT_NUMBERS, keypoints_from_corners
from shortcut_policy.errors import InputError

Pipelines = tuple[
    PolicyProcessorPipeline[dict[str, Any], dict[str, Any]],
    PolicyProcessorPipeline[PolicyAction, PolicyAction],
]


def make_shortcut_pre_post_processors(
    config: ShortcutConfig, dataset_stats: dict[str, dict[str, Tensor]] | None = None
) -> Pipelines:
    """LeRobot's usual steps, none of which scales anything: `ShortcutConfig.normalization_mapping`.

    Args:
        config: Of the policy.
        dataset_stats: Of the data set; the policy's own scaling is made of them, not this.
    """
    return make_default_pre_post_processors(config, dataset_stats)


@ProcessorStepRegistry.register("shortcut_gym_pusht_keypoints")
@dataclass
class GymPushTKeypoints(ObservationProcessorStep):
    """Turns the corners that gym-pusht observes into the keypoints that our Push-T policies were trained on.

    Both are points of the same rigid block, so nothing is lost: see `gym_pusht.keypoints_from_corners`.
    """

    matrix: Tensor = field(
        default_factory=lambda: torch.from_numpy(keypoints_from_corners()), init=False, repr=False
    )

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Replace ``observation.environment_state``, (..., 16) pixels, by (..., 18) pixels.

        Raises:
            InputError: It is missing, or holds other numbers.
        """
        corners = observation.get(OBS_ENV_STATE)
        if corners is None or corners.shape[-1] != CORNER_NUMBERS:
            found = "missing" if corners is None else f"of shape {tuple(corners.shape)}"
            raise InputError(
                f"{OBS_ENV_STATE} is {found}, and must be the {CORNER_NUMBERS} numbers of gym-pusht: give "
                "--env.type=pusht --env.obs_type=environment_state_agent_pos"
            )
        # float64: the matrix adds and subtracts numbers of hundreds of pixels.
        keypoints = corners.double() @ self.matrix.to(corners.device).T
        return {**observation, OBS_ENV_STATE: keypoints.to(corners.dtype)}

    def transform_features(
        self, features: dict[PipelineFeatureType, dict[str, PolicyFeature]]
    ) -> dict[PipelineFeatureType, dict[str, PolicyFeature]]:
        """The shape of what comes out."""
        observed = dict(features[PipelineFeatureType.OBSERVATION])
        if OBS_ENV_STATE in observed:
            observed[OBS_ENV_STATE] = PolicyFeature(observed[OBS_ENV_STATE].type, (KEYPOINT_NUMBERS,))
        return {**features, PipelineFeatureType.OBSERVATION: observed}
