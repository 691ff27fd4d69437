"""Datasets of LeRobot that cannot be used: one sentence each, before anything long begins."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from shortcut_policy.data import DemonstrationDataset, Field, LeRobotSource
from shortcut_policy.errors import InputError
from tests.data.lerobot_folders import (
    PICTURES,
    VIDEO,
    all_of,
    change_column,
    change_info,
    copy_of,
    episodes,
    replace_video,
    table_of,
    write_video,
)


def shorten_video(root: Path) -> None:
    path = sorted(root.glob("videos/**/*.mp4"))[-1]
    frames = all_of(VIDEO)[:20] if path.name == "file-000.mp4" else episodes()[2][VIDEO][:6]
    write_video(path, frames)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def point(pattern: str) -> Callable[[Path], None]:
    """As a clone without git-lfs has it."""

    def edit(root: Path) -> None:
        for path in root.glob(pattern):
            path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")

    return edit


REFUSED = {
    "tables of git LFS": (point("data/**/*.parquet"), "is a pointer of git LFS and not the file itself"),
    "no folder": (
        lambda root: (root / "meta/info.json").unlink(),
        "has no meta/info.json; a LeRobot dataset",
    ),
    "no json": (
        lambda root: (root / "meta/info.json").write_text("{"),
        r"info.json is no JSON \(.*restore "
        "it",
    ),
    "another format": (
        lambda root: change_info(root, codebase_version="v1.6"),
        "is of the format v1.6, and v2.0",
    ),
    "no rate": (lambda root: change_info(root, fps=0), "fps=0 must be a number above 0"),
    "out of the folder": (
        lambda root: change_info(root, data_path="../{x}", video_path="../a"),
        "_path=.*(leads out of the folder|is no pattern)",
    ),
    "one frame more": (
        lambda root: change_info(root, total_frames=22),
        "total_frames=22, but the tables hold 21; .*finalize",
    ),
    "no footer": (
        lambda root: cut(table_of(root)),
        r"lacks its footer: .* finalize\(\) of its "
        "LeRobotDataset",
    ),
    "no table": (lambda root: table_of(root).unlink(), "parquet does not exist; copy or fetch"),
    "off the grid": (
        lambda root: change_column(root, "timestamp", lambda t: [*t[:-1], t[-1] + 0.05]),
        r"step 6 of episode 2 is at 0.6500 s, and 0.6000 s is its time at fps=10 \(within 0.1 of a step\)",
    ),
    "another rate": (
        lambda root: change_info(root, fps=20),
        "step 1 of episode 0 is at 0.1000 s, and 0.0500 s",
    ),
    "steps are missing": (
        lambda root: change_column(root, "frame_index", lambda i: [*i[:-1], 9]),
        "step 6 of episode 2 has frame_index=9; steps are missing",
    ),
    "one row less": (
        lambda root: parquet.write_table(parquet.read_table(table_of(root))[:-1], table_of(root)),
        "(total_frames=21, but the tables hold 20)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_when_it_is_opened(case: str, arm: Path, tmp_path: Path) -> None:
    root = copy_of(arm, tmp_path)
    damage, sentence = REFUSED[case]
    damage(root)
    with pytest.raises(InputError, match=sentence):
        LeRobotSource(root)


def test_videos_of_git_lfs_are_refused_when_they_are_read(arm: Path, tmp_path: Path) -> None:
    root = copy_of(arm, tmp_path)
    point("videos/**/*.mp4")(root)
    with pytest.raises(InputError, match=r"mp4 is a pointer of git LFS and not the file itself"):
        LeRobotSource(root).read(VIDEO, 0, 1)


def other_shape(values: list) -> list:
    return [*values[:-1], values[-1][:1]]


BAD_KEYS = {
    "shorter": (shorten_video, VIDEO, "ends 1 frames before episode 2 does, which has 7 steps from"),
    "another rate": (
        lambda root: replace_video(root, all_of(VIDEO)[:21], fps=15),
        VIDEO,
        "has 15 frames a second, and meta/info.json says fps=10",
    ),
    "another size": (
        lambda root: replace_video(root, np.zeros((21, 48, 32, 3), np.uint8)),
        VIDEO,
        "is 48 x 32, and meta/info.json says 32 x 32",
    ),
    "damaged video": (
        lambda root: cut(sorted(root.glob("videos/**/*.mp4"))[-1]),
        VIDEO,
        "cannot be read as a video|cannot be decoded|ends . frames before",
    ),
    "no video": (
        lambda root: sorted(root.glob("videos/**/*.mp4"))[-1].unlink(),
        VIDEO,
        "mp4 does not exist; copy or fetch the whole dataset again",
    ),
    "another shape": (
        lambda root: change_column(root, "action", other_shape, pa.list_(pa.float32())),
        "action",
        r"the rows of 'action' hold different numbers of values \(2, 1\)",
    ),
    "another shape in info": (
        lambda root: change_info(
            root,
            features=json.loads((root / "meta/info.json").read_text())["features"]
            | {"action": {"dtype": "float32", "shape": [3]}},
        ),
        "action",
        r"'action' has shape \[2\] per step, and meta/info.json says \[3\]",
    ),
    "nothing": (
        lambda root: change_column(root, "gripper", lambda g: [*g[:-1], None]),
        "gripper",
        "a row of 'gripper' is empty",
    ),
    "no picture": (
        lambda root: change_column(root, PICTURES, lambda p: [*p[:-1], {"bytes": b"no", "path": None}]),
        PICTURES,
        "the picture of step 6 of episode 2 cannot be decoded",
    ),
    "path out of the folder": (
        lambda root: change_column(root, PICTURES, lambda p: [*p[:-1], {"bytes": None, "path": "../a.png"}]),
        PICTURES,
        "the picture of step 6 of episode 2 should be in .*, which is not there",
    ),
}


@pytest.mark.parametrize("case", BAD_KEYS)
def test_refused_when_a_key_is_read(
    case: str, arm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHORTCUT_POLICY_CACHE", str(tmp_path / "cache"))
    root = copy_of(arm, tmp_path)
    damage, key, sentence = BAD_KEYS[case]
    damage(root)
    source = LeRobotSource(root)
    with pytest.raises(InputError, match=sentence):
        source.read(key, 0, 1)
    assert not list(tmp_path.glob("cache/**/*.rows"))
    others = [name for name in ("observation.state", "action", PICTURES) if name != key]
    assert all(len(source.read(name, 0, 21)) == 21 for name in others)


def test_an_action_that_is_not_finite_is_refused_by_its_step(arm: Path, tmp_path: Path) -> None:
    root = copy_of(arm, tmp_path)
    change_column(root, "action", lambda a: [*a[:-1], [float("nan"), 0.0]])
    with pytest.raises(InputError, match=r"row 20 \(episode 2, step 6\) is not a finite number"):
        DemonstrationDataset(
            LeRobotSource(root), {"state": Field("observation.state", (3,))}, Field("action", (2,)), 4, 1, 2
        )


@pytest.mark.parametrize("key", [VIDEO, "action"])
def test_a_dataset_that_is_being_written_is_not_read(key: str, arm: Path, tmp_path: Path) -> None:
    source = LeRobotSource(copy_of(arm, tmp_path))
    os.utime(table_of(tmp_path / "copy"), ns=(1, 1))
    with pytest.raises(
        InputError, match=r"parquet has changed while .* was read: is it still being recorded"
    ):
        source.read(key, 0, 1)
