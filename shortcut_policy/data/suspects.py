"""Numbers that are right and learned badly: angles that wrap, quaternions of both signs, copied states."""

import math
import sys
from collections.abc import Callable, Mapping

import numpy as np

from shortcut_policy.data.fields import ACTION
from shortcut_policy.data.outliers import RowSample
from shortcut_policy.data.source import Field

#: Fields with more numbers a step, such as clouds of points, hold no angles that anybody wrote there.
MOST_NUMBERS = 256
#: Numbers that are looked at in one go: an episode may have a million steps, and what fits a core's cache is
#: quicker.
AT_A_TIME = 2**16
#: A whole turn in radians and in degrees.
TURNS = 2 * math.pi, 360.0
#: An angle wraps around if it jumps by this part of a turn from one step to the next, and never leaves the
#: turn by more than the other part. What moves by parts of a turn in between as often is noise or a switch.
JUMP, BEYOND = 0.9, 0.02
BETWEEN = 0.25, 0.75
#: A quaternion's length differs from 1 by rounding, and those of two steps are one rotation with two signs if
#: the cosine between them is below the second. If its size is often below that, directions are no rotations.
UNIT, OPPOSITE = 1e-2, -0.9
#: Rotations whose cosine with one direction is larger lie on one side of it, or are such pairs.
BESIDE = math.sqrt((1 - OPPOSITE) / 2)
#: Four numbers in a key with such a word are a rotation, also where they could be a gripper or a direction.
ROTATIONS = "quat", "orient", "rotation"
#: Values that an element takes at least if equality with another one is no chance: a gripper is open or shut.
FEWEST_VALUES = 3

ONE_SIGN = (
    "a quaternion. Both signs are one rotation, and far apart for a network: give all of them one sign, or "
    "store two columns of the matrix, the same way at play"
)


