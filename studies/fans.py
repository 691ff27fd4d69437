"""Draw action chunks from an ambiguous state, as ``studies/configs/fans.yaml`` describes."""

from shortcut_policy.commands.cli import command
from shortcut_studies import CONFIGS
from shortcut_studies.samples import draw_fans

if __name__ == "__main__":
    command("fans", CONFIGS)(draw_fans)()
