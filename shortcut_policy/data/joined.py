"""Demonstrations of several files as those of one, in the order of the files."""

import hashlib
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.agreement import (
    ENVIRONMENT,
    differences,
    in_words,
    kind_of_array,
    opened,
    same,
)
from shortcut_policy.data.lerobot_recording import TASK
from shortcut_policy.data.minari_recording import LAST
from shortcut_policy.data.minari_source import EPISODE, METADATA
from shortcut_policy.data.normalizer import ROUNDING
from shortcut_policy.data.recording import Large, Recording
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError

#: Attributes of a file as a whole: of a format, the arrays or the only JSON that it has of them.
WHOLE = re.compile(r"(data)?/@(?P<name>.+)")
#: What belongs to one demonstration, in a file of that format.
OF_EPISODE = {"robomimic": r"data/([^/]+)(/.*)", "minari": rf"({EPISODE}\d+)(/.*)"}
TASKS, DESCRIBED = "/@tasks", f"/@{METADATA}"
SUMS = {"data/@total", *(f"{DESCRIBED}.{name}" for name in ("total_episodes", "total_steps", "dataset_size"))}
#: Ranges of an action in two files, one so many times as wide as the other, are in other units: degrees.
OTHER_UNITS = 20.0
#: Rows of a file at least in which two values are words for open and shut.
FEWEST_ROWS = 3
#: What the writer of a Minari dataset says for itself.
WRITTEN = ("dataset_id", "jpeg_encoding")


