"""A LeRobot dataset as a `Recording`; `shortcut_policy.data.lerobot_writer` is the way back."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.lerobot_meta import INFO
from shortcut_policy.data.lerobot_source import LeRobotSource
from shortcut_policy.data.recording import (
    OBS,
    Recording,
    check_note,
    check_noted,
    noted_attributes,
    parse_note,
)
from shortcut_policy.data.source import episode_rows

FORMAT = "lerobot"
#: File with the names of what is converted back.
NOTE = "meta/converted.json"
ACTION, OBSERVATION = "action", "observation."
TASK, TIMESTAMP = "task_index", "timestamp"
#: Features with another name in other formats.
PATHS = {ACTION: ACTIONS, "next.reward": "rewards", "next.done": "dones"}
#: Columns that say which row a row is.
COUNTERS = ("index", "frame_index", "episode_index")
#: What ``meta/info.json`` says of the robot, and no row does.
SAID = ("fps", "robot_type")


def read_lerobot(path: Path, alone: bool = True) -> Recording:
    """All that a dataset holds; of videos the frames.

    ``timestamp`` is no column where it is the number of the frame divided by the rate.

    Args:
        alone: It comes back as it was before it became a dataset: rate and tasks that this one was given then
            are left out. Beside others they say what is the same in them, and what is not.

    Raises:
        InputError: See `LeRobotSource`.
    """
    source = LeRobotSource(path)
    file = path / NOTE
    text = file.read_text(encoding="utf-8") if file.is_file() else "{}"
    note = check_note(parse_note(text, str(file)), str(file))
    added = set(note.get("made", ())) if alone else set()
    made = {*COUNTERS, *added} | ({TIMESTAMP} if _is_regular(source) else set())
    columns = {note.get("paths", {}).get(key, path_of(key)): key for key in source.keys if key not in made}
    rest: dict[str, Any] = {}
    if TASK not in added:
        rest = {f"/@{name}": source.attributes.get(name) for name in SAID}
        rest["/@tasks"] = {str(number): task for number, task in source.tasks.items()}
    own = {place: key.replace("/", ".") for place, key in columns.items()}
    if note.get("keys"):
        later = {place: own[place] for place, key in columns.items() if key in note.get("made", ())}
        own = note["keys"] | later
    recording = Recording(
        source,
        FORMAT,
        columns,
        own,
        note.get("names") or [f"demo_{number}" for number in range(len(source.episode_ends))],
        {**({FORMAT: rest} if rest else {}), **noted_attributes(note)},
        list(source.lacking.values()),
        shapes={place: tuple(shape) for place, shape in note.get("shapes", _scalars(columns)).items()},
        channels_first=frozenset(note.get("channels_first", ())),
    )
    return check_noted(recording, str(file))


def is_lerobot(path: Path) -> bool:
    """Whether a path is a LeRobot dataset, or looks like one."""
    return (path / INFO).is_file()


def path_of(feature: str) -> str:
    """Path in a `Recording` of a feature."""
    if feature in PATHS:
        return PATHS[feature]
    return OBS + feature.removeprefix(OBSERVATION) if feature.startswith(OBSERVATION) else feature


def _scalars(columns: Iterable[str]) -> dict[str, list[int]]:
    """Shapes of what is a number a step elsewhere, where LeRobot has lists of one."""
    return {path: [] for path in ("rewards", "dones") if path in columns}


def _is_regular(source: LeRobotSource) -> bool:
    """Whether the time of each step is its number divided by the rate."""
    if TIMESTAMP not in source.keys:
        return True
    for e in range(len(source.episode_ends)):
        start, stop = episode_rows(source, e)
        stamps = source.read(TIMESTAMP, start, stop).reshape(-1)
        if not np.array_equal(stamps, times(stop - start, source.fps)):
            return False
    return True


def times(length: int, fps: float) -> np.ndarray:
    """Seconds (T,) float32 of the steps of an episode."""
    return (np.arange(length) / fps).astype(np.float32)
