"""Demonstrations on their way from one file format to another: rows, and all that is no row."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.source import EpisodeSource, episode_rows
from shortcut_policy.errors import InputError
from shortcut_policy.settings import parse

#: Group of the observations in a path.
OBS = "obs/"
#: Keys of a store, with one number a step, that say what came of it, when it was, or who acted: no robot sees
#: them, and LeRobot's policies would take every observation that a dataset holds.
NOT_SEEN = {"reward", "rewards", "done", "dones", "success", "intervention", "timestamp"}
NOT_SEEN |= {"terminated", "terminations", "truncated", "truncations"}
#: Arrays of more bytes are stored as arrays, smaller ones with the attributes.
SMALL = 1024
#: What a list of lost things has at most in one sentence.
LISTED = 12
#: Format whose attributes go into notes.
STORE = "zarr"
#: Settings and numbers that any format states in its own way.
STATED = re.compile(r"data/@total|data/[^/]*/@num_samples")


@dataclass(frozen=True)
class Large:
    """An array that is read when it is written.

    Attributes:
        read: Gives it.
    """

    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Recording:
    """Demonstrations of any format, as `shortcut_policy.data.convert` hands them from a reader to a writer.

    A path names an array as a robomimic file does: ``actions``, ``obs/<key>``, and whatever else a step has.

    Attributes:
        source: The rows.
        format: Which format it was read from.
        columns: Path -> key of the source.
        keys: Path -> key in a zarr store.
        names: Of the episodes.
        rest: Format -> place in a file of that format -> value: what is no row of a step. A place is the path
            of an array, or ``<path>/@<attribute>``; a value is an array, `Large`, text, a number or JSON.
        unheld: What the reader found and cannot hand on, in words.
        derived: Key in a zarr store -> rows of an episode, of what is computed from the columns.
        shapes: Path -> shape of a step, where it is another than the source's.
        channels_first: Paths of images that the source has with their channels last.
        origin: Format that a store was converted from, whose paths and names it has.
        whence: What errors call each episode; its name, and the source, if empty.
    """

    source: EpisodeSource
    format: str
    columns: Mapping[str, str]
    keys: Mapping[str, str]
    names: Sequence[str]
    rest: Mapping[str, Mapping[str, Any]]
    unheld: Sequence[str] = ()
    derived: Mapping[str, Callable[[int], np.ndarray]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    channels_first: frozenset[str] = frozenset()
    origin: str = ""
    whence: Sequence[str] = ()

    @property
    def lengths(self) -> list[int]:
        """Steps of each episode."""
        return [int(n) for n in np.diff(self.source.episode_ends, prepend=0)]

    def shape(self, path: str) -> tuple[int, ...]:
        """Shape of a step."""
        return self.shapes.get(path, self.source.shapes[self.columns[path]])

    def dtype(self, path: str) -> np.dtype:
        """Type as it is stored."""
        return self.source.dtypes[self.columns[path]]

    def arrays(self, episode: int) -> dict[str, np.ndarray]:
        """Path -> (T, ...), of one episode.

        Raises:
            InputError: An action is not finite.
        """
        start, stop = episode_rows(self.source, episode)
        arrays = {path: self.rows(path, start, stop) for path in self.columns}
        bad = ~np.isfinite(arrays[ACTIONS])
        if bad.any():
            step = int(np.argwhere(bad)[0][0])
            raise InputError(
                f"action {step} of {self.called(episode)} is not a finite number; drop or repair that episode"
            )
        return arrays

    def rows(self, path: str, start: int, stop: int) -> np.ndarray:
        """Rows ``start`` to ``stop`` of an array, (stop - start, *shape)."""
        rows = self.source.read(self.columns[path], start, stop)
        rows = np.moveaxis(rows, -1, 1) if path in self.channels_first else rows
        return rows.reshape(stop - start, *self.shape(path))

    def called(self, episode: int) -> str:
        """An episode, for errors."""
        return self.whence[episode] if self.whence else f"{self.names[episode]} of {self.source.path}"

    def episodes(self) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        """Name and arrays of every episode, with a bar that shows how far it is."""
        for number, name in enumerate(tqdm(self.names, unit="episode")):
            yield name, self.arrays(number)

    def check_actions(self) -> None:
        """Raise `InputError` unless there are actions, a list of numbers a step."""
        if ACTIONS not in self.columns:
            raise InputError(f"{self.source.path} has no actions; it holds {', '.join(self.source.keys)}")
        shape, kind = self.shape(ACTIONS), self.dtype(ACTIONS).kind
        if len(shape) != 1 or kind not in "iuf":
            raise InputError(
                f"the actions of {self.source.path} are {self.dtype(ACTIONS)} of shape {list(shape)} per "
                "step, but a robot's actions are a list of numbers: choices out of a set are not converted"
            )

    def note(self) -> dict[str, Any]:
        """What brings back names that the target writes in another way, and what only a store says."""
        said = self.rest.get(STORE, {})
        return {
            "format": self.format,
            "names": list(self.names),
            "keys": dict(self.keys),
            "attributes": {place[2:]: value for place, value in said.items() if is_root(place)},
        }


def foreign(recording: Recording, target: str) -> list[str]:
    """What is no row of a step and has no place in a format that keeps foreign things in its note alone."""
    things = [
        place
        for name, places in recording.rest.items()
        if name != target
        for place in places
        if not STATED.fullmatch(place) and not (name == STORE and is_root(place))
    ]
    counted: dict[str, int] = {}
    for place in things:
        pattern = re.sub(r"(demo|episode)_\d+", r"\1_*", place)
        counted[pattern] = counted.get(pattern, 0) + 1
    return [
        f"{'attribute' if '/@' in pattern else 'array'} {pattern}"
        + (f" ({count} of them)" if count > 1 else "")
        for pattern, count in counted.items()
    ]


def is_root(place: str) -> bool:
    """Whether a place is an attribute of a store as a whole: JSON, which a note can hold."""
    return place.startswith("/@")


def noted_attributes(note: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Attributes of the store that a dataset was converted from, for `Recording.rest`."""
    attributes = note.get("attributes", {})
    return {STORE: {f"/@{name}": value for name, value in attributes.items()}} if attributes else {}


