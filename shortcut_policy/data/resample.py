"""Messages that come when they come, brought to one rate.

A tick is a whole number of periods after the first. Times are nanoseconds as integers: a float64 of today's
date in seconds is exact to a quarter of a microsecond only.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from shortcut_policy.errors import InputError

#: ``latest``: the newest message at or before the tick. ``interpolate``: between the two around it, number by
#: number. ``slerp``: the same for quaternions x, y, z, w, on the sphere.
Rule = Literal["latest", "interpolate", "slerp"]
SECOND = 1_000_000_000


@dataclass(frozen=True)
class Track:
    """The messages of one key.

    Attributes:
        name: For messages to the user, such as "key 'state' (/joint_states)".
        stamps: (N,) int64, nanoseconds, increasing.
        rule: How a tick gets its value.
        max_gap: Nanoseconds that a value may be old, or that may lie between the two around a tick; any if
            None, and then the last message holds to the end.
    """

    name: str
    stamps: np.ndarray
    rule: Rule
    max_gap: int | None


def in_order(name: str, stamps: np.ndarray, max_gap: int | None) -> np.ndarray:
    """Numbers of the messages in the order of their stamps; of messages with one stamp the last.

    Args:
        name: Of the topic.
        stamps: (N,) int64, nanoseconds, in the order in which the messages were logged.
        max_gap: Nanoseconds; a stamp that is earlier by more than that than one before it is an error.

    Raises:
        InputError: The stamps run backwards, or none was set.
    """
    if not stamps.any():
        raise InputError(f"{name}: no stamp was set in the headers; take the log's times, with stamp: log")
    back = np.maximum.accumulate(stamps) - stamps
    allowed = SECOND if max_gap is None else max_gap
    if back.max() > allowed:
        number = int(np.argmax(back > allowed))
        raise InputError(
            f"{name}: the stamp of message {number} is {back[number] / SECOND:.3f} s earlier than one before "
            "it: a clock was set meanwhile; take the log's times, with stamp: log, or cut the file there"
        )
    order = np.argsort(stamps, kind="stable")
    last = np.append(np.diff(stamps[order]) > 0, True)
    return order[last]


def ticks(tracks: list[Track], rate: float) -> np.ndarray:
    """The times at which all tracks have a value, (T,) int64 nanoseconds, T >= 1.

    Raises:
        InputError: There is no such time, or a gap in a track is too long.
    """
    start = max(int(track.stamps[0]) for track in tracks)
    stop = min((int(track.stamps[-1]) for track in tracks if track.max_gap is not None), default=None)
    if stop is None:
        stop = max(int(track.stamps[-1]) for track in tracks)
    if stop < start:
        first = max(tracks, key=lambda track: int(track.stamps[0]))
        raise InputError(
            f"{first.name} begins {(start - stop) / SECOND:.3f} s after another one has ended: there is no "
            "moment with all keys"
        )
    count = int((stop - start) * rate / SECOND) + 2  # rounding must not cost the last one
    times = start + np.round(np.arange(count) * (SECOND / rate)).astype(np.int64)
    times = times[times <= stop]
    for track in tracks:
        _check_gaps(track, times)
    return times


def latest(track: Track, times: np.ndarray) -> np.ndarray:
    """Number of the newest message at or before each time, (T,)."""
    return np.searchsorted(track.stamps, times, side="right") - 1


def resample(track: Track, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Values (N, *shape) of the messages to values (T, *shape) at ``times``, which lie within the stamps.

    Raises:
        InputError: Quaternions that are not (N, 4), or have no direction.
    """
    before = latest(track, times)
    if track.rule == "latest":
        return values[before]
    if track.rule == "slerp":
        return _slerp(track, values, times)
    after = np.minimum(before + 1, len(values) - 1)
    span = np.maximum(track.stamps[after] - track.stamps[before], 1)
    part = ((times - track.stamps[before]) / span).reshape(-1, *[1] * (values.ndim - 1))
    return values[before] + np.where(part > 0, part * (values[after] - values[before]), 0)


def _slerp(track: Track, values: np.ndarray, times: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation, Slerp  # half a second, which only this needs

    if values.shape[1:] != (4,):
        raise InputError(f"{track.name}: slerp is for quaternions, 4 numbers, not {list(values.shape[1:])}")
    if not np.all(np.linalg.norm(values, axis=1) > 0):
        number = int(np.argmin(np.linalg.norm(values, axis=1)))
        raise InputError(f"{track.name}: message {number} holds a quaternion of zeros, which is no rotation")
    if len(values) == 1:
        turned = np.repeat(Rotation.from_quat(values).as_quat(), len(times), axis=0)
    else:
        seconds = (track.stamps - track.stamps[0]) / SECOND
        turned = Slerp(seconds, Rotation.from_quat(values))((times - track.stamps[0]) / SECOND).as_quat()
    # A quaternion and its negative are one rotation: of the two the nearer one to the tick before.
    flips = np.cumprod(np.append(1, np.where((turned[1:] * turned[:-1]).sum(1) < 0, -1, 1)))
    first = np.sign((turned[0] * values[latest(track, times[:1])[0]]).sum()) or 1.0
    return np.asarray(turned * flips[:, None] * first)


def _check_gaps(track: Track, times: np.ndarray) -> None:
    if track.max_gap is None:
        return
    before = latest(track, times)
    after = np.minimum(before + 1, len(track.stamps) - 1)
    ages = times - track.stamps[before]
    gaps = np.maximum(track.stamps[after] - track.stamps[before], ages)
    late = (ages if track.rule == "latest" else np.where(ages > 0, gaps, 0)) > track.max_gap
    if late.any():
        tick = int(np.argmax(late))
        raise InputError(
            f"{track.name} has a gap of {gaps[tick] / SECOND:.3f} s after {track.stamps[before[tick]]} ns, "
            f"and max_gap allows {track.max_gap / SECOND:.3f} s; raise max_gap, or split the episodes there "
            "with split_gap"
        )
