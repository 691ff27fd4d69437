"""Policies to measure: as configured, but hardly trained, since weights do not change the time."""

import tempfile
from pathlib import Path

from shortcut_policy import Policy, load_policy
from shortcut_policy.commands.train import train
from shortcut_policy.commands.trainings import compose_training


def untrained_policy(*overrides: str, device: str = "cpu") -> Policy:
    """A policy after one update of ``configs/train.yaml`` with ``overrides``."""
    with tempfile.TemporaryDirectory() as folder:
        short = ["trainer.max_steps=1", "trainer.batch_size=8", "trainer.validate_every=0"]
        return load_policy(
            train(compose_training([*overrides, *short, f"output='{Path(folder) / 'run'}'"])), device
        )
