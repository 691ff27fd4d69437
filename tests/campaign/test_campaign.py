"""A little of the campaign, in every run of the tests: the same draws, and what they have found once."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shortcut_policy.commands.collect import CollectSettings
from shortcut_policy.commands.convert import ConvertSettings
from shortcut_policy.commands.export import ExportSettings
from shortcut_policy.commands.render import RenderSettings
from shortcut_policy.commands.serve import ServeConfig
from shortcut_policy.commands.teleop import TeleopSettings
from shortcut_policy.commands.view import ViewSettings
from shortcut_policy.data.mcap_reader import Recording, TopicKey
from shortcut_policy.errors import InputError
from shortcut_policy.rollout.config import RolloutConfig
from shortcut_policy.settings import parse
from shortcut_policy.training.config import DataConfig, TrainerConfig, TrainingConfig, WandbConfig
from tests.campaign import faults, fuzz_damage, fuzz_readers, summary, versions
from tests.campaign.fuzz_targets import TARGETS

KINDS = (
    *(CollectSettings, ConvertSettings, DataConfig, ExportSettings, Recording, RenderSettings, RolloutConfig),
    *(ServeConfig, TeleopSettings, TopicKey, TrainerConfig, TrainingConfig, ViewSettings, WandbConfig),
)
SINGLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from([10**400, -(2**70), "null", "1", "/", "a.B", {"_target_": "a.B"}, {"_target_": 3}]),
)
VALUES = st.recursive(
    SINGLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def given_settings(draw: Callable) -> tuple[type, dict[str, Any]]:
    """A class of settings, and values for what it needs and for some of the others."""
    kind = draw(st.sampled_from(KINDS))
    needed, others = [], []
    for field in dataclasses.fields(kind):
        has = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        (others if has else needed).append(field.name)
    chosen = draw(st.lists(st.sampled_from(others), unique=True, max_size=3)) if others else []
    return kind, {name: draw(VALUES) for name in [*needed, *chosen]}


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(given_settings())
def test_settings_are_taken_or_refused_in_a_sentence(drawn: tuple[type, dict[str, Any]]):
    kind, values = drawn
    try:
        made = parse(kind, values, "the settings")
    except InputError as error:
        assert str(error)
    else:
        assert isinstance(made, kind)


@pytest.mark.parametrize("name", ["zarr", "checkpoint", "results", "lerobot_2"])
def test_damaged_files_are_refused_in_a_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Targets that read without code of others that a damaged file could end the process in."""
    monkeypatch.setenv("SHORTCUT_POLICY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "valid").mkdir()
    TARGETS[name].make(tmp_path / "valid")
    monkeypatch.setattr(fuzz_damage, "damage_bytes", lambda data, rng: data[: rng.randrange(len(data) + 1)])
    kinds = [
        fuzz_readers.example(name, seed=0, number=number, folder=tmp_path)["kind"] for number in range(25)
    ]
    assert set(kinds) <= {"accepted", "refused", "undamaged"}
    assert "refused" in kinds


def test_damage_is_a_function_of_its_draws():
    text = json.dumps({"a": [1, {"b": 2.5}], "c": "d"}).encode()
    for damage in (fuzz_damage.damage_json, fuzz_damage.damage_bytes):
        made = [damage(text, Random(seed)) for seed in range(20)]
        assert made == [damage(text, Random(seed)) for seed in range(20)]
        assert len(set(made)) > 10


def test_a_hang_and_a_traceback_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def read(root: Path, work: Path) -> None:
        if (root / "file").read_bytes() == b"hang":
            while True:
                pass
        raise KeyError("x")

    target = type(TARGETS["zarr"])
    made = {
        "loop": target(lambda root: None, read, lambda root, rng: (root / "file").write_bytes(b"hang")),
        "key": target(lambda root: None, read, lambda root, rng: (root / "file").write_bytes(b"key")),
    }
    monkeypatch.setattr("tests.campaign.fuzz_targets.TARGETS", made)
    monkeypatch.setattr(fuzz_readers, "SECONDS", 0.2)
    (tmp_path / "valid").mkdir()
    before = fuzz_readers.signal.signal(fuzz_readers.signal.SIGPROF, fuzz_readers._too_long)
    try:
        assert fuzz_readers.example("loop", 0, 0, tmp_path)["kind"] == "hang"
    finally:
        fuzz_readers.signal.signal(fuzz_readers.signal.SIGPROF, before)
    found = fuzz_readers.example("key", 0, 0, tmp_path)
    assert found["kind"] == "traceback" and found["at"] == "KeyError"


def test_a_report_of_the_tests_is_read(tmp_path: Path):
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite tests="4" failures="1" errors="1" skipped="1">'
        '<testcase classname="tests.a" name="one"/>'
        '<testcase classname="tests.a" name="two"><failure message="in /home/me/code/a.py: no"/></testcase>'
        '<testcase classname="tests.b" name="three"><error message="gone"/></testcase>'
        '<testcase classname="tests.b" name="four"><skipped/></testcase></testsuite></testsuites>'
    )
    report = versions.read_report(tmp_path / "tests.xml")
    assert (report["passed"], report["failed"], report["skipped"]) == (1, 2, 1)
    assert report["failures"][0] == {"test": "tests/a.py::two", "why": "in .../a.py: no"}


def test_what_is_published_of_faults_is_left_out_by_the_largest_batch_of_a_command(tmp_path: Path):
    (tmp_path / "faults.json").write_text(
        '{"batches": {"1": {"commands": {"train": {"tried": 15}}}, "4": {"commands": {"train": {"tried": 7}, '
        '"view": {"tried": 6}}}}}'
    )
    assert faults.published(tmp_path / "faults.json") == {"train": 15, "view": 6}


def test_operations_of_a_place_are_counted_with_their_kinds(tmp_path: Path):
    (tmp_path / "a.trace").write_text("1 open /demo_0.hdf5\n2 open /demo_1.hdf5\n3 write /demo_1.hdf5\n")
    (tmp_path / "b.trace").write_text("1 open /demo_0.hdf5\n")
    assert summary.there(sorted(tmp_path.iterdir())) == {"commands": 2, "operations": 4, "kinds": 3}


def test_batches_are_added_up_and_replaced_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(summary, "RESULTS", tmp_path)

    def kept(scenario: str, kills: int, lost: list[str]) -> dict[str, Any]:
        return {"scenario": scenario, "kills": [{"hit": "", "group": True}] * kills, "lost": lost}

    summary.put("kills", "1", summary.kills([kept("train", 3, []), kept("view", 1, ["a file"])]))
    summary.put("kills", "2", summary.kills([kept("train", 9, ["all"])]))
    summary.put("kills", "2", summary.kills([kept("train", 2, [])]))
    summary.put("kills", "3", summary.kills([]))
    found = json.loads((tmp_path / "kills.json").read_text())
    assert (found["tried"], found["lost"], found["whole_groups"]) == (6, 1, 6)
    assert found["commands"] == {"train": {"tried": 5, "lost": 0}, "view": {"tried": 1, "lost": 1}}
    assert list(found["batches"]) == ["1", "2"]
