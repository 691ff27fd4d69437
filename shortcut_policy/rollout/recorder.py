"""Videos and paths of chosen episodes, written while they are played."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import gymnasium
import imageio.v2 as imageio
import numpy as np

from shortcut_policy.errors import InputError, first_line
from shortcut_policy.paths import atomic_path, check_film

#: Frames a second of environments that do not say.
FPS = 10


class EpisodeRecorder(gymnasium.Wrapper):
    """Writes the frames and paths of the episodes whose seeds were asked for; other episodes cost nothing.

    It goes directly around the environment, below the wrapper that plays chunks, and so sees every step.
    ``episode_<seed>.mp4`` holds the frames; ``episode_<seed>.npz`` the paths ``agent`` (T, 2) and ``block``
    (T, 2) in pixels and the images ``first`` and ``last``. Both appear when the episode is over, complete.

    Args:
        env: Made with ``render_mode="rgb_array"``; for paths, ``info`` carries ``state`` and ``block_pose``.
        folder: Where the files go.
        video_seeds: Episodes to film.
        path_seeds: Episodes whose paths to keep.
        sight: Draws what the policy sees, given an observation and a height; films show it beside the scene.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        folder: Path,
        video_seeds: Collection[int],
        path_seeds: Collection[int],
        sight: Callable[[Mapping[str, Any], int], np.ndarray] | None = None,
    ) -> None:
        super().__init__(env)
        self._sight = sight
        self._folder, self._video_seeds, self._path_seeds = folder, video_seeds, path_seeds
        self._writer: Any = None
        self._size: tuple[int, int] | None = None
        self._poses: list[np.ndarray] = []

    def filming(self) -> bool:
        """Whether every step of this episode is shown."""
        return self._writer is not None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and its recording if ``seed`` is one of those chosen."""
        obs, info = self.env.reset(seed=seed, options=options)
        self._seed, self._poses = seed, [_poses(info)] if seed in self._path_seeds else []
        if self._poses:
            self._first = rendered(self.env)
        if seed in self._video_seeds:
            with _written(self._folder):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._writer = open_video(self._film(".part"), frames_a_second(self.env))
            self._size = None
            self._append(obs)
        return obs, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and record."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if self._writer:
            self._append(obs)
        if self._poses:
            self._poses.append(_poses(info))
        if terminated or truncated:
            self._finish()
        return obs, reward, terminated, truncated, info

    def end_recording(self, failed: bool) -> None:
        """Complete the files of an episode that is over without the environment's word: cut, or failed.

        Args:
            failed: The environment raised something, and is not asked to draw any more.
        """
        self._finish(self._first if failed and self._poses else None)

    def close(self) -> None:
        """Drop a film that was cut short."""
        if self._writer:
            with suppress(OSError):
                self._writer.close()
            with suppress(OSError):
                self._film(".part").unlink(missing_ok=True)
        super().close()

    def _append(self, obs: Any) -> None:
        frame = self._frame(obs)
        with _written(self._folder):
            self._writer.append_data(frame)

    def _frame(self, obs: Any) -> np.ndarray:
        scene = rendered(self.env)
        frame = (
            scene if self._sight is None else np.concatenate([scene, self._sight(obs, len(scene))], axis=1)
        )
        self._size = self._size or frame.shape[:2]
        return _fitted(frame, self._size)

    def _finish(self, last: np.ndarray | None = None) -> None:
        if self._writer:
            part = self._film(".part")
            try:
                with _written(self._folder):
                    self._writer.close()
                    check_film(part)
                    os.replace(part, self._film())
            finally:
                self._writer = None
                with suppress(OSError):  # no failure of the environment, which would lose the episode
                    part.unlink(missing_ok=True)
        if self._poses:
            poses, last = np.stack(self._poses), rendered(self.env) if last is None else last
            self._poses = []
            place = self._folder / f"episode_{self._seed}.npz"
            with _written(self._folder), atomic_path(place) as path, path.open("wb") as file:
                np.savez_compressed(file, agent=poses[:, 0], block=poses[:, 1], first=self._first, last=last)

    def _film(self, suffix: str = "") -> Path:
        return self._folder / f"episode_{self._seed}{suffix}.mp4"


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    """Tell a film that cannot be written from a failure of the environment, which loses an episode."""
    try:
        yield
    except OSError as error:  # imageio says by one, in many lines, that ffmpeg has ended
        reason = error.strerror or first_line(error)
        raise InputError(
            f"films and paths cannot be written to {folder} ({reason}): make room or choose "
            "another output, or give videos=0 and plot=false"
        ) from error


def _poses(info: dict[str, Any]) -> np.ndarray:
    return np.stack([info["state"][:2], info["block_pose"][:2]])


def frames_a_second(env: gymnasium.Env) -> float:
    """What an environment says of its rate, or `FPS`."""
    return float(env.metadata.get("render_fps") or FPS)


def rendered(
    env: gymnasium.Env, needed: str = "films need", otherwise: str = ", or give videos=0 and plot=false"
) -> np.ndarray:
    """What an environment draws now, (H, W, 3) uint8; the newest of several frames, floats in 0..1 as bytes.

    Args:
        env: The environment.
        needed: What needs pictures, and
        otherwise: how to do without, for the sentence.

    Raises:
        InputError: It draws nothing, or no picture of colours.
    """
    found: Any = env.render()
    if isinstance(found, list | tuple) and found:
        found = found[-1]
    frame = np.asarray(found)
    if frame.ndim != 3 or frame.shape[-1] not in (3, 4) or frame.dtype.kind not in "uif":
        seen = (
            f"an array {list(frame.shape)} of {frame.dtype}"
            if isinstance(found, np.ndarray)
            else f"{found!r:.60}"
        )
        raise InputError(
            f"{env.unwrapped} renders {seen}, and {needed} pictures (H, W, 3): let render() with "
            f"render_mode='rgb_array' return them{otherwise}"
        )
    if frame.dtype.kind == "f" and frame.max(initial=0) <= 1:
        frame = 255 * frame
    return np.clip(frame[..., :3], 0, 255).astype(np.uint8)


def _fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame in the size of the first, which all of a film have: cut, or filled with black, and even."""
    height, width = (side + side % 2 for side in size)
    cut = frame[:height, :width]
    return np.pad(cut, ((0, height - len(cut)), (0, width - cut.shape[1]), (0, 0)))


