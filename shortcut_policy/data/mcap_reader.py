"""Recordings of robots in MCAP files, messages of ROS 2, as episodes at one rate.

A file is gone through twice: for the stamps of all messages and the values of those of numbers, and for the
pictures that an episode needs. So no more is held than the numbers of a file and the pictures of an episode.
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt

from shortcut_policy.data.conversion import ROUGH
from shortcut_policy.data.mcap_file import opened, types_of_topics
from shortcut_policy.data.mcap_labels import Labels, places_of, say_clocks
from shortcut_policy.data.resample import SECOND, Rule, Track, in_order, latest, resample, ticks
from shortcut_policy.data.ros_values import IMAGES, holds_quaternion, numbers, parse_path, picture, stamp_of
from shortcut_policy.data.source import MIN_RANGE, expand
from shortcut_policy.errors import InputError
from shortcut_policy.settings import Count, check_fields

if TYPE_CHECKING:
    from mcap.reader import McapReader

Stamp = Literal["header", "log"]
#: Messages of a topic without a picture.
NOTHING = np.empty((0, 0))


@dataclass(frozen=True)
class TopicKey:
    """Where a key of the store comes from.

    Attributes:
        topic: Such as ``/joint_states``.
        field: Path of the numbers in a message, such as ``position[0:6]`` or ``pose.position``; none for a
            picture.
        joints: Names of the numbers to take, in this order, of messages that name theirs; those of other
            joints are passed over. If None, the numbers of all messages, which must be of the same joints.
        resample: How a tick gets its value, see `shortcut_policy.data.resample`.
        stamp: Which time counts: that of the message's header, or that at which it was logged. If None, what
            the recording says.
        max_gap: Ticks that a value may be old; any number for 0, and with ``latest`` it then holds from one
            episode of a file into the next. If None, what the recording says.
        size: Height and width that pictures are brought to.
    """

    topic: str
    field: str | None = None
    joints: list[str] | None = None
    resample: Rule = "latest"
    stamp: Stamp | None = None
    max_gap: Annotated[float, Ge(0)] | None = None
    size: tuple[Count, Count] | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        steps = parse_path(self.field) if self.field is not None else [("", 0)]
        if self.joints is not None and (steps[-1][1] is not None or not self.joints):
            raise InputError(
                f"joints: they are picked by name out of a whole list, such as field: position, and field is "
                f"{self.field or 'not given'}"
            )
        if self.joints is not None and len(set(self.joints)) < len(self.joints):
            raise InputError(f"joints: {', '.join(self.joints)} names one of them twice")


@dataclass(frozen=True)
class Recording:
    """What to take out of MCAP files.

    Attributes:
        rate: Ticks a second.
        keys: Key of the store -> where it comes from.
        stamp: Which time counts, for keys that do not say it.
        max_gap: Ticks that a value may be old, for keys that do not say it; any number for 0.
        split_gap: Seconds without a message of the topics after which another episode begins; a file is one
            if None.
        split_topic: A topic of one number (or ``true``), which is not zero during an episode and has another
            value in the next one; logged times count.
        split_field: Path of that number.
    """

    rate: Annotated[float, Gt(0)]
    keys: Mapping[str, TopicKey]
    stamp: Stamp = "header"
    max_gap: Annotated[float, Ge(0)] = 5.0
    split_gap: Annotated[float, Gt(0)] | None = None
    split_topic: str | None = None
    split_field: str = "data"

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.keys:
            raise InputError("keys: name at least one key, such as state: {topic: /joint_states, field: ...}")
        if self.split_gap is not None and self.split_topic is not None:
            raise InputError("split_gap and split_topic: give one of the two")

    def gap(self, key: str) -> int | None:
        """Nanoseconds that a value of a key may be old; any number if None."""
        own = self.keys[key].max_gap
        gap = self.max_gap if own is None else own
        return round(gap * SECOND / self.rate) or None


@dataclass
class _Key:
    """What the first pass finds of a key, in the order of the log."""

    stamps: list[int] = field(default_factory=list)
    logged: list[int] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)
    order: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    #: What the numbers are called, where messages say it, as those of joints do.
    labels: Labels = field(default_factory=Labels)
    #: Whether it was said that float32 does not hold the numbers.
    rounded: bool = False


def read_episodes(
    path: str | os.PathLike[str], recording: Recording, labels: dict[str, Labels] | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """The episodes of a file, for `EpisodeWriter.add_episode`: key -> (T, *shape).

    Numbers become float32, pictures (T, H, W, C) uint8. Arrays are new ones.

    Args:
        path: Of the file; ``~`` and environment variables are expanded.
        recording: What to take out of it.
        labels: What the numbers of each key are called by the files before, to which this one's are added;
            one mapping for all files of a store.

    Raises:
        InputError: The file cannot be read; a topic or field is missing or has an encoding that is not
            supported; stamps run backwards; a gap is too long; a number is not finite, or of other joints
            than those before.
    """
    labels = {} if labels is None else labels
    with opened(expand(path)) as reader:
        kinds = _check_topics(reader, expand(path), recording)
        found = _first_pass(reader, recording, kinds, labels)
        if recording.split_topic is not None:
            spans = _marked(reader, recording.split_topic, recording.split_field)
        else:
            spans = _spans(found, recording.split_gap)
        for start, stop in spans:
            tracks = {key: _track(key, found[key], recording, start, stop) for key in recording.keys}
            times = ticks([track for track, _ in tracks.values()], recording.rate)
            episode = {}
            for key, (track, chosen) in tracks.items():
                settings, record = recording.keys[key], found[key]
                if kinds[settings.topic] in IMAGES:
                    wanted = chosen[latest(track, times)]
                    episode[key] = _pictures(reader, settings, kinds, record.logged, wanted)
                else:
                    episode[key] = _numbers(track, record, chosen, times)
            yield episode


def check_file(path: str | os.PathLike[str], recording: Recording) -> None:
    """Raise `InputError` unless a file can be opened and has the topics, without a look at its messages."""
    with opened(expand(path)) as reader:
        _check_topics(reader, expand(path), recording)


def _check_topics(reader: "McapReader", path: Path, recording: Recording) -> dict[str, str]:
    """Topic -> type of its messages, of those that are named."""
    users = {topic.topic: f"key '{key}'" for key, topic in recording.keys.items()}
    if recording.split_topic is not None:
        users.setdefault(recording.split_topic, "split_topic")
    kinds = types_of_topics(reader, path, users)
    for key, settings in recording.keys.items():
        kind = kinds[settings.topic]
        if (kind in IMAGES) != (settings.field is None):
            what = (
                "is a picture: leave out field" if kind in IMAGES else "needs field, the path of its numbers"
            )
            raise InputError(f"keys.{key}: {settings.topic} of type {kind} {what}")
        if kind in IMAGES and settings.resample != "latest":
            raise InputError(f"keys.{key}: pictures cannot be interpolated; use resample: latest")
    return kinds


def _first_pass(
    reader: "McapReader", recording: Recording, kinds: Mapping[str, str], labels: dict[str, Labels]
) -> dict[str, _Key]:
    """Stamps of all messages, and the values of those of numbers."""
    found = {key: _Key(labels=labels.setdefault(key, Labels())) for key in recording.keys}
    users: dict[str, list[str]] = {}
    for key, topic in recording.keys.items():
        users.setdefault(topic.topic, []).append(key)
    paths = {key: parse_path(topic.field) for key, topic in recording.keys.items() if topic.field}
    for _, channel, message, decoded in reader.iter_decoded_messages(topics=list(users)):
        for key in users[channel.topic]:
            settings, record = recording.keys[key], found[key]
            value = _value(key, settings, paths[key], decoded, record) if key in paths else None
            if key in paths and value is None:
                continue  # of other joints
            stamp: int | None = message.log_time
            if (settings.stamp or recording.stamp) == "header":
                stamp = stamp_of(decoded)
            if stamp is None:
                raise InputError(
                    f"keys.{key}: messages of {channel.topic} ({kinds[channel.topic]}) have no header; take "
                    "the log's times, with stamp: log"
                )
            record.stamps.append(stamp)
            record.logged.append(message.log_time)
            if value is not None:
                record.values.append(value)
    for key, record in found.items():
        name = _name(key, recording.keys[key])
        if not record.stamps:
            joints = recording.keys[key].joints
            raise InputError(f"{name} has no message" + (f" of {', '.join(joints)}" if joints else ""))
        record.order = in_order(name, np.array(record.stamps, np.int64), recording.gap(key))
    # What is sent when it changes may have been stamped long before it was logged.
    regular = {key: record for key, record in found.items() if recording.gap(key) is not None}
    times = {_name(key, recording.keys[key]): (x.stamps, x.logged) for key, x in regular.items()}
    say_clocks(times, recording.rate)
    return found


def _value(key: str, settings: TopicKey, path: Any, message: Any, record: _Key) -> np.ndarray | None:
    """The numbers of a message; None if it is of other joints than are asked for."""
    name, number = _name(key, settings), len(record.values)
    try:
        order = None if settings.joints is None else places_of(settings.joints, message, path)
        if settings.joints is not None and order is None:
            return None
        value = numbers(message, path, order)
    except InputError as error:
        raise InputError(f"{name}, field {settings.field}, message {number}: {error}") from error
    if settings.joints is None:
        order = record.labels.order(name, number, message, path)
        value = value if order is None else numbers(message, path, order)
    if not np.isfinite(value).all():
        raise InputError(f"{name}: message {number} holds a number that is not finite; cut the file there")
    if record.values and len(value) != len(record.values[0]):
        raise InputError(
            f"{name}: message {number} has {len(value)} numbers, those before have {len(record.values[0])}"
        )
    if not record.values and settings.resample == "interpolate" and holds_quaternion(message, path):
        raise InputError(
            f"{name}: field {settings.field} holds a quaternion, whose numbers cannot be interpolated: make "
            "it a key of its own with resample: slerp"
        )
    return value


def _spans(found: Mapping[str, _Key], gap: float | None) -> list[tuple[int, int]]:
    """First and last stamp of each episode."""
    stamps = np.sort(np.concatenate([np.array(record.stamps, np.int64) for record in found.values()]))
    if gap is None:
        return [(int(stamps[0]), int(stamps[-1]))]
    cuts = np.flatnonzero(np.diff(stamps) > gap * SECOND)
    firsts, lasts = np.append(0, cuts + 1), np.append(cuts, len(stamps) - 1)
    return [(int(stamps[a]), int(stamps[b])) for a, b in zip(firsts, lasts, strict=True)]


def _marked(reader: "McapReader", topic: str, path: str) -> list[tuple[int, int]]:
    """From the message that begins a run of one value other than zero to the one that ends it, as logged."""
    steps, before = parse_path(path), 0.0
    spans: list[tuple[int, int]] = []
    for _, _, message, decoded in reader.iter_decoded_messages(topics=[topic]):
        try:
            value = float(numbers(decoded, steps)[0])
        except InputError as error:
            raise InputError(f"split_topic {topic}, field {path}: {error}") from error
        if before:
            spans[-1] = (spans[-1][0], message.log_time)
        if value and value != before:
            spans.append((message.log_time, message.log_time))
        before = value
    if not spans:
        raise InputError(f"split_topic {topic} is never other than zero: there is no episode")
    summary = reader.get_summary()
    if before and summary is not None and summary.statistics is not None:
        spans[-1] = (spans[-1][0], summary.statistics.message_end_time)
    return spans


def _track(key: str, record: _Key, recording: Recording, start: int, stop: int) -> tuple[Track, np.ndarray]:
    """The messages of a key within an episode, and their numbers in the order of the log."""
    stamps = np.array(record.stamps, np.int64)[record.order]
    inside = (stamps >= start) & (stamps <= stop)
    name, settings = _name(key, recording.keys[key]), recording.keys[key]
    allowed = recording.gap(key)
    before = np.flatnonzero(stamps < start)
    if allowed is None and settings.resample == "latest" and len(before) and not (stamps == start).any():
        # It held when the episode began: what is sent when it changes need not be sent again.
        inside[before[-1]] = True
    if not inside.any():
        raise InputError(
            f"{name} has no message from {start / SECOND:.3f} to {stop / SECOND:.3f} s, which is an episode"
        )
    return Track(name, np.maximum(stamps[inside], start), settings.resample, allowed), record.order[inside]


def _numbers(track: Track, record: _Key, chosen: np.ndarray, times: np.ndarray) -> np.ndarray:
    values = resample(track, np.stack([record.values[number] for number in chosen]), times)
    stored = values.astype(np.float32)
    lost, reach = abs(stored - values).max(axis=0), np.ptp(values, axis=0)
    odd = np.flatnonzero((reach > MIN_RANGE) & (lost > ROUGH * reach))
    if len(odd) and not record.rounded:
        record.rounded, element = True, int(odd[0])
        print(
            f"{track.name}: element [{element}] lies in {values[:, element].min():.12g} to "
            f"{values[:, element].max():.12g}, which the store's float32 holds to {lost[element]:.2g} only: "
            "times and counters that began long ago cannot be learned from; take smaller numbers",
            file=sys.stderr,
        )
    return stored


def _pictures(
    reader: "McapReader",
    settings: TopicKey,
    kinds: Mapping[str, str],
    logged: Sequence[int],
    wanted: np.ndarray,
) -> np.ndarray:
    """The pictures of messages, which are numbered in the order of the log: (T,) -> (T, H, W, C)."""
    times = np.array(logged, np.int64)
    first, last = int(times[wanted.min()]), int(times[wanted.max()])
    uses = {int(number): np.flatnonzero(wanted == number) for number in np.unique(wanted)}
    number, rows = int(np.searchsorted(times, first)), NOTHING
    for _, _, _, decoded in reader.iter_decoded_messages(
        topics=[settings.topic], starting_at=first, ending_at=last
    ):
        if number in uses:
            try:
                image = picture(decoded, kinds[settings.topic], settings.size)
            except InputError as error:
                raise InputError(f"message {number} of {settings.topic}: {error}") from error
            if rows is NOTHING:
                rows = np.empty((len(wanted), *image.shape), np.uint8)
            if image.shape != rows.shape[1:]:
                raise InputError(
                    f"message {number} of {settings.topic} has a picture of {list(image.shape)}, those "
                    f"before have {list(rows.shape[1:])}; bring them to one size, with size: [height, width]"
                )
            rows[uses[number]] = image
        number += 1
    return rows


def _name(key: str, settings: TopicKey) -> str:
    return f"key '{key}' ({settings.topic})"
