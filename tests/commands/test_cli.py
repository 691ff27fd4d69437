"""What the entry points of all commands have in common."""

import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

from shortcut_policy.commands.cli import command


def test_modules_where_a_command_is_given_are_found_and_hide_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, give: Callable[..., None]
):
    for name in ("own_module", "yaml", "shortcut_policy", "statistics"):
        (tmp_path / f"{name}.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    places: dict[str, Path] = {}

    def look(config: object) -> None:
        for name in ("own_module", "yaml", "shortcut_policy", "statistics"):
            found = PathFinder.find_spec(name)
            assert found is not None and found.origin is not None
            places[name] = Path(found.origin).parent

    give(command("view")(look))
    assert [name for name, place in places.items() if place == tmp_path] == ["own_module"]
