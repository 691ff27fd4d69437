"""Datasets of LeRobot: what is read of them, where decoded frames go, and what is refused."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from shortcut_policy import hub
from shortcut_policy.commands import cli
from shortcut_policy.data import DemonstrationDataset, Field, LeRobotSource, lerobot_source
from shortcut_policy.errors import InputError
from tests.data.lerobot_folders import (
    FPS,
    LENGTHS,
    PICTURES,
    VIDEO,
    all_of,
    change_info,
    copy_of,
    episode,
    episodes,
    pictures,
    replace_video,
    write_folder,
)
from tests.fixtures import make_lerobot as fixture

FIXTURE = fixture.FOLDER


def of_fixture(what: Callable[[int, int], np.ndarray]) -> np.ndarray:
    steps = [(e, t) for e, length in enumerate(fixture.LENGTHS) for t in range(length)]
    return np.stack([what(*step) for step in steps])


def test_what_lerobot_wrote_is_read_as_it_was_given() -> None:
    source = LeRobotSource(FIXTURE)
    np.testing.assert_array_equal(source.episode_ends, np.cumsum(fixture.LENGTHS))
    rows = int(source.episode_ends[-1])
    for key, what in (("observation.state", fixture.state), ("action", fixture.action)):
        np.testing.assert_array_equal(source.read(key, 0, rows), of_fixture(what))
    np.testing.assert_array_equal(
        source.read("observation.images.hand", 3, rows), of_fixture(fixture.small_picture)[3:]
    )
    assert source.shapes["gripper"] == (1,) and source.read("gripper", 0, 4).tolist() == [[0], [1], [0], [1]]
    assert tuple(source.tasks_of(e) for e in range(3)) == tuple((task,) for task in fixture.TASKS)
    assert (
        source.fps == fixture.FPS and source.attributes["codebase_version"] == "v3.0" and not source.lacking
    )


def test_every_frame_of_lerobots_video_is_the_one_of_its_step_in_the_colours_that_lerobot_gives() -> None:
    frames = LeRobotSource(FIXTURE).read("observation.images.top", 0, 100)
    given = of_fixture(fixture.picture).astype(int)
    distance = abs(frames.astype(int)[:, None] - given[None]).mean(axis=(2, 3, 4))
    np.testing.assert_array_equal(distance.argmin(axis=1), np.arange(len(given)))
    assert distance.diagonal().max() < 6
    theirs = np.load(FIXTURE.with_name("lerobot_v3_decoded.npz"))["top"]
    assert (
        abs(frames[::3].astype(int) - theirs).max() <= 2
    )  # other versions of the same libraries round otherwise


def test_both_formats_hold_the_same(arm: Path) -> None:
    source = LeRobotSource(arm)
    np.testing.assert_array_equal(source.episode_ends, np.cumsum(LENGTHS))
    for key in ("observation.state", "action", "gripper", PICTURES):
        np.testing.assert_array_equal(source.read(key, 2, 20), all_of(key)[2:20])
    assert abs(source.read(VIDEO, 0, 21).astype(int) - all_of(VIDEO)).mean() < 4
    assert [source.tasks_of(e) for e in range(3)] == [("push",), ("pull",), ("push",)]
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(source)).read(VIDEO, 5, 9), source.read(VIDEO, 5, 9)
    )


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_parts_of_a_video_are_the_frames_wherever_they_begin(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LeRobotSource(write_folder(tmp_path / "arm", episodes(), codec=codec)).read(VIDEO, 0, 21)
    assert abs(whole.astype(int) - all_of(VIDEO)).mean() < 4
    monkeypatch.setenv("SHORTCUT_POLICY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lerobot_source, "PART_BYTES", 1)
    monkeypatch.setattr(lerobot_source, "MOST_BYTES", 5 * 32 * 32 * 3)
    np.testing.assert_array_equal(LeRobotSource(tmp_path / "arm").read(VIDEO, 0, 21), whole)


@pytest.mark.parametrize("matrix", ["ITU601", "ITU709"])
def test_colours_are_those_that_were_encoded(matrix: str, tmp_path: Path) -> None:
    frames = np.zeros((8, 32, 32, 3), np.uint8) + np.array([200, 30, 90], np.uint8)
    one = {**episode(8), VIDEO: frames}
    source = LeRobotSource(write_folder(tmp_path / "arm", [one], matrix=matrix))
    assert abs(source.read(VIDEO, 0, 8).astype(int) - frames).max() <= 4


def test_frames_are_decoded_once_beside_the_dataset_and_anew_when_it_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHORTCUT_POLICY_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = write_folder(tmp_path / "arm", episodes())
    first = LeRobotSource(root).decoded(VIDEO)
    assert first is not None and first.path.parent == tmp_path / "arm.frames"
    with monkeypatch.context() as patch:
        patch.setattr(lerobot_source, "read_frames", None)
        again = LeRobotSource(root).decoded(VIDEO)
    assert again is not None and again.path == first.path
    os.utime(root / f"videos/{VIDEO}/chunk-000/file-000.mp4", ns=(1, 1))
    changed = LeRobotSource(root).decoded(VIDEO)
    assert changed is not None and changed.path != first.path
    monkeypatch.setattr(lerobot_source.os, "access", lambda *_: False)
    elsewhere = LeRobotSource(root).decoded(PICTURES)
    assert elsewhere is not None and elsewhere.path.parent == tmp_path / "home/shortcut_policy/frames"


def test_decoding_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTCUT_POLICY_CACHE", str(tmp_path / "cache"))
    root = write_folder(tmp_path / "arm", episodes(), "v2.1")
    decode = lerobot_source.read_frames

    def stop_at_the_second(video, *frames):
        if "000001" in video.path.name:
            raise KeyboardInterrupt
        return decode(video, *frames)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lerobot_source, "read_frames", stop_at_the_second)
        LeRobotSource(root).read(VIDEO, 0, 1)
    seen = []
    monkeypatch.setattr(
        lerobot_source, "read_frames", lambda video, *f: seen.append(video.path.name) or decode(video, *f)
    )
    assert abs(LeRobotSource(root).read(VIDEO, 0, 21).astype(int) - all_of(VIDEO)).mean() < 4
    assert seen == ["episode_000001.mp4", "episode_000002.mp4"]


def test_large_images_are_read_from_the_decoded_file_and_not_copied(arm: Path, tmp_path: Path) -> None:
    source = LeRobotSource(arm)
    obs = {"image": Field(VIDEO, (32, 32, 3), normalize="image")}
    sizes = {"horizon": 4, "n_obs_steps": 2, "n_action_steps": 2}
    dataset = DemonstrationDataset(
        source, obs, Field("action", (2,)), **sizes, memory_limit_mb=0.01, cache=tmp_path / "cache"
    )
    assert not dataset.in_memory and not list((tmp_path / "cache").rglob("*.rows"))
    batch = dataset.batch(dataset.train[3:5])
    start = int(dataset.train[3, 0])
    np.testing.assert_array_equal(batch["obs"]["image"][0], source.read(VIDEO, start, start + 2))


class Dark(LeRobotSource):
    """One that reads otherwise than its base has decoded."""

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        return super().read(key, start, stop) // 2


def test_a_subclass_that_reads_otherwise_is_asked_for_its_rows(arm: Path, tmp_path: Path) -> None:
    source = Dark(arm)
    obs = {"image": Field(VIDEO, (32, 32, 3), normalize="image")}
    dataset = DemonstrationDataset(
        source, obs, Field("action", (2,)), 4, 1, 2, memory_limit_mb=0.01, cache=tmp_path / "cache"
    )
    start = int(dataset.train[3, 0])
    image = dataset.batch(dataset.train[3:4])["obs"]["image"][0]
    np.testing.assert_array_equal(image, source.read(VIDEO, start, start + 1))


def test_whole_numbers_and_constants_are_learned_as_they_are(tmp_path: Path) -> None:
    one = episode(12)
    one["action"] = np.tile(np.array([[3, 7]]), (12, 1)) + np.arange(12)[:, None] * [1, 0]
    del one[VIDEO], one[PICTURES]
    source = LeRobotSource(write_folder(tmp_path / "arm", [one]))
    assert source.dtypes["action"] == np.int64
    dataset = DemonstrationDataset(
        source, {"state": Field("observation.state", (3,))}, Field("action", (2,)), 4, 1, 2
    )
    normalizer = dataset.fit_normalizer()
    actions = dataset[0]["action"]
    scaled = normalizer.normalize("action", actions)
    assert scaled[:, 1].abs().max() == 0 and scaled[-1, 0] > scaled[0, 0]
    np.testing.assert_allclose(normalizer.unnormalize("action", scaled), actions, rtol=1e-6)


def test_episodes_are_told_apart_where_meta_does_not_list_them(arm: Path, tmp_path: Path, capsys) -> None:
    root = copy_of(arm, tmp_path)
    if (root / "meta/episodes.jsonl").exists():
        (root / "meta/episodes.jsonl").unlink()
    else:
        (root / "meta/episodes/chunk-000/file-000.parquet").unlink()
    source = LeRobotSource(root)
    assert "episode_index (the recording has to end with finalize()" in capsys.readouterr().err
    np.testing.assert_array_equal(source.episode_ends, np.cumsum(LENGTHS))
    assert abs(source.read(VIDEO, 0, 21).astype(int) - all_of(VIDEO)).mean() < 4


def test_more_frames_than_steps_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = write_folder(tmp_path / "arm", episodes(), "v2.1")
    replace_video(root, pictures(9, 2))
    assert len(LeRobotSource(root).read(VIDEO, 0, 21)) == 21
    assert "episode_000002.mp4: 2 frames more than its episodes have steps" in capsys.readouterr().err


@pytest.mark.parametrize(("version", "at"), [("v3.0", 0), ("v3.0", 1), ("v3.0", 3), ("v2.1", 3)])
@pytest.mark.parametrize("counted", [True, False])
def test_episodes_without_steps_are_left_out_and_said(
    version: str, at: int, counted: bool, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """The frames of the others are where they were; the second of the empty one may be the video's end."""
    written = episodes()
    if version == "v3.0":
        written.insert(at, {key: values[:0] for key, values in written[0].items()})
    root = write_folder(tmp_path / "arm", written, version)
    if version == "v2.1":  # without a table and a video
        with (root / "meta/episodes.jsonl").open("a") as lines:
            lines.write(json.dumps({"episode_index": at, "length": 0, "tasks": []}) + "\n")
    change_info(root, total_episodes=4 if counted else 3)
    capsys.readouterr()
    source = LeRobotSource(root)
    assert capsys.readouterr().err == f"{root}: episode {at} has no steps, and is left out\n"
    np.testing.assert_array_equal(source.episode_ends, np.cumsum(LENGTHS))
    assert abs(source.read(VIDEO, 0, 21).astype(int) - all_of(VIDEO)).mean() < 4
    change_info(root, total_episodes=5)
    with pytest.raises(InputError, match=r"total_episodes=5, but the tables hold 3"):
        LeRobotSource(root)


