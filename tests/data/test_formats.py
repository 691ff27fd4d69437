"""Demonstrations of any format are opened, shown and told apart by what is there."""

from pathlib import Path

import pytest

from shortcut_policy.commands import cli
from shortcut_policy.data import LeRobotSource, MinariSource, RobomimicSource, ZarrSource
from shortcut_policy.data.formats import open_demonstrations
from shortcut_policy.paths import CONFIG_DIR

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
BUNDLED = CONFIG_DIR.parent / "shortcut_policy" / "assets"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (FIXTURES / "lerobot_v3", LeRobotSource),
        (FIXTURES / "small-v0", MinariSource),
        (BUNDLED / "lift.hdf5", RobomimicSource),
    ],
)
def test_a_source_of_each_format_is_shown_as_a_page(path: Path, kind: type, give, tmp_path: Path, capsys):
    assert isinstance(open_demonstrations(path), kind)
    give(cli.view, f"store={path}", "format=html", "episodes=0", f"output={tmp_path}")
    page = (tmp_path / f"{path.name.split('.')[0]}.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and '"action' in page
    assert "episodes of" in capsys.readouterr().out


def test_what_is_no_other_format_is_a_store(demonstrations: Path):
    assert isinstance(open_demonstrations(demonstrations), ZarrSource)
