"""``scripts/train.py`` with the tasks and sweeps of ``studies/configs``."""

import sys

from shortcut_policy.commands.cli import train
from shortcut_studies import CONFIGS

if __name__ == "__main__":
    sys.argv[1:1] = ["--config-dir", str(CONFIGS)]
    train()