def move_starts(root: Path, steps: list[float]) -> None:
    """Let ``meta/`` say that the episodes of a video begin so many steps later than they do."""
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    rows = parquet.read_table(path).to_pylist()
    for row, later in zip(rows, steps, strict=True):
        row[f"videos/{VIDEO}/from_timestamp"] += later / FPS
    parquet.write_table(pa.Table.from_pylist(rows), path)


@pytest.mark.parametrize("steps", [[0, 0.3, 0.6], [0, -0.4, -0.8], [0.2, 0.2, 0.2]])
def test_starts_that_drift_away_do_not_move_the_frames(steps: list[float], tmp_path: Path, capsys) -> None:
    """LeRobot adds up rounded lengths of episodes."""
    expected = LeRobotSource(write_folder(tmp_path / "exact", episodes())).read(VIDEO, 0, 21)
    root = write_folder(tmp_path / "arm", episodes())
    move_starts(root, steps)
    np.testing.assert_array_equal(LeRobotSource(root).read(VIDEO, 0, 21), expected)
    assert f"up to {max(map(abs, steps)):.2g} steps away from where meta/ says" in capsys.readouterr().err


@pytest.mark.parametrize("steps", [[0, 1, 1], [0, 0, 0.7]])
def test_a_start_that_jumps_may_stand_for_a_lost_frame(steps: list[float], tmp_path: Path) -> None:
    root = write_folder(tmp_path / "arm", episodes())
    move_starts(root, steps)
    with pytest.raises(InputError, match=r"ends 1 frames before episode|has no frame at"):
        LeRobotSource(root).read(VIDEO, 0, 21)