class Turns:
    """Jumps of angles and signs of quaternions from one step to the next.

    Args:
        field: What the rows are of.
    """

    def __init__(self, field: Field) -> None:
        numbers = math.prod(field.shape)
        self._looks = 0 < numbers <= MOST_NUMBERS
        self._low, self._high = (np.full(numbers, end) for end in (np.inf, -np.inf))
        self._jumps = {turn: np.zeros(numbers, np.int64) for turn in TURNS}
        self._others = {turn: np.zeros(numbers, np.int64) for turn in TURNS}
        self._whole = np.ones(numbers, bool)
        self._smallest = np.full(numbers, np.inf)
        last = field.shape[-1] if field.shape else 0
        #: First elements of four that follow each other in one row of the last axis.
        self._fours = np.array([n for n in range(numbers - 3) if n % last <= last - 4], np.int64)
        self._unit = np.ones(len(self._fours), bool)
        self._flips, self._turned = (np.zeros(len(self._fours), np.int64) for _ in range(2))
        self._first: dict[tuple[str, int], int] = {}
        #: Row number and four of the first row of each call, for each that may be a quaternion.
        self._begun: dict[int, list[tuple[int, np.ndarray]]] = {}
        self._named = last == 4 and any(word in field.key.lower() for word in ROTATIONS)

    def update(self, start: int, rows: np.ndarray) -> None:
        """Add rows of one episode that follow each other, (N, *shape), from the row number ``start`` on."""
        if not self._looks or not len(rows):
            return
        rows = rows.reshape(len(rows), -1)
        step = max(1, AT_A_TIME // rows.shape[1])
        for first in range(0, len(rows), step):  # the last row again: the next one may be a jump away
            back = min(first, 1)
            self._see(start + first - back, rows[first - back : first + step].astype(np.float64))
        for number in np.flatnonzero(self._unit).tolist():
            four = rows[0, self._fours[number] + np.arange(4)].astype(np.float64)
            self._begun.setdefault(number, []).append((start, four))

    def _see(self, start: int, values: np.ndarray) -> None:
        """`update` for few rows, (N, D)."""
        self._low, self._high = np.minimum(self._low, values.min(0)), np.maximum(self._high, values.max(0))
        self._smallest = np.minimum(self._smallest, abs(values).min(0))
        self._whole &= (values == np.rint(values)).all(axis=0)
        steps = abs(np.diff(values, axis=0))
        for turn in TURNS:
            jumps = steps > JUMP * turn
            self._jumps[turn] += jumps.sum(0)
            self._others[turn] += ((steps > BETWEEN[0] * turn) & (steps < BETWEEN[1] * turn)).sum(0)
            self._note(f"{turn}", jumps, start)
        for number in np.flatnonzero(self._unit).tolist():  # few: one at a time needs little memory
            self._see_four(number, values[:, self._fours[number] + np.arange(4)], start)

    def _see_four(self, number: int, four: np.ndarray, start: int) -> None:
        """Add rows of what may be a quaternion, (N, 4)."""
        if not _unit(four[:1]) or not _unit(four):
            self._unit[number] = False
            return
        cosines = (four[1:] * four[:-1]).sum(axis=1)
        flips = cosines < OPPOSITE
        self._flips[number] += flips.sum()
        self._turned[number] += (abs(cosines) < -OPPOSITE).sum()
        if flips.any():
            self._first.setdefault(("flips", number), start + 1 + int(flips.argmax()))

    def say(self, where: str, find: Callable[[int], tuple[int, int]]) -> None:
        """On stderr, which elements are such angles and quaternions, and what to do.

        Args:
            where: The field and its key, for the sentence.
            find: Row number to episode and step of it.
        """
        for turn in TURNS:
            wraps = np.flatnonzero((self._jumps[turn] > self._others[turn]) & self._within(turn)).tolist()
            if wraps:
                at, times = wraps[0], self._jumps[turn][wraps[0]]
                print(
                    f"{where}: number {at} of a step{_more(wraps)} jumps between {self._low[at]:.4g} and "
                    f"{self._high[at]:.4g}, {_times(times)}, first "
                    f"{_place(*find(self._first[f'{turn}', at]))}: an angle that wraps around. Its ends are "
                    "one place, and far apart for a network: store sine and cosine, or let it count on "
                    "beyond a turn (np.unwrap), the same way at play",
                    file=sys.stderr,
                )
        may_turn = self._unit & (self._named | ~self._switched())
        turned = np.flatnonzero(may_turn & (self._flips > self._turned)).tolist()
        if turned:
            at, times = int(self._fours[turned[0]]), self._flips[turned[0]]
            print(
                f"{where}: numbers {at} to {at + 3} of a step{_more(turned)} turn into about their negative, "
                f"{_times(times)}, first {_place(*find(self._first['flips', turned[0]]))}: {ONE_SIGN}",
                file=sys.stderr,
            )
        self._say_begun(np.flatnonzero(may_turn & (self._flips == 0) & self._solid()).tolist(), where, find)

    def _say_begun(self, fours: list[int], where: str, find: Callable[[int], tuple[int, int]]) -> None:
        """`say` of quaternions whose sign differs only from episode to episode."""
        others = {number: other for number in fours if (other := _other_side(self._starts(number, find)))}
        if not others:
            return
        number, (turned, count) = next(iter(others.items()))
        at = int(self._fours[number])
        print(
            f"{where}: numbers {at} to {at + 3} of a step{_more(list(others))} are about their negative in "
            f"{len(turned)} of {count} episodes, from their first step on, first in episode {turned[0]}: "
            f"{ONE_SIGN}",
            file=sys.stderr,
        )

    def _starts(self, number: int, find: Callable[[int], tuple[int, int]]) -> dict[int, np.ndarray]:
        """Episode -> the first (4,) of it that was seen."""
        starts: dict[int, np.ndarray] = {}
        for row, four in self._begun.get(number, []):
            starts.setdefault(find(row)[0], four)
        return starts

    def _note(self, kind: str, found: np.ndarray, start: int) -> None:
        """Remember the row after the first jump of each element."""
        for at in np.flatnonzero(found.any(axis=0)).tolist():
            self._first.setdefault((kind, at), start + 1 + int(found[:, at].argmax()))

    def _within(self, turn: float) -> np.ndarray:
        """Whether an element lies in a turn from 0 on, or in half a turn to either side, up to both ends."""
        found = np.zeros(len(self._low), bool)
        for low, high in ((0, turn), (-turn / 2, turn / 2)):
            inside = (self._low >= low - BEYOND * turn) & (self._high <= high + BEYOND * turn)
            found |= inside & (self._high - self._low >= JUMP * turn)
        # Radians are no whole numbers: those count something, or are commands such as -3 and 3.
        return found & ~self._whole if turn == TURNS[0] else found

    def _solid(self) -> np.ndarray:
        """Of which fours all numbers vary: beside constants three may be a direction, two a heading."""
        varies = self._high > self._low
        found: np.ndarray = varies[self._fours[:, None] + np.arange(4)].all(axis=1) | self._named
        return found

    def _switched(self) -> np.ndarray:
        """Of which fours one number is all of it but for its sign: a gripper, beside what hardly moves."""
        sizes = np.maximum(-self._low, self._high)
        one_size = (sizes == self._smallest) & (sizes > 0)
        found: np.ndarray = one_size[self._fours[:, None] + np.arange(4)].any(axis=1)
        return found


def say_copied(fields: Mapping[str, Field], samples: Mapping[str, RowSample], path: str) -> None:
    """On stderr, that all numbers of the action are in the observations of the same row, if they are.

    Args:
        fields: The observations and, as ``action``, the action.
        samples: The same rows of those fields whose rows are no pictures.
        path: Of the store.
    """
    rows = {
        name: sample.rows.reshape(len(sample.rows), -1)
        for name, sample in samples.items()
        if math.prod(fields[name].shape) <= MOST_NUMBERS
    }
    actions = rows.pop(ACTION, np.empty((0, 0)))
    holders: dict[str, None] = {}
    for numbers in actions.T:
        if len(np.unique(numbers)) < FEWEST_VALUES:
            continue
        equal = [name for name, seen in rows.items() if (seen == numbers[:, None]).all(axis=0).any()]
        if not equal:
            return
        holders[equal[0]] = None
    if holders:
        print(
            f"{ACTION} (key '{fields[ACTION].key}' of {path}): in all rows the action is what "
            f"'{', '.join(holders)}' holds in the same row, so that the policy learns to ask for where it "
            "is: row t has to hold what was seen before action t, and what was commanded then; of recorded "
            "positions take those of row t + 1",
            file=sys.stderr,
        )


def _other_side(starts: Mapping[int, np.ndarray]) -> tuple[list[int], int] | None:
    """Episodes that begin with the negative of how the more of them begin, and the number that begin alike.

    Args:
        starts: Episode -> (4,) of length 1. They tell something if most are about one rotation, as a robot
            begins where it stood before; rotations of all kinds have to lie on two sides of something.
    """
    episodes, fours = np.array(list(starts), np.int64), np.array(list(starts.values()))
    along = fours @ np.linalg.eigh(fours.T @ fours)[1][:, -1]
    alike = abs(along) > BESIDE
    ahead = along * along[alike.argmax()] > 0  # if they are as many, the first one is right
    if 2 * ahead[alike].sum() < alike.sum():
        ahead = ~ahead
    others = episodes[alike & ~ahead].tolist()
    return (others, int(alike.sum())) if others and 2 * alike.sum() > len(episodes) else None


def _unit(four: np.ndarray) -> bool:
    """Whether rows (N, 4) have the length 1."""
    return bool((abs(np.linalg.norm(four, axis=1) - 1) < UNIT).all())


def _place(episode: int, step: int) -> str:
    return f"at step {step} of episode {episode}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _more(found: list[int]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
