"""The README and the pages of docs/: commands and code are right, links lead somewhere."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

from shortcut_policy.paths import CONFIG_DIR

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
STUDIES = ROOT / "studies" / "configs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not path.name.startswith("_")]
PATHS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES, ROOT / "studies" / "one_step.md"]
TEXTS = {path: path.read_text("utf-8") for path in PATHS}
PROSE = {path: re.sub(r"^```.*?^```", "", text, flags=re.M | re.S) for path, text in TEXTS.items()}
BLOCKS = [
    (path.name, language, block)
    for path, text in TEXTS.items()
    if path.name != "README.md"  # test_readme.py runs those of the README
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.M | re.S)
]
COMMANDS = [
    (page, line)
    for page, language, block in BLOCKS
    if language == "bash"
    for line in block.replace("\\\n", " ").splitlines()
    if "scripts/" in line or "studies/" in line
]
PYTHON = [(page, block) for page, language, block in BLOCKS if language == "python"]
YAML = [(page, block) for page, language, block in BLOCKS if language == "yaml"]
LINKS = [
    (path, target)
    for path, text in PROSE.items()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
]
#: Pages that are made when the site is built, as are those of docs/api.
MADE = {"settings_of_commands.md", "settings_of_parts.md"}


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


@pytest.mark.parametrize(("page", "block"), PYTHON)
def test_python_compiles_and_runs_where_it_says_so(
    page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    code = compile(block, page, "exec")
    if block.startswith("# runnable"):
        monkeypatch.chdir(tmp_path)
        exec(code, {})


@pytest.mark.parametrize(("page", "block"), YAML)
def test_yaml_names_a_place_and_can_be_read(page: str, block: str):
    assert re.match(r"# my_configs/\w+/\w+\.yaml\n", block)
    assert yaml.safe_load(block)


@pytest.mark.parametrize(("page", "target"), LINKS, ids=lambda value: getattr(value, "name", value))
def test_link_leads_somewhere(page: Path, target: str):
    file, _, anchor = target.partition("#")
    linked = (page.parent / file).resolve() if file else page
    assert linked.exists() or linked.name in MADE or linked.parent == DOCS / "api"
    if anchor and linked.exists():
        headings = re.findall(r"^#+ (.+)$", PROSE[linked], flags=re.M)
        # As GitHub names them.
        assert anchor in {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_the_readme_stays_short():
    text = TEXTS[ROOT / "README.md"]
    assert len(text.splitlines()) <= 200
    assert len(text.split()) <= 1300


def test_page_of_images_shows_pictures():
    assert len(re.findall(r"!\[.*?\]\(.*?\)", PROSE[DOCS / "images.md"])) >= 3


def test_supported_versions_are_those_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["robomimic"]]
    allowed = dict(re.match(r"([\w-]+)(.*)", line).groups() for line in listed)
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), flags=re.M))
    rows = re.findall(r"^\| ([\w-]+) \| `(.+)` \| (\S+) \|$", TEXTS[DOCS / "support.md"], flags=re.M)
    assert len(rows) >= 10
    for name, versions, tested in rows:
        assert (versions, tested) == (allowed[name], pinned[name]), name


def test_commands_and_targets_are_listed():
    page = TEXTS[DOCS / "commands.md"]
    programs = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    assert set(re.findall(r"`(shortcut-[\w-]+)`", page)) == set(programs)
    assert set(re.findall(r"`(scripts/\w+\.py)`", page)) >= {
        f"scripts/{path.name}" for path in (ROOT / "scripts").glob("*.py")
    }
    targets = re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
    assert set(re.findall(r"^\| `make (\w+)`", page, flags=re.M)) == set(targets) - {"help"}
