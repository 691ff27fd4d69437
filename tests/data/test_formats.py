"""Demonstrations of any format are opened, shown and told apart by what is there."""

from pathlib import Path

import pytest

from shortcut_policy.commands import cli
from shortcut_policy.data import EpisodeWriter, LeRobotSource, MinariSource, RobomimicSource, ZarrSource
from shortcut_policy.data.agreement import recorded_rate
from shortcut_policy.data.formats import open_demonstrations
from shortcut_policy.paths import CONFIG_DIR
from tests.data.test_joined import write_file

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


def test_the_rate_is_told_where_a_source_knows_it(tmp_path: Path):
    """Of whatever format; a policy that learned from it is not to be played at another one in silence."""
    assert recorded_rate(open_demonstrations(FIXTURES / "lerobot_v3")) == 10
    assert recorded_rate(open_demonstrations(write_file(tmp_path / "a.hdf5"))) == 20
    assert recorded_rate(open_demonstrations(FIXTURES / "small-v0")) is None
    attributes = [{"fps": 15}, {"mcap": {"recording": {"rate": 30.0}}}, {"fps": "fast", "rate": True}, {}]
    for number, (said, rate) in enumerate(zip(attributes, (15, 30, None, None), strict=True)):
        with EpisodeWriter(tmp_path / f"{number}.zarr", attributes=said) as writer:
            writer.add_episode({"action": [[0.0], [1.0]]})
        assert recorded_rate(ZarrSource(tmp_path / f"{number}.zarr")) == rate
