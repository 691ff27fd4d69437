"""The picture, the video and the table of a store, through the script that users call."""

import json
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import zarr
from omegaconf import OmegaConf

from shortcut_policy.commands.view import run
from shortcut_policy.data import EpisodeWriter, ZarrSource, view
from shortcut_policy.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "view.py"
LENGTHS = (12, 9, 15)


def store(path: Path, **shapes: tuple[int, ...]) -> Path:
    """Push-T-like numbers; images are uint8, everything else float32."""
    rng = np.random.default_rng(0)
    with EpisodeWriter(path, attributes={"robot": "arm"}) as writer:
        for length in LENGTHS:
            writer.add_episode(
                {
                    key: rng.integers(0, 256, (length, *shape), np.uint8)
                    if len(shape) == 3
                    else rng.uniform(100, 400, (length, *shape)).astype(np.float32)
                    for key, shape in shapes.items()
                }
            )
    return path


def show(path: Path, episodes: object, fps: object = 10) -> None:
    run(OmegaConf.create({"store": str(path), "episodes": episodes, "output": str(path.parent), "fps": fps}))


def script(folder: Path, *overrides: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def frames(path: Path) -> list[np.ndarray]:
    with imageio.get_reader(path) as video:
        return list(iter(video))


@pytest.mark.slow
def test_push_t_states_are_drawn(tmp_path: Path) -> None:
    """Through the script, as a user does."""
    store(tmp_path / "demos.zarr", action=(2,), state=(5,))
    result = script(tmp_path, "store=demos.zarr", "episodes=[0,2]", "output=shown")
    assert result.returncode == 0, result.stderr
    for part in ("action", "float32", "3 episodes of 9 to 15 steps, 36 in all", "robot: arm"):
        assert part in result.stdout
    assert imageio.imread(tmp_path / "shown/demos.png").std() > 10
    film = frames(tmp_path / "shown/demos.mp4")
    assert len(film) == LENGTHS[0] + LENGTHS[2]
    assert film[0].shape == (256, 256, 3)
    assert all((before != after).any() for before, after in pairwise(film))
    made = {p.name for p in tmp_path.rglob("*") if p.is_file() and "demos.zarr" not in p.parts}
    assert made == {"demos.mp4", "demos.png"}


def test_images_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of odd sides too, which video codecs do not take."""
    show(store(tmp_path / "demos.zarr", action=(3,), camera=(33, 47, 3)), [1])
    film = frames(tmp_path / "demos.mp4")
    assert len(film) == LENGTHS[1]
    np.testing.assert_allclose(film[0].shape, (165, 235, 3), atol=1)
    assert "33 x 47 x 3" in capsys.readouterr().out


def stored(path: Path, **arrays: np.ndarray) -> Path:
    """A store of one episode as others write it, which our writer would refuse in part."""
    group = zarr.create_group(path, zarr_format=2)
    for key, value in arrays.items():
        group.create_array(f"data/{key}", data=value, config={"write_empty_chunks": True})
    group.create_array("meta/episode_ends", data=np.array([len(arrays["action"])]))
    return path


BRIGHTENING = np.linspace(0, 1, 12, dtype=np.float32)[:, None, None, None] * np.ones(
    (1, 17, 28, 3), np.float32
)
BYTES = (255 * BRIGHTENING).astype(np.uint8)


@pytest.mark.parametrize(
    "images",
    [
        BRIGHTENING,
        255 * BRIGHTENING,
        BYTES.astype(np.int64),
        BYTES.transpose(0, 3, 1, 2).copy(),
        BRIGHTENING[..., :1].transpose(0, 3, 1, 2).copy(),
        np.concatenate([BYTES, np.full_like(BYTES[..., :1], 255)], axis=-1),
        np.where(np.arange(17 * 28 * 3).reshape(1, 17, 28, 3) == 0, np.nan, BRIGHTENING),
    ],
    ids=["in 0..1", "in 0..255", "whole numbers", "channels first", "grey", "with transparency", "a NaN"],
)
def test_images_of_other_recorders_are_seen_as_training_sees_them(tmp_path: Path, images: np.ndarray) -> None:
    show(stored(tmp_path / "demos.zarr", action=np.zeros((12, 2)), camera=images), [0])
    film = frames(tmp_path / "demos.mp4")
    assert film[0].shape == (154, 252, 3)  # 17 x 28 nine times as large, and even
    assert np.abs([frame.mean() for frame in film] - BYTES.mean((1, 2, 3))).max() < 6


def test_masks_are_seen_and_points_are_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((12, 16, 32, 1), bool)
    mask[:, 4:] = True
    points = rng.normal(size=(12, 2, 64, 3)).astype(np.float32)
    source = ZarrSource(
        stored(
            tmp_path / "demos.zarr", action=mask[:, 0, 0], mask=mask, points=points, depth=1000 * abs(points)
        )
    )
    seen = view.frames_of(source)
    assert seen.keys() == {"mask"}
    assert seen["mask"](3, 4).shape == (1, 16, 32, 3) and seen["mask"](3, 4).mean() == 255 * 12 / 16


def test_what_has_no_range_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys of no numbers, such as the touch sensors of an arm that has none, and numbers that are none."""
    force = np.ones((12, 2), np.float32)
    force[3, 0], force[5] = np.nan, np.inf
    arrays = {"touch": np.zeros((12, 0)), "cameras": np.zeros((12, 0, 4, 3), np.uint8), "force": force}
    show(stored(tmp_path / "demos.zarr", action=np.zeros((12, 2)), gone=np.full(12, np.nan), **arrays), [0])
    said = capsys.readouterr().out
    assert "force: 3 values are NaN or Inf" in said and "gone: 12 values are NaN or Inf" in said
    (row,) = [line for line in said.splitlines() if "│ force" in line]
    assert [cell.strip() for cell in row.split("│")[-3:-1]] == ["1", "1"]
    assert {p.name for p in tmp_path.iterdir()} == {"demos.zarr", "demos.png"}


def test_numbers_alone_have_no_video(tmp_path: Path) -> None:
    show(store(tmp_path / "demos.zarr", action=(7,), pose=(4, 4)), [0, 1])
    assert {p.name for p in tmp_path.iterdir()} == {"demos.zarr", "demos.png"}


def test_table_alone(tmp_path: Path) -> None:
    show(store(tmp_path / "demos.zarr", action=(2,)), [])
    assert {p.name for p in tmp_path.iterdir()} == {"demos.zarr"}


def test_one_episode_needs_no_list(tmp_path: Path) -> None:
    show(store(tmp_path / "demos.zarr", action=(7,)), 1)
    assert (tmp_path / "demos.png").is_file()


class Counting:
    """A source of an endless drive: its images are made when they are read, and the largest read is kept."""

    def __init__(self, steps: int) -> None:
        self.path, self.keys = "endless.zarr", ("camera", "speed")
        self.shapes = {"camera": (96, 128, 3), "speed": (2,)}
        self.dtypes = {"camera": np.dtype(np.uint8), "speed": np.dtype(np.float64)}
        self.episode_ends, self.attributes = np.array([steps]), {}
        self.largest = self.total = 0

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        values = np.broadcast_to(np.zeros((), self.dtypes[key]), (stop - start, *self.shapes[key])).copy()
        values[:, 0] = np.arange(start, stop).reshape(-1, *[1] * (values.ndim - 2)) % 200
        if key == "speed" and start <= 10_007 < stop:
            values[10_007 - start, 1] = -50
        self.largest, self.total = max(self.largest, values.nbytes), self.total + values.nbytes
        return values


def test_a_store_is_read_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its size: here 740 MB of images in one episode, of which a megabyte is held at a time."""
    monkeypatch.setattr(view, "PIECE_BYTES", 2**20)
    source = Counting(steps=20_011)
    tracemalloc.start()
    table = view.summary(source)
    (frames,) = view.frames_of(source).values()
    view.draw(source, [0], frames, tmp_path / "drive.png")
    seen = sum(int(image[0, 0, 0] == row % 200) for row, image in enumerate(view.one_by_one(frames, 0, 3000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.total > 700e6 and source.largest <= 2**20 and peak < 32 * 2**20
    assert seen == 3000
    assert [list(column.cells) for column in table.columns[3:]] == [["0", "-50"], ["199", "199"]]


def test_curves_of_a_long_episode_keep_their_peaks(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Counting(steps=20_011)
    monkeypatch.setattr(view, "PIECE_BYTES", 2**12)
    steps, values = view.outline(source, "speed", 5, 20_011)
    assert len(steps) == len(values) <= 2 * view.CURVE_PARTS and values.shape[1] == 2
    assert steps[0] == 0 and steps[-1] <= 20_005 and (np.diff(steps) >= 0).all()
    assert (values.min(), values.max()) == (-50, 199)
    assert abs(steps[values[:, 1].argmin()] + 5 - 10_007) < 12
    steps, values = view.outline(source, "speed", 5, 105)
    np.testing.assert_array_equal(values, source.read("speed", 5, 105))
    np.testing.assert_array_equal(steps, np.arange(100))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *[({"episodes": [wrong]}, f"episodes: {wrong} is not one of 0 to 2 of") for wrong in (3, "a", 0.5)],
        ({"episodes": "all"}, "episodes: all is not one of 0 to 2 of"),
        *[({"fps": wrong}, f"fps={wrong} must be a number above 0") for wrong in ("fast", 0, None)],
    ],
)
def test_settings_that_cannot_be_shown(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        show(store(tmp_path / "demos.zarr", action=(2,)), **{"episodes": [0], **settings})


def test_a_mistake_is_one_sentence(tmp_path: Path) -> None:
    result = script(tmp_path, "store=none.zarr")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert result.stderr.startswith("error: none.zarr does not exist; ")


def test_what_a_store_was_recorded_in_takes_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    env_args = json.dumps(
        {"env_name": "Lift", "env_version": "1.5.1", "env_kwargs": {"robots": "Panda"}}, indent=4
    )
    with EpisodeWriter(tmp_path / "drawn.zarr", attributes={"env_args": env_args}) as writer:
        writer.add_episode({"state": np.zeros((4, 3), np.float32)})
    show(tmp_path / "drawn.zarr", episodes=[])
    shown = capsys.readouterr().out
    assert "env_args: Lift, robosuite 1.5.1" in shown and "Panda" not in shown


@pytest.mark.parametrize("kind", ["picture", "html", "rerun"])
def test_only_files_of_this_command_are_replaced(tmp_path: Path, kind: str) -> None:
    if kind == "rerun":
        pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    path = store(tmp_path / "demos.zarr", action=(2,), state=(5,))
    shown = tmp_path / "shown"
    settings = {"store": str(path), "episodes": [0], "format": kind, "output": str(shown), "frames": 2}
    for _ in range(2):
        run(OmegaConf.create(settings))
    files = sorted(shown.iterdir())
    assert [file.suffix for file in files] == {"picture": [".mp4", ".png"], "html": [".html"]}.get(
        kind, [".rrd"]
    )
    for file in files:
        before = file.read_bytes()
        file.write_bytes(b"of somebody else")
        with pytest.raises(
            InputError, match=rf"{file.name} is there, and was not written by this command: move"
        ):
            run(OmegaConf.create(settings))
        assert file.read_bytes() == b"of somebody else"
        file.write_bytes(before)
    assert sorted(shown.iterdir()) == files
