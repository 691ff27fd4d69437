"""Push-T for a person to record in: without a page, or behind one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import shortcut_envs  # noqa: F401
from shortcut_policy.data import EpisodeWriter
from shortcut_policy.recording.controls import control_of
from shortcut_policy.recording.rows import PlainRows
from shortcut_policy.recording.session import Session
from tests.browser import browser_page  # noqa: F401

MakeSession = Callable[..., Session]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "mine.zarr"


@pytest.fixture
def make_session(store: Path) -> Iterator[MakeSession]:
    """Makes the session of Push-T that writes to `store`."""
    opened: list[Any] = []

    def make(max_steps: int = 300, **options: Any) -> Session:
        env = gymnasium.make(
            "shortcut_envs:shortcut_policy/PushTKeypoints-v0",
            render_mode="rgb_array",
            render_size=64,
            max_steps=max_steps,
        )
        writer = EpisodeWriter(store)
        opened.append(writer)
        return Session(env, writer, control_of(env), PlainRows(env), **options)

    yield make
    for one in opened:
        one.close()
