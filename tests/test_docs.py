"""The README and the pages of docs/: commands name settings that exist, and links lead somewhere."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from shortcut_policy.paths import CONFIG_DIR

ROOT = Path(__file__).resolve().parents[1]
STUDIES = ROOT / "studies" / "configs"
PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROSE = {path: re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S) for path in PATHS}
COMMANDS = [
    (path.name, line)
    for path in PATHS[1:]  # test_readme.py runs those of the README
    for block in re.findall(r"^```bash\n(.*?)^```", path.read_text("utf-8"), flags=re.M | re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if "scripts/" in line or "studies/" in line
]
LINKS = [
    (path, target)
    for path, text in PROSE.items()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
]


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_composes(page: str, line: str):
    words = shlex.split(line, comments=True)
    number = next(place for place, word in enumerate(words) if word.startswith(("scripts/", "studies/")))
    assert (ROOT / words[number]).is_file()
    name, overrides = Path(words[number]).stem, words[number + 1 :]
    if overrides and overrides[0] == "--config-name":
        name, overrides = overrides[1], overrides[2:]
    overrides = [word for word in overrides if word != "-m"]
    swept = [word for word in overrides if re.fullmatch(r"[\w.]+=[^\[{'\"]*,.*", word)]
    configs = CONFIG_DIR
    if words[number] == "studies/train.py":
        overrides.append(f"hydra.searchpath=[file://{STUDIES}]")
    elif words[number].startswith("studies/"):
        configs = STUDIES
    with initialize_config_dir(str(configs), version_base=None):
        for place in (0, -1):
            chosen = [
                f"{key}={values.split(',')[place]}" for key, values in (word.split("=") for word in swept)
            ]
            assert compose(name, [word for word in overrides if word not in swept] + chosen)


@pytest.mark.parametrize(("page", "target"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_link_leads_somewhere(page: Path, target: str):
    file, _, anchor = target.partition("#")
    linked = (page.parent / file).resolve() if file else page
    assert linked.exists()
    if anchor:
        headings = re.findall(r"^#+ (.+)$", PROSE[linked], flags=re.M)
        # As GitHub names them.
        assert anchor in {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_page_of_images_shows_pictures():
    assert len(re.findall(r"!\[.*?\]\(.*?\)", PROSE[ROOT / "docs" / "images.md"])) >= 3
