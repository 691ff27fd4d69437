"""Measure executors against delays, as ``studies/configs/delay.yaml`` describes."""

from shortcut_policy.commands.cli import command
from shortcut_studies import CONFIGS
from shortcut_studies.delay import run

if __name__ == "__main__":
    command("delay", CONFIGS)(run)()
