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
#: A whole turn in radians and in degrees.
TURNS = 2 * math.pi, 360.0
#: An angle wraps around if it jumps by this part of a turn from one step to the next, and never leaves the
#: turn by more than the other part.
JUMP, BEYOND = 0.9, 0.02
#: A quaternion's length differs from 1 by rounding, and those of two steps are one rotation with two signs if
#: the cosine between them is below the second.
UNIT, OPPOSITE = 1e-2, -0.9
#: Values that an element takes at least if equality with another one is no chance: a gripper is open or shut.
FEWEST_VALUES = 3


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
        last = field.shape[-1] if field.shape else 0
        #: First elements of four that follow each other in one row of the last axis.
        self._fours = np.array([n for n in range(numbers - 3) if n % last <= last - 4], np.int64)
        self._unit = np.ones(len(self._fours), bool)
        self._flips = np.zeros(len(self._fours), np.int64)
        self._first: dict[tuple[str, int], int] = {}

    def update(self, start: int, rows: np.ndarray) -> None:
        """Add rows of one episode that follow each other, (N, *shape), from the row number ``start`` on."""
        if not self._looks or not len(rows):
            return
        values = rows.reshape(len(rows), -1).astype(np.float64)
        self._low, self._high = np.minimum(self._low, values.min(0)), np.maximum(self._high, values.max(0))
        steps = abs(np.diff(values, axis=0))
        for turn in TURNS:
            jumps = steps > JUMP * turn
            self._jumps[turn] += jumps.sum(0)
            self._note(f"{turn}", jumps, start)
        if len(self._fours):
            fours = values[:, self._fours[:, None] + np.arange(4)]
            lengths = np.linalg.norm(fours, axis=-1)
            self._unit &= (abs(lengths - 1) < UNIT).all(axis=0)
            flips = (fours[1:] * fours[:-1]).sum(axis=-1) < OPPOSITE
            self._flips += flips.sum(0)
            self._note("flips", flips, start)

    def say(self, where: str, find: Callable[[int], tuple[int, int]]) -> None:
        """On stderr, which elements are such angles and quaternions, and what to do.

        Args:
            where: The field and its key, for the sentence.
            find: Row number to episode and step of it.
        """
        for turn in TURNS:
            wraps = np.flatnonzero((self._jumps[turn] > 0) & self._within(turn)).tolist()
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
        turned = np.flatnonzero(self._unit & (self._flips > 0)).tolist()
        if turned:
            at, times = int(self._fours[turned[0]]), self._flips[turned[0]]
            print(
                f"{where}: numbers {at} to {at + 3} of a step{_more(turned)} turn into about their negative, "
                f"{_times(times)}, first {_place(*find(self._first['flips', turned[0]]))}: a quaternion. "
                "Both signs are one rotation, and far apart for a network: give all of them one sign, or "
                "store two columns of the matrix, the same way at play",
                file=sys.stderr,
            )

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


def _place(episode: int, step: int) -> str:
    return f"at step {step} of episode {episode}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _more(found: list[int]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