def test_depth_and_text_are_lacking_and_a_task_that_asks_for_them_is_told(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "arm", episodes())
    described = json.loads((root / "meta/info.json").read_text())["features"]
    described[VIDEO]["info"] = {"is_depth_map": True}
    change_info(
        root,
        features=described
        | {"note": {"dtype": "string", "shape": [1]}, "gone": {"dtype": "float32", "shape": [1]}},
    )
    source = LeRobotSource(root)
    for key, sentence in ((VIDEO, "holds depth"), ("note", "holds string"), ("gone", "no such column")):
        assert key not in source.keys
        with pytest.raises(InputError, match=sentence):
            Field(key, (1,)).check(source)


def test_a_dataset_of_the_hub_is_fetched_and_without_a_network_that_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def fetch(name: str, **settings: object) -> str:
        asked.append((name, settings["revision"], settings["repo_type"]))
        return str(FIXTURE)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    source = LeRobotSource("hf://somebody/squares@v3.0")
    assert asked == [("somebody/squares", "v3.0", "dataset")] and source.path == "hf://somebody/squares@v3.0"

    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("no")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(
        InputError, match="hf://a/b cannot be fetched: the hub cannot be reached, and this machine"
    ):
        LeRobotSource("hf://a/b")
    assert hub.is_remote("hf://a/b")