class JoinedSource:
    """The rows of several recordings, one after the other (an `EpisodeSource`); keys are their paths.

    Args:
        parts: Recordings with the same columns, see `join`.
        renumbered: Path -> for each part, what stands for a number in it, as a table (N,).
    """

    def __init__(self, parts: Sequence[Recording], renumbered: Mapping[str, Sequence[np.ndarray]]) -> None:
        self._parts, self._renumbered = parts, renumbered
        self.paths = [part.source.path for part in parts]
        self.path = ", ".join(self.paths)
        self.keys = tuple(sorted(parts[0].columns))
        self.shapes = {path: parts[0].shape(path) for path in self.keys}
        self.dtypes = {path: parts[0].dtype(path) for path in self.keys}
        rows = np.cumsum([0, *(int(part.source.episode_ends[-1]) for part in parts)])
        self._firsts = rows[:-1]
        ends = [first + part.source.episode_ends for first, part in zip(rows[:-1], parts, strict=True)]
        self.episode_ends: np.ndarray = np.concatenate(ends)

    def read(self, key: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of a path, (stop - start, *shape)."""
        found = [np.empty((0, *self.shapes[key]), self.dtypes[key])]
        for number, (part, first) in enumerate(zip(self._parts, self._firsts, strict=True)):
            low, high = max(start - first, 0), min(stop - first, int(part.source.episode_ends[-1]))
            if low < high:
                rows = part.rows(key, int(low), int(high))
                found.append(self._numbered(key, number, rows) if key in self._renumbered else rows)
        return np.concatenate(found)

    def _numbered(self, key: str, part: int, rows: np.ndarray) -> np.ndarray:
        table, numbers = self._renumbered[key][part], rows.astype(np.int64)
        known = (numbers >= 0) & (numbers < len(table))
        known &= table[np.where(known, numbers, 0)] >= 0
        if not known.all():
            raise InputError(
                f"{key} of {self.paths[part]} holds {numbers[~known][0]}, a task that it does not "
                "name; add it to meta/, or drop those episodes"
            )
        return table[numbers].astype(rows.dtype)


def join(parts: Sequence[Recording]) -> Recording:
    """Recordings as one. Demonstrations are numbered anew, and what belongs to one keeps to it.

    What all files say in the same words is said once, and what they say of all demonstrations in different
    ones, such as the seed that they were recorded with, is in `Recording.unheld`.

    Raises:
        InputError: They are not of one format, robot, environment and rate, or have not the same arrays with
            the same shapes and types.
    """
    first = parts[0]
    for other in parts[1:]:
        _check_joins(first, other)
        _say_other_actions(first, other)
    _say_copies(parts)
    names = [f"demo_{number}" for number in range(sum(len(part.names) for part in parts))]
    rest: dict[str, dict[str, Any]] = {}
    lost = [thing for part in parts for thing in part.unheld]
    for name in dict.fromkeys(name for part in parts for name in part.rest):
        rest[name], apart = _Joint(parts, name).join()
        lost += apart
    tables = _task_tables(parts) if TASK in first.columns else {}
    firsts = np.cumsum([0, *(len(part.names) for part in parts)])
    derived = {
        key: partial(_derive, [part.derived[key] for part in parts], firsts)
        for key in first.derived
        if all(key in part.derived for part in parts)
    }
    return Recording(
        JoinedSource(parts, tables),
        first.format,
        {path: path for path in first.columns},
        first.keys,
        names,
        rest,
        list(dict.fromkeys(lost)),
        derived,
        origin=first.origin,
        whence=[part.called(number) for part in parts for number in range(len(part.names))],
    )


def _check_joins(one: Recording, other: Recording) -> None:
    """Raise `InputError` unless two recordings are of one kind; the robot is looked at before its arrays."""
    for look in (_kind, _environment, _arrays):
        for name, first, second in differences(look(one), look(other)):
            raise InputError(
                f"{one.source.path} and {other.source.path} cannot be joined: {name} is {first} in the first "
                f"and {second} in the second; join files of one robot, environment, rate and format with the "
                "same keys"
            )


def _say_other_actions(one: Recording, other: Recording) -> None:
    """On stderr, the first action that two files hold in other units, or as other words for open and shut."""
    of_one, of_other = (
        rows.reshape(len(rows), math.prod(rows.shape[1:]))
        for rows in (part.rows(ACTIONS, 0, int(part.source.episode_ends[-1])) for part in (one, other))
    )
    for element, columns in enumerate(zip(of_one.T, of_other.T, strict=True)):
        values = [np.unique(column) for column in columns]
        if not len(values[0]) or not len(values[1]):
            return
        widths = [_width(known) for known in values]
        as_words = len(values[0]) == len(values[1]) == 2 and not np.array_equal(values[0], values[1])
        as_words &= min(len(of_one), len(of_other)) >= FEWEST_ROWS
        if as_words or (min(widths) > 0 and max(widths) > OTHER_UNITS * min(widths)):
            first, second = (f"{known[0]:.4g} to {known[-1]:.4g}" for known in values)
            print(
                f"element {element} of the actions is {first} in {one.source.path} and {second} in "
                f"{other.source.path}: if these are other units, or another convention of a gripper, bring "
                "them to one, as a policy would learn both",
                file=sys.stderr,
            )
            return


def _say_copies(parts: Sequence[Recording]) -> None:
    """On stderr, how many demonstrations of a file are copies of those of an earlier one, in every array."""
    known: dict[bytes, list[tuple[Recording, int]]] = {}
    for part in parts:
        found = []
        for number in range(len(part.names)):
            start, stop = episode_rows(part.source, number)
            played = np.ascontiguousarray(part.rows(ACTIONS, start, stop))
            same_actions = known.setdefault(hashlib.sha256(played.tobytes()).digest(), [])
            found += [(number, one) for one in same_actions if _is_copy(one, (part, number))][:1]
            same_actions.append((part, number))
        if found:
            number, (other, of_other) = found[0]
            print(
                f"{len(found)} of the {len(part.names)} demonstrations of {part.source.path} are copies of "
                f"others in every array, {part.called(number)} of {other.called(of_other)} for one: they "
                "count twice, and may be held out and trained on at once; leave copies out unless that is "
                "meant",
                file=sys.stderr,
            )


def _is_copy(one: tuple[Recording, int], other: tuple[Recording, int]) -> bool:
    """Whether two demonstrations, given with their files, have the same rows."""
    (first, number), (second, of_second) = one, other
    ranges = [episode_rows(first.source, number), episode_rows(second.source, of_second)]
    return all(
        np.array_equal(first.rows(path, *ranges[0]), second.rows(path, *ranges[1]), equal_nan=kind in "fc")
        for path in first.columns
        if (kind := first.dtype(path).kind)
    )


def _width(known: np.ndarray) -> float:
    """The range of sorted numbers; 0 if they are one number but for what float32 cannot hold."""
    low, high = float(known[0]), float(known[-1])
    return high - low if high - low > ROUNDING * max(abs(low), abs(high), 1.0) else 0.0


def _kind(recording: Recording) -> dict[str, Any]:
    """Its format, what a store was before, and whether tasks have words."""
    named = {"the list of tasks": "there"} if _tasks(recording) else {}
    return {"the format": " of ".join(filter(None, (recording.format, recording.origin)))} | named


def _environment(recording: Recording) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for places in recording.rest.values():
        whole = {found["name"]: value for place, value in places.items() if (found := WHOLE.fullmatch(place))}
        about = whole.pop(METADATA, {})
        said |= {name: value for name, value in {**whole, **about}.items() if name in ENVIRONMENT}
    return opened(said)


def _arrays(recording: Recording) -> dict[str, Any]:
    return {
        f"'{path}'": kind_of_array(recording.shape(path), recording.dtype(path)) for path in recording.columns
    }


def _derive(derive: Sequence[Callable[[int], np.ndarray]], firsts: np.ndarray, episode: int) -> np.ndarray:
    part = int(np.searchsorted(firsts, episode, side="right")) - 1
    return derive[part](episode - int(firsts[part]))


def _tasks(part: Recording) -> dict[int, str]:
    places = next((places for places in part.rest.values() if TASKS in places), {})
    return {int(number): task for number, task in places.get(TASKS, {}).items()}


def _all_tasks(parts: Sequence[Recording]) -> list[str]:
    return list(dict.fromkeys(task for part in parts for task in _tasks(part).values()))


def _task_tables(parts: Sequence[Recording]) -> dict[str, Sequence[np.ndarray]]:
    """The same task has one number in all parts."""
    numbers = {task: number for number, task in enumerate(_all_tasks(parts))}
    tables = []
    for part in parts:
        tasks = _tasks(part)
        table = np.full(max(tasks, default=0) + 1, -1)
        for number, task in tasks.items():
            table[number] = numbers[task]
        tables.append(table)
    return {TASK: tables} if numbers else {}


class _Joint:
    """What the parts hold of one format besides rows, put together.

    Args:
        parts: The recordings.
        name: Of the format.
    """

    def __init__(self, parts: Sequence[Recording], name: str) -> None:
        self._parts = parts
        self._rests = [part.rest.get(name, {}) for part in parts]
        self._firsts = np.cumsum([0, *(len(part.names) for part in parts)]).tolist()
        self._name = name

    def join(self) -> tuple[dict[str, Any], list[str]]:
        """Place -> value, and what differs, in words."""
        joined: dict[str, Any] = {}
        whole: list[dict[str, Any]] = []
        for number, rest in enumerate(self._rests):
            whole.append({})
            for place, value in rest.items():
                new = self._of_episode(number, place)
                if place == DESCRIBED:
                    whole[-1] |= {
                        f"{DESCRIBED}.{key}": one for key, one in value.items() if key not in WRITTEN
                    }
                elif new is None:
                    whole[-1][place] = value
                else:
                    joined[new] = self._firsts[number] + value if new.endswith("/@id") else value
        lost: list[str] = []
        for place in dict.fromkeys(place for rest in whole for place in rest):
            values = [rest.get(place) for rest in whole]
            made = self._made(place, values)
            if made is None and any(value is not None for value in values):
                lost.append(self._differs(place, values))
            elif place.startswith(f"{DESCRIBED}."):
                joined.setdefault(DESCRIBED, {})[place.removeprefix(f"{DESCRIBED}.")] = made
            else:
                joined[place] = made
        return joined, lost

    def _of_episode(self, part: int, place: str) -> str | None:
        """The new place of what belongs to one demonstration; None of anything else."""
        found = re.fullmatch(OF_EPISODE[self._name], place) if self._name in OF_EPISODE else None
        if found is None:
            return None
        if self._name == "minari":
            return f"{EPISODE}{self._firsts[part] + int(found[1].removeprefix(EPISODE))}{found[2]}"
        name = self._renamed(part, found[1])
        return None if name is None else f"data/{name}{found[2]}"

    def _renamed(self, part: int, name: str) -> str | None:
        """What a demonstration of a part is called now; None if there is none of this name."""
        names = list(self._parts[part].names)
        return f"demo_{self._firsts[part] + names.index(name)}" if name in names else None

    def _made(self, place: str, values: list[Any]) -> Any:
        """One value of those of all parts; None if there is none."""
        if self._name == "robomimic" and place.startswith("mask/"):
            return self._mask(values)
        if any(value is None for value in values):
            return None
        if place in SUMS:
            counted = all(isinstance(value, Real) for value in values)
            return sum(values) if counted else None
        if place == TASKS:
            return {str(number): task for number, task in enumerate(_all_tasks(self._parts))}
        if place.startswith(LAST):
            return Large(lambda: np.concatenate([_array(value) for value in values]))
        first, *others = (opened({"": _array(value)}) for value in values)
        return values[0] if all(same(first, other) for other in others) else None

    def _mask(self, values: list[Any]) -> np.ndarray | None:
        """Names of demonstrations, as they are called now; None if a mask lists something else."""
        listed: list[str | None] = []
        for number, value in enumerate(values):
            names = [] if value is None else np.asarray(_array(value)).ravel().tolist()
            texts = [
                name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names
            ]
            listed += [self._renamed(number, text) for text in texts]
        return None if None in listed else np.array(listed, dtype="S")

    def _differs(self, place: str, values: list[Any]) -> str:
        what = "attribute" if "/@" in place else "array"
        paths = [Path(part.source.path).name for part in self._parts]
        words = [
            in_words(value) if what == "attribute" or value is None else "another one" for value in values
        ]
        of = " and ".join(f"{word} in {path}" for word, path in zip(words, paths, strict=True))
        return f"{what} {place}, which is {of}"


def _array(value: Any) -> Any:
    return value.read() if isinstance(value, Large) else value
