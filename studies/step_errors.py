"""Compare few steps with many for the same noise, as ``studies/configs/step_errors.yaml`` describes."""

from shortcut_policy.commands.cli import command
from shortcut_studies import CONFIGS
from shortcut_studies.step_errors import run

if __name__ == "__main__":
    command("step_errors", CONFIGS)(run)()
