"""Configurations as typed settings: those of the commands compose, and what is wrong is one sentence."""

import importlib
from dataclasses import fields

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from shortcut_policy.commands.collect import CollectSettings
from shortcut_policy.commands.configuration import read, to_plain
from shortcut_policy.commands.convert import ConvertSettings
from shortcut_policy.commands.download import DownloadSettings
from shortcut_policy.commands.teleop import TeleopSettings
from shortcut_policy.commands.view import ViewSettings
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR

COMMANDS = {
    "collect": (CollectSettings, ["output=demos.zarr"]),
    "convert": (ConvertSettings, ["input=a.hdf5", "output=a.zarr"]),
    "download": (DownloadSettings, []),
    "teleop": (TeleopSettings, ["output=demos.zarr"]),
    "view": (ViewSettings, ["store=demos.zarr"]),
}


def composed(name: str, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose(name, list(overrides))


@pytest.mark.parametrize("name", COMMANDS)
def test_the_yaml_and_the_dataclass_hold_the_same_settings(name: str):
    kind, needed = COMMANDS[name]
    config = composed(name, *needed)
    assert isinstance(read(config, kind), kind)
    assert {field.name for field in fields(kind)} == set(to_plain(config))
    assert importlib.import_module(f"shortcut_policy.commands.{name}").run


@pytest.mark.parametrize(
    ("name", "overrides", "sentence"),
    [
        ("collect", [], "the configuration lacks the setting 'output'"),
        ("collect", ["output=a", "+episode=3"], "no setting 'episode': did you mean 'episodes'?"),
        ("collect", ["output=a", "episodes=0"], "^episodes=0 must be a whole number from 1 on"),
        (
            "collect",
            ["output=a", "expert=pusht", "~expert._target_"],
            "^expert={} must be a mapping with the class",
        ),
        ("convert", ["input=a"], "lacks the setting 'output'"),
        ("view", [], "lacks the setting 'store'"),
        ("download", ["+sources.lift_ph.sha=1"], "^sources.lift_ph has no setting 'sha'"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(name: str, overrides: list[str], sentence: str):
    with pytest.raises(InputError, match=sentence):
        read(composed(name, *overrides), COMMANDS[name][0])


def test_interpolations_are_resolved_and_what_has_no_value_is_left_out():
    config = OmegaConf.create({"a": 1, "b": "${a}", "c": "???", "d": {"e": "???", "f": [1, "${a}"]}})
    assert to_plain(config) == {"a": 1, "b": 1, "d": {"f": [1, 1]}}
