"""Make tables and a figure of sweeps, as ``studies/configs/ablations.yaml`` describes."""

from shortcut_policy.commands.cli import command
from shortcut_studies import CONFIGS
from shortcut_studies.ablations import run

if __name__ == "__main__":
    command("ablations", CONFIGS)(run)()
