"""Pictures that no policy looks at are not drawn, and that changes nothing."""

import errno
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from shortcut_envs.pusht import env as pusht
from shortcut_policy.errors import InputError
from shortcut_policy.rollout.episode import ActionChunkEpisode
from shortcut_policy.rollout.recorder import EpisodeRecorder

N_OBS_STEPS, N_ACTION_STEPS = 2, 8


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each picture of the observation."""
    calls: list[int] = []
    draw = pusht.state_image

    def counted(*given):
        calls.append(1)
        return draw(*given)

    monkeypatch.setattr(pusht, "state_image", counted)
    return calls


def chunks() -> np.ndarray:
    return np.random.default_rng(0).uniform(100, 400, (3, N_ACTION_STEPS, 2)).astype(np.float32)


def make(**settings) -> gymnasium.Env:
    return gymnasium.make("shortcut_envs:shortcut_policy/PushTImage-v0", **settings)


def test_only_what_is_looked_at_is_drawn_and_it_is_the_same(drawn: list[int]):
    episode, plain = ActionChunkEpisode(make(), N_OBS_STEPS, N_ACTION_STEPS), make()
    for seed in (0, 1):
        drawn.clear()
        seen, _ = episode.reset(seed=seed)
        stacked = [seen]
        for chunk in chunks():
            seen, *_ = episode.step(chunk)
            stacked.append(seen)
        assert len(drawn) == 1 + 3 * N_OBS_STEPS
        first, _ = plain.reset(seed=seed)
        frames = [first["image"]] * N_OBS_STEPS
        assert np.array_equal(stacked[0]["image"], np.stack(frames))
        for chunk, found in zip(chunks(), stacked[1:], strict=True):
            frames += [plain.step(action)[0]["image"] for action in chunk]
            assert np.array_equal(found["image"], np.stack(frames[-N_OBS_STEPS:]))


def test_a_film_shows_every_step(drawn: list[int], tmp_path):
    def sight(obs, height):
        return np.broadcast_to(obs["image"].mean(dtype=int).astype(np.uint8), (height, height, 3))

    recorder = EpisodeRecorder(make(render_mode="rgb_array"), tmp_path, [0], [], sight)
    episode = ActionChunkEpisode(recorder, N_OBS_STEPS, N_ACTION_STEPS)
    for seed, pictures in ((0, 1 + N_ACTION_STEPS), (1, 1 + N_OBS_STEPS)):
        drawn.clear()
        episode.reset(seed=seed)
        episode.step(chunks()[0])
        assert len(drawn) == pictures
        recorder.close()
        recorder._writer = None


def test_a_disk_that_fails_at_what_is_left_of_a_film_loses_no_episode(monkeypatch, tmp_path):
    recorder = EpisodeRecorder(make(render_mode="rgb_array", max_steps=8), tmp_path, [0], [])
    episode = ActionChunkEpisode(recorder, N_OBS_STEPS, N_ACTION_STEPS)
    episode.reset(seed=0)

    def broken(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(Path, "unlink", broken)
    info = episode.step(chunks()[0])[4]
    episode.close()
    assert info["finished"] and not info["error"] and (tmp_path / "episode_0.mp4").is_file()


@pytest.mark.parametrize("moment", ["reset", "step", "end"])
def test_a_film_that_cannot_be_written_is_no_failure_of_the_environment(monkeypatch, tmp_path, moment):
    """An episode that a full disk ended would count as one without success."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = EpisodeRecorder(make(render_mode="rgb_array", max_steps=8), tmp_path, [0], [])
    episode = ActionChunkEpisode(recorder, N_OBS_STEPS, N_ACTION_STEPS)
    if moment == "reset":
        monkeypatch.setattr("shortcut_policy.rollout.recorder.open_video", full)
    else:
        episode.reset(seed=0)
        monkeypatch.setattr(recorder._writer, "append_data" if moment == "step" else "close", full)
    with pytest.raises(
        InputError, match=r"films and paths cannot be written to .* \(.*No space left on device\)"
    ):
        episode.reset(seed=0) if moment == "reset" else episode.step(chunks()[0])
    episode.close()
    assert list(tmp_path.iterdir()) == []
