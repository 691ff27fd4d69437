"""Compare automatic with fixed steps of one policy, as ``studies/configs/auto_steps.yaml`` describes."""

from shortcut_policy.commands.cli import command
from shortcut_studies import CONFIGS
from shortcut_studies.auto_steps import run

if __name__ == "__main__":
    command("auto_steps", CONFIGS)(run)()
