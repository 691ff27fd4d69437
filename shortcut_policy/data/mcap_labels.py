"""Whether the numbers of a topic stay what they were: of the same joints and frames, by the same clock."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shortcut_policy.data.ros_values import Steps, inside
from shortcut_policy.errors import InputError

#: Fields of messages that say what the numbers in them are of: lists of names, and a name.
LISTS, NAME = ("name", "joint_names"), "child_frame_id"
#: Seconds that messages of one topic may be logged after their stamps, later than those of another.
LATE = 1.0
#: Seconds by which a stamp may be ahead of the log, if a period is shorter.
AHEAD = 0.1
#: At which the keys of a file are compared, from its beginning to its end.
MOMENTS = 1000


class Labels:
    """What the numbers of a key are called by the messages themselves, from file to file.

    Joints in another order are brought to that of the first message, and where a path takes some of them
    (``position[0:6]``), the others may be any. Names of frames that change are said, but an element of a
    list, as of transforms, must stay the same.
    """

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.said: set[str] = set()

    def order(self, name: str, number: int, message: Any, steps: Steps) -> list[int] | None:
        """Where in the last list on a path its numbers are; None if it is as in the messages before.

        Args:
            name: Of the key, for errors.
            number: Of the message in its file.
            message: Decoded; the path leads to numbers.
            steps: Of the path, see `parse_path`.

        Raises:
            InputError: The numbers are of something else than in the messages before.
        """
        found: list[int] | None = None
        value, place = message, ""
        for step, (attribute, index) in enumerate(steps):
            frame = getattr(getattr(value, "header", None), "frame_id", None)
            if not any(hasattr(value, label) for label in LISTS):  # joints are in no frame
                self._say_frame(name, number, f"{place}header.frame_id", frame)
            if not place.endswith("[]."):  # no element of several: renamed, not another one
                self._say_frame(name, number, f"{place}{NAME}", getattr(value, NAME, None))
            for label in (*LISTS, NAME) if place.endswith("[].") else LISTS:
                words: Any = getattr(value, label, None)
                taken = index if step == len(steps) - 1 and label in LISTS else None
                order = self._compared(name, number, f"{place}{label}", words, taken)
                if order is None:
                    continue
                last = inside(value, [*steps[step:-1], (steps[-1][0], None)])
                if not hasattr(last, "__len__") or len(last) != len(words):
                    self._refuse(name, number, f"{place}{label}", words)
                found = order
            value = getattr(value, attribute)
            value = value if index is None else value[index]
            place = f"{place}{attribute}{'' if index is None else '[]'}."
        return found

    def _compared(
        self, name: str, number: int, place: str, given: Any, taken: int | slice | None
    ) -> list[int] | None:
        words = [given] if isinstance(given, str) and place.endswith(NAME) else given
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            return None
        known = self.known.setdefault(place, words)
        if words == known:
            return None
        wanted = _taken(known, taken)
        if wanted is None:  # all that there are
            wanted = known if len(words) == len(known) else []
        if not wanted or any(words.count(word) != 1 or known.count(word) != 1 for word in wanted):
            self._refuse(name, number, place, given)
        same = all(words[at : at + 1] == [word] for at, word in enumerate(known) if word in wanted)
        if not same and place not in self.said:
            self.said.add(place)
            print(
                f"{name}: message {number} has its joints in another order than those before, and is brought "
                f"to theirs: {', '.join(wanted)}",
                file=sys.stderr,
            )
        # What the path leaves out may be missing here: any number stands for it.
        return [words.index(word) if word in wanted else 0 for word in known]

    def _refuse(self, name: str, number: int, place: str, given: Any) -> None:
        words = ", ".join([given] if isinstance(given, str) else given) or "nothing"
        known = ", ".join(self.known[place]) or "nothing"
        mend = "give each a topic of its own, or leave one out of the file"
        if not place.endswith(NAME):
            mend = "pick those of the key by name, such as joints: [shoulder, elbow]"
        raise InputError(f"{name}: message {number} is of {words}, and those before of {known}: {mend}")

    def _say_frame(self, name: str, number: int, place: str, frame: Any) -> None:
        if not isinstance(frame, str) or not frame.strip("/"):
            return
        frame = frame.strip("/")  # which older versions of ROS put first
        (known,) = self.known.setdefault(place, [frame])
        if frame != known and "frame" not in self.said:
            self.said.add("frame")
            print(
                f"{name}: message {number} is in the frame '{frame}', and those before are in '{known}': "
                "numbers of two frames cannot be compared; cut the files where it changes",
                file=sys.stderr,
            )


def places_of(joints: Sequence[str], message: Any, steps: Steps) -> list[int] | None:
    """Where joints are in the list that a path ends with; None in a message of other joints.

    Raises:
        InputError: The message does not name its numbers, or has only some of the joints.
    """
    *through, (field, _) = steps
    holder = inside(message, through)
    names = next((getattr(holder, label) for label in LISTS if hasattr(holder, label)), None)
    if not isinstance(names, list) or not all(isinstance(word, str) for word in names):
        raise InputError(f"joints: '{field}' comes without the names of joints ({' or '.join(LISTS)})")
    if not set(joints) & set(names):
        return None
    if odd := [joint for joint in joints if names.count(joint) != 1]:
        raise InputError(f"joint {odd[0]} is there {names.count(odd[0])} times, beside {', '.join(names)}")
    values = inside(holder, [(field, None)])
    count = len(values) if hasattr(values, "__len__") else "no"
    if count != len(names):
        raise InputError(f"'{field}' has {count} values for {len(names)} joints")
    return [names.index(joint) for joint in joints]


def say_clocks(times: Mapping[str, tuple[Sequence[int], Sequence[int]]], rate: float) -> None:
    """On stderr, whether keys were stamped by clocks that differ, so that rows are of several moments.

    Args:
        times: Name of a key -> the times of its messages that count, and those of the log, nanoseconds.
        rate: Ticks a second.
    """
    delays = _delays(times)
    if not delays:
        return
    first, last = min(delays, key=delays.__getitem__), max(delays, key=delays.__getitem__)
    apart = delays[last] - delays[first]
    ahead = max(AHEAD, 1 / rate)
    if apart > LATE or (apart > ahead and delays[first] < -ahead):
        when = {name: f"{abs(by):.3f} s {'before' if by >= 0 else 'after'}" for name, by in delays.items()}
        print(
            f"{first} is stamped {when[first]} it was logged, and {last} {when[last]} it: if their clocks "
            "differ, a row holds two moments; take the log's times, with stamp: log",
            file=sys.stderr,
        )


def _delays(times: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> dict[str, float]:
    """Name of a key -> seconds from the time that counts to that of the log, in the middle of the messages.

    All are of the same moments, while there are messages of each key: the clock of a simulation may fall
    behind the log more and more.
    """
    begin = max((logged[0] for _, logged in times.values()), default=0)
    end = min((logged[-1] for _, logged in times.values()), default=-1)
    if end < begin:
        return {}
    moments, found = np.linspace(0, end - begin, MOMENTS), {}
    for name, (stamps, logged) in times.items():
        at = np.array(logged, np.int64)
        late = at - np.array(stamps, np.int64)
        found[name] = float(np.median(np.interp(moments, at - begin, late))) / 1e9
    return found


def _taken(known: list[str], index: int | slice | None) -> list[str] | None:
    """The names that an index takes; None for one that is open, to which every other would belong."""
    if isinstance(index, int):
        return known[index : index + 1]
    return None if index is None or index.stop is None else known[index]
