"""The picture, the video and the table of a store, through the script that users call."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from omegaconf import OmegaConf

from shortcut_policy.commands.view import run
from shortcut_policy.data import EpisodeWriter
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


def test_numbers_alone_have_no_video(tmp_path: Path) -> None:
    show(store(tmp_path / "demos.zarr", action=(7,), pose=(4, 4)), [0, 1])
    assert {p.name for p in tmp_path.iterdir()} == {"demos.zarr", "demos.png"}


def test_table_alone(tmp_path: Path) -> None:
    show(store(tmp_path / "demos.zarr", action=(2,)), [])
    assert {p.name for p in tmp_path.iterdir()} == {"demos.zarr"}


def test_one_episode_needs_no_list(tmp_path: Path) -> None:
    show(store(tmp_path / "demos.zarr", action=(7,)), 1)
    assert (tmp_path / "demos.png").is_file()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *[({"episodes": [wrong]}, f"episodes: {wrong} is not one of 0 to 2 of") for wrong in (3, "a", 0.5)],
        ({"episodes": "all"}, "episodes: all is not one of 0 to 2 of"),
        ({"episodes": None}, "episodes: None is not one of 0 to 2 of"),
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
