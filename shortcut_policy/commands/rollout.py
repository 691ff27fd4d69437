"""The rollout command."""

from omegaconf import DictConfig

from shortcut_policy.benchmark.rollouts import roll_out
from shortcut_policy.commands.configuration import read
from shortcut_policy.rollout.config import RolloutConfig


def run(config: DictConfig) -> None:
    """Roll checkpoints out as ``configs/rollout.yaml`` describes.

    Raises:
        InputError: See `roll_out`; or a setting cannot be used.
    """
    roll_out(read(config, RolloutConfig))