@pytest.mark.slow
def test_a_policy_learns_from_a_camera_of_a_lerobot_dataset(give, tmp_path: Path, monkeypatch) -> None:
    from shortcut_policy import load_policy

    monkeypatch.chdir(tmp_path)
    give(
        cli.train,
        "task=lerobot_image",
        f"task.source.path={FIXTURE}",
        "task.obs.image.key=observation.images.top",
        "task.obs.image.shape=[32,32,3]",
        "task.obs.state.shape=[3]",
        "task.action.shape=[2]",
        "task.horizon=8",
        "task.n_action_steps=4",
        "encoder.crop=null",
        "backbone.down_dims=[16,32]",
        "backbone.embedding_dim=16",
        "trainer.max_steps=4",
        "trainer.batch_size=8",
        "trainer.warmup_steps=1",
        "trainer.precision=fp32",
        "data.val_fraction=0.3",
        "cpu=true",
        "output=run",
    )
    policy = load_policy(tmp_path / "run")
    obs = {
        "image": fixture.picture(0, 0)[None, None].repeat(2, 1),
        "state": fixture.state(0, 0)[None, None].repeat(2, 1),
    }
    actions = policy.act({name: torch.from_numpy(value) for name, value in obs.items()})
    assert actions.shape == (1, 4, 2) and actions.isfinite().all()
