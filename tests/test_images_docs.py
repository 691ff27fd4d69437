"""The commands of docs/images.md name settings that exist."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from shortcut_policy.paths import CONFIG_DIR

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.M | re.S)
    for line in block.splitlines()
    if "scripts/" in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_composes(line: str):
    words = shlex.split(line)
    number = next(place for place, word in enumerate(words) if word.startswith("scripts/"))
    assert (ROOT / words[number]).is_file()
    name, overrides = Path(words[number]).stem, words[number + 1 :]
    if overrides[0] == "--config-name":
        name, overrides = overrides[1], overrides[2:]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        assert compose(name, overrides)


def test_pictures_are_there():
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", TEXT)
    assert len(pictures) >= 3
    assert all((ROOT / "docs" / picture).is_file() for picture in pictures)