def one_sentence(things: Sequence[str]) -> str:
    """The first of a list of things, and how many more there are."""
    more = f" and {len(things) - LISTED} more" if len(things) > LISTED else ""
    return "; ".join(things[:LISTED]) + more


def encode(rest: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Large]]:
    """The rest as plain JSON, and the arrays that are too large for it; see `decode`."""
    small: dict[str, Any] = {}
    large: dict[str, Large] = {}
    for place, value in rest.items():
        if isinstance(value, Large):
            large[place] = value
        elif isinstance(value, np.ndarray | np.generic):
            small[place] = _array_as_json(np.asarray(value))
        elif isinstance(value, dict | list) or value is None:
            small[place] = {"json": value}
        else:
            small[place] = value
    return small, large


def decode(small: Mapping[str, Any]) -> dict[str, Any]:
    """The rest from what `encode` made of it: the same values and types, bit for bit."""
    return {
        place: _value_of_json(value) if isinstance(value, dict) else value for place, value in small.items()
    }


def plain_value(value: Any) -> Any:
    """An attribute of an HDF5 file as Python's text or number, if writing that gives the same type again."""
    if isinstance(value, np.bool_ | np.int64):
        return value.item()
    return value.item() if isinstance(value, np.float64) and np.isfinite(value) else value


@dataclass(frozen=True)
class _Note:
    """What an earlier conversion may have left, see `Recording.note` and the writers."""

    format: str = ""
    names: Sequence[str] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    channels_first: Sequence[str] = ()
    made: Sequence[str] = ()


def check_note(values: Any, where: str) -> dict[str, Any]:
    """What an earlier conversion left; `InputError` if somebody changed it."""
    try:
        parse(_Note, values, "it")
    except InputError as error:
        raise InputError(
            f"{where}, which a conversion wrote, cannot be read ({error}); convert again, or remove it"
        ) from error
    return dict(values)


def check_noted(recording: Recording, where: str) -> Recording:
    """Raise `InputError` unless what a conversion noted fits the rows; somebody may have changed them."""
    sizes = all(
        np.prod(recording.shape(path)) == np.prod(recording.source.shapes[key])
        for path, key in recording.columns.items()
    )
    known = recording.columns.keys() <= recording.keys.keys()
    if len(recording.names) != len(recording.source.episode_ends) or not sizes or not known:
        raise InputError(
            f"{where}, which a conversion wrote, is of other episodes or keys than are there: convert again, "
            "or remove it"
        )
    return recording


def parse_note(text: str, where: str) -> dict[str, Any]:
    """JSON that an earlier conversion left; `InputError` if somebody changed it."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}, which a conversion wrote, cannot be read ({error}); convert again, or remove it"
        ) from error


def _array_as_json(array: np.ndarray) -> dict[str, Any]:
    if array.dtype.kind == "O":
        return {"strings": array.tolist(), "shape": list(array.shape)}
    raw = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": array.dtype.str, "shape": list(array.shape), "base64": raw}


def _value_of_json(value: Mapping[str, Any]) -> Any:
    if "json" in value:
        return value["json"]
    if "strings" in value:
        strings = np.empty(value["shape"], object)
        strings[...] = value["strings"]
        return strings
    dtype = np.dtype(value["dtype"])
    raw = base64.b64decode(value["base64"])
    return np.frombuffer(raw, dtype).reshape(value["shape"])[()] if raw else np.empty(value["shape"], dtype)
