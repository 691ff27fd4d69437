"""Images of demonstrations of states: drawn, continued, refused."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shortcut_policy.commands import cli
from shortcut_policy.data import EpisodeSource, EpisodeWriter, ZarrSource
from shortcut_policy.data.render import render
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError

LENGTHS = (4, 3, 5)


class Squares:
    """A renderer whose images are as bright as the state."""

    keys = ("camera_image",)
    #: Episode at which it is stopped.
    stop: int | None = None

    def __init__(self, size: int = 8) -> None:
        self.size = size

    def prepare(self, source: EpisodeSource) -> dict[str, Any]:
        return {"goal": 3}

    def images(self, source: EpisodeSource, episode: int) -> dict[str, np.ndarray]:
        if episode == self.stop:
            raise KeyboardInterrupt
        states = source.read("state", *episode_rows(source, episode))[:, 0]
        return {
            "camera_image": np.tile(states.astype(np.uint8)[:, None, None, None], (self.size, self.size, 3))
        }


SPEC = {"_target_": f"{__name__}.Squares", "size": 8}


@pytest.fixture
def states(tmp_path: Path) -> ZarrSource:
    with EpisodeWriter(tmp_path / "states.zarr") as writer:
        for number, length in enumerate(LENGTHS):
            state = 10.0 * number + np.arange(length)[:, None] + np.zeros(5)
            writer.add_episode({"state": state.astype(np.float32), "action": np.ones((length, 2))})
    return ZarrSource(tmp_path / "states.zarr")


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_store_with_images_holds_all_the_rest_too(states, tmp_path, workers):
    drawn = ZarrSource(render(states, SPEC, tmp_path / "drawn.zarr", workers))
    assert drawn.keys == ("action", "camera_image", "state") and drawn.attributes["goal"] == 3
    assert np.array_equal(drawn.episode_ends, states.episode_ends)
    assert drawn.shapes["camera_image"] == (8, 8, 3) and drawn.dtypes["camera_image"] == np.uint8
    for key in states.keys:
        assert np.array_equal(drawn.read(key, 0, 12), states.read(key, 0, 12))
    assert np.array_equal(drawn.read("camera_image", 0, 12)[:, 3, 4, 1], states.read("state", 0, 12)[:, 0])


def test_work_that_was_stopped_is_continued_and_the_same_to_the_byte(states, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Squares, "stop", 2)
    with pytest.raises(KeyboardInterrupt):
        render(states, SPEC, tmp_path / "stopped.zarr")
    assert len(ZarrSource(tmp_path / "stopped.zarr").episode_ends) == 2
    monkeypatch.setattr(Squares, "stop", 1)  # which is there: it must not be drawn again
    render(states, SPEC, tmp_path / "stopped.zarr")
    assert "3 episodes with images, 1 of them new" in capsys.readouterr().out
    monkeypatch.setattr(Squares, "stop", None)
    render(states, SPEC, tmp_path / "whole.zarr")
    assert files(tmp_path / "stopped.zarr") == files(tmp_path / "whole.zarr")


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed():
    code = (
        "import os, time; from shortcut_policy.data.collect import pool_of; pool = pool_of(1);"
        "print(pool.submit(os.getpid).result(), flush=True); pool.submit(time.sleep, 60); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = Path("/proc", process.stdout.readline().strip())
        assert worker.is_dir()
        process.kill()
    for _ in range(50):
        # A zombie is a process that has ended, and that nobody has asked about.
        if not worker.is_dir() or ") Z " in (worker / "stat").read_text():
            return
        time.sleep(0.1)
    raise AssertionError(f"{worker} lives on")


def test_other_demonstrations_or_sizes_are_not_mixed(states, tmp_path):
    store = render(states, SPEC, tmp_path / "drawn.zarr")
    before = files(store)
    with EpisodeWriter(states.path) as writer:
        writer.add_episode({"state": np.ones((3, 5), np.float32), "action": np.ones((3, 2))})
    for source, spec in ((states, {**SPEC, "size": 9}), (ZarrSource(states.path), SPEC)):
        with pytest.raises(
            InputError, match=r"drawn\.zarr holds other demonstrations, or images .* another way"
        ):
            render(source, spec, store)
    assert files(store) == before


def test_mistakes_are_told_before_anything_is_drawn(states, tmp_path, give, capsys):
    drawn = ZarrSource(render(states, SPEC, tmp_path / "drawn.zarr"))
    with pytest.raises(InputError, match=r"drawn\.zarr holds camera_image already"):
        render(drawn, SPEC, tmp_path / "again.zarr")
    with pytest.raises(InputError, match=r"output=.*x\.hdf5 must be a zarr store, such as .*x\.zarr"):
        render(states, SPEC, tmp_path / "x.hdf5")
    for overrides, sentence in (
        (["cameras=[agentview]"], "cameras=['agentview']: Push-T has one view only"),
        (["cameras=agentview"], "cameras=agentview must be a list of texts"),
        (["size=0"], "size=0 must be a whole number"),
        (["+task.source.path=x"], "shortcut_policy.data.bundled"),
    ):
        with pytest.raises(SystemExit):
            give(cli.render, "task=pusht", f"output={tmp_path / 'p.zarr'}", *overrides)
        assert sentence in capsys.readouterr().err
    other = tmp_path / "other.zarr"
    with EpisodeWriter(other) as writer:
        writer.add_episode({"force": np.ones((3, 5)), "action": np.ones((3, 2))})
    with pytest.raises(SystemExit):
        give(cli.render, "task=pusht_human", f"task.source.path={other}", f"output={tmp_path / 'p.zarr'}")
    assert "is neither of Push-T (a key 'state' of 5 numbers) nor a robomimic file" in capsys.readouterr().err
    assert not (tmp_path / "p.zarr").exists()


def test_the_command_draws_with_a_renderer_of_one_s_own(states, tmp_path, give):
    give(
        cli.render,
        "task=pusht_human",
        f"task.source.path={states.path}",
        f"output={tmp_path / 'own.zarr'}",
        f"renderer={json.dumps(SPEC).replace(chr(34), '')}",
    )
    assert ZarrSource(tmp_path / "own.zarr").shapes["camera_image"] == (8, 8, 3)
