"""What is made when the pages are built as a site."""

import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
import api_pages
import formulas
import settings_pages
from mkdocs.commands.build import build
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted((ROOT / "scripts").glob("*.py"))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.stem)
def test_every_setting_of_a_command_is_described(command: Path):
    settings = settings_pages.settings(ROOT / "configs" / f"{command.stem}.yaml")
    assert settings
    assert not [setting.key for setting in settings if not setting.text]


def test_settings_are_described_by_comments_and_else_by_docstrings(tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "# What it is.\n_target_: shortcut_policy.backbones.Mlp\n"
        "width: 3  # of the layers,\n          # all of them\ndepth: 2\n"
        "# Of both.\nscale: {a: 1, b: '#2'}\nnested:\n  time_scale: 1.0\n"
    )
    found = {setting.key: (setting.value, setting.text) for setting in settings_pages.settings(path)}
    assert found == {
        "width": ("3", "of the layers, all of them"),
        "depth": ("2", "Number of hidden layers, at least 1."),
        "scale": ("{a: 1, b: '#2'}", "Of both."),
        "nested.time_scale": ("1.0", ""),
    }


def test_formulas_are_drawn_and_code_is_left_alone():
    code = "```bash\necho $HOME $PATH\n```\nand `$x$`"
    page = formulas.on_page_markdown(
        f"{code}: $\\tfrac12 x_t$\n\n$$\\lVert s \\rVert^2 .$$", None, None, None
    )
    assert page.startswith(code)
    assert page.count('<svg class="formula"') == 1
    assert page.count('<svg class="formula display"') == 1
    assert 'aria-label="\\tfrac12 x_t"' in page


def test_every_module_is_on_one_page_of_the_api():
    shown = [
        name for page in api_pages.pages().values() for name in re.findall(r"^::: (.+)$", page, flags=re.M)
    ]
    folders = (ROOT / "shortcut_policy", ROOT / "envs" / "shortcut_envs")
    modules = [
        ".".join(path.relative_to(folder.parent).with_suffix("").parts)
        for folder in folders
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert sorted(shown) == sorted(modules)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning while it is built is an error."""
    folder = tmp_path_factory.mktemp("site")
    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    return folder


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site: Path):
    fetched = r"<(?!a\b)\w+[^>]*\s(?:src|href|srcset|data)=\"((?:https?:)?//[^\"]*)\""
    for page in site.rglob("*.html"):
        assert not re.findall(fetched, page.read_text("utf-8")), page
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//|@import", sheet.read_text("utf-8")), sheet


@pytest.mark.slow
def test_pages_show_what_is_made_for_them(site: Path):
    settings = (site / "settings_of_parts.html").read_text("utf-8")
    assert "objective=flow_matching" in settings
    assert "Policy.act" in (site / "api" / "policy.html").read_text("utf-8")
    assert "class Reach" in re.sub(r"<[^>]+>", "", (site / "first_policy.html").read_text("utf-8"))
    assert "make quick" in re.sub(r"<[^>]+>", "", (site / "contributing.html").read_text("utf-8"))
    assert (site / "results" / "ablations" / "fans.png").is_file()
    assert not re.search(r"[^\\]\$\\?\w", re.sub(r"<[^>]+>", "", (site / "method.html").read_text("utf-8")))
