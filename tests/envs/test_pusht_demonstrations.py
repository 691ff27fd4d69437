"""Images of Push-T's demonstrations are those that its environment shows."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from shortcut_envs.pusht import demonstrations
from shortcut_envs.pusht.demonstrations import PushTRenderer, rendered
from shortcut_envs.pusht.env import PushTEnv
from shortcut_policy.data import EpisodeWriter, Field, ZarrSource
from shortcut_policy.errors import InputError
from shortcut_policy.locks import FileLock


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """States of played episodes, and what the environment showed in them."""
    path = tmp_path_factory.mktemp("played") / "played.zarr"
    env, images = PushTEnv("image"), []
    with EpisodeWriter(path) as writer:
        for seed in range(4):
            random = np.random.default_rng(seed)
            observation, info = env.reset(seed=seed)
            states = []
            for _ in range(40):
                states.append(info["state"])
                images.append(observation["image"])
                # Round about the block, to touch it from all sides.
                target = info["block_pose"][:2] + random.normal(0, 60, 2)
                observation, _, _, _, info = env.step(target.clip(0, 512))
            writer.add_episode({"state": np.array(states, np.float32), "action": np.zeros((40, 2))})
    return path, np.array(images)


def test_images_are_those_of_play_to_the_bit(played, tmp_path):
    path, images = played
    source = rendered(path=path, cache=tmp_path)
    assert np.array_equal(source.read("img", 0, 160), images)
    Field("img", (96, 96, 3), normalize="image").check(source)
    assert np.abs(np.diff(images.astype(int), axis=0)).max() > 50


def test_they_are_drawn_once(played, tmp_path, monkeypatch):
    path, _ = played
    first = rendered(path=path, size=16, cache=tmp_path)

    def draw_again(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr(demonstrations, "_draw", draw_again)
    monkeypatch.setenv("SHORTCUT_POLICY_CACHE", str(tmp_path))
    left = Path(first.path).with_suffix(".lock")
    left.touch()
    assert rendered(path=path, size=16).path == first.path
    assert not left.exists(), "whoever had it could not remove it"
    with pytest.raises(AssertionError):
        rendered(path=path, size=17)


def test_a_second_process_waits_for_the_first(played, tmp_path, capsys):
    path, _ = played
    store = Path(rendered(path=path, size=16, cache=tmp_path).path)
    away = store.rename(tmp_path / "away.zarr")
    found: list[ZarrSource] = []
    with FileLock(store.with_suffix(".lock"), "busy", "nothing"):
        second = threading.Thread(target=lambda: found.append(rendered(path=path, size=16, cache=tmp_path)))
        second.start()
        said, deadline = "", time.monotonic() + 30
        while "another process is drawing the images" not in said and time.monotonic() < deadline:
            second.join(0.1)
            said += capsys.readouterr().err
        assert second.is_alive() and not found
        away.rename(store)
    second.join(30)
    assert [one.path for one in found] == [str(store)]
    assert "another process is drawing the images" in said


def test_what_a_stopped_process_left_is_continued(played, tmp_path, monkeypatch, capsys):
    path, _ = played
    images = PushTRenderer.images

    def stop(self: PushTRenderer, source: ZarrSource, episode: int) -> dict[str, np.ndarray]:
        if episode == 3:
            raise KeyboardInterrupt
        return images(self, source, episode)

    monkeypatch.setattr(PushTRenderer, "images", stop)
    with pytest.raises(KeyboardInterrupt):
        rendered(path=path, size=16, cache=tmp_path)
    monkeypatch.setattr(PushTRenderer, "images", images)
    assert len(rendered(path=path, size=16, cache=tmp_path).episode_ends) == 4
    assert "4 episodes with images, 1 of them new" in capsys.readouterr().out
    assert len(list(tmp_path.glob("*.zarr*"))) == 1


def test_mistakes_get_a_sentence(tmp_path):
    with pytest.raises(InputError, match="either the name of bundled demonstrations or the path"):
        rendered()
    with pytest.raises(InputError, match="no bundled demonstrations 'push'"):
        rendered("push")
    with EpisodeWriter(tmp_path / "other.zarr") as writer:
        writer.add_episode({"force": np.ones((3, 5))})
    with pytest.raises(InputError, match=r"has no key .state. of 5 numbers .* it holds force"):
        rendered(path=tmp_path / "other.zarr", cache=tmp_path)