def open_video(path: Path, fps: float) -> Any:
    """An H.264 writer that browsers and phones can play; frames are (H, W, 3) uint8 with even sides."""
    return imageio.get_writer(path, fps=fps, codec="libx264", quality=7, macro_block_size=2)


def tile_videos(paths: Sequence[Path], output: Path, columns: int = 4, border: int = 4) -> None:
    """Play videos of one size side by side in one; those that end early hold their last frame.

    Frames are streamed, so memory does not grow with the length.
    """
    readers: list[Any] = [imageio.get_reader(path) for path in paths]
    with (
        atomic_path(output, ".tmp.mp4") as part,
        open_video(part, readers[0].get_meta_data()["fps"]) as writer,
    ):
        streams = [iter(reader) for reader in readers]
        frames = [next(stream) for stream in streams]
        running = True
        while running:
            writer.append_data(_grid(frames, columns, border))
            following = [next(stream, None) for stream in streams]
            running = any(frame is not None for frame in following)
            frames = [frame if new is None else new for frame, new in zip(frames, following, strict=True)]
        writer.close()
        check_film(part)
    for reader in readers:
        reader.close()


def _grid(frames: Sequence[np.ndarray], columns: int, border: int) -> np.ndarray:
    padded = [np.pad(f, ((border, border), (border, border), (0, 0)), constant_values=255) for f in frames]
    blank = np.full_like(padded[0], 255)
    padded += [blank] * (-len(padded) % columns)
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return np.concatenate(rows, axis=0)
