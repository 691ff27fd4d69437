"""Draw points of every method on a toy task, as ``studies/configs/toy_samples.yaml`` describes."""

from shortcut_policy.commands.cli import command
from shortcut_studies import CONFIGS
from shortcut_studies.samples import draw_toy

if __name__ == "__main__":
    command("toy_samples", CONFIGS)(draw_toy)()
