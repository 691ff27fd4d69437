"""Show several benchmarks in one table of methods and tasks: ``studies/configs/overview.yaml``."""

from shortcut_policy.commands.cli import command
from shortcut_studies import CONFIGS
from shortcut_studies.overview import run

if __name__ == "__main__":
    command("overview", CONFIGS)(run)()
