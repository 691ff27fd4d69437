"""Times of steps that demonstrations hold beside what is learned from: their rate, and whether it is one.

LeRobot's reader refuses steps off the grid of its ``fps``, and an import of MCAP makes ticks of one rate.
Arrays of other formats promise nothing: of them it is said, and training goes on.
"""

import re
import sys
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from shortcut_policy.data.source import EpisodeSource, find_row
from shortcut_policy.errors import InputError

#: What arrays of times are called, behind the last dot or slash; the first that is there counts.
NAMES = ("timestamp", "timestamps", "time_stamp", "time_stamps", "stamp", "stamps", "time", "times", "t")
#: Stamps in a second that are usual: seconds, milliseconds, microseconds, nanoseconds.
UNITS = (1.0, 1e3, 1e6, 1e9)
#: Rates of robots, in steps a second; what looks like another one is in no seconds.
RATES = 0.2, 2000.0
#: Part of the steps in which a clock may go back; what goes back more often is none.
BACK = 0.01
#: Part of the steps in which one may stand still: what does so more often is of a camera or another sensor.
STILL = 0.1
#: Whole numbers this far apart that begin below the second may count steps of a simulator, or milliseconds.
COUNTED, BEGUN = 1000, 1e6
#: A step is off if it takes this part of one more or less: a row is missing there, or twice. Clocks of real
#: loops are off by a fifth, and nothing is lost.
OFF = 0.5
#: An episode, or what the attributes say, has another rate if it differs by this part.
ANOTHER = 0.1


@dataclass(frozen=True)
class TimeStamps:
    """When the steps of all episodes were.

    Attributes:
        path: Of the source.
        key: Of the stamps.
        kind: What they are: floats that may be seconds, times of an unknown unit, or numbers that may count.
        spans: (M,) how long each step but the last of an episode took, in the units of the stamps.
        rows: (M,) the rows of these steps.
        episodes: (M,) their episodes.
    """

    path: str
    key: str
    kind: Literal["seconds", "times", "counts"]
    spans: np.ndarray
    rows: np.ndarray
    episodes: np.ndarray

    @cached_property
    def span(self) -> float:
        """How long steps took in most episodes, above 0.

        A mean of each episode without what is odd, as stamps of few digits are off by a part of a step.
        """
        even = abs(self.spans / np.median(self.spans) - 1) <= OFF
        sums, counts = np.bincount(self.episodes, self.spans * even), np.bincount(self.episodes, even)
        return float(np.median(sums[counts > 0] / counts[counts > 0]))

    @property
    def rate(self) -> float | None:
        """Steps a second, to three digits; None if the stamps are not in seconds by all that is known."""
        rate = 1 / self.span
        return float(f"{rate:.3g}") if self.kind == "seconds" and RATES[0] <= rate <= RATES[1] else None

    def agrees(self, rate: float) -> bool:
        """Whether most steps took what this many steps a second do, in any unit that is usual."""
        return any(abs(unit / self.span / rate - 1) < ANOTHER for unit in UNITS)

    def say(self, source: EpisodeSource, rate: float | None) -> None:
        """On stderr, which steps and episodes have another rate than most, and if ``rate`` is another."""
        where, remedy = f"key '{self.key}' of {self.path}", "a policy takes all steps for one time apart"
        if rate is not None and self.kind != "counts" and not self.agrees(rate):
            print(
                f"{where}: a step takes {self.span:.3g} by it, and the attributes say {rate:g} steps a "
                "second: correct one of the two",
                file=sys.stderr,
            )
        begun = np.flatnonzero(np.diff(self.episodes, prepend=-1))
        numbers, counts = self.episodes[begun], np.diff(begun, append=len(self.spans))
        # The median is that of most steps where more than half are, which is most episodes of most datasets.
        alike = np.add.reduceat(abs(self.spans / self.span - 1) <= ANOTHER / 2, begun, dtype=np.int64)
        own = np.full(len(numbers), self.span)
        for at in np.flatnonzero(2 * alike <= counts):
            own[at] = np.median(self.spans[begun[at] : begun[at] + counts[at]])
        others = numbers[abs(own / self.span - 1) > ANOTHER]
        if len(others):
            first = own[numbers == others[0]][0]
            print(
                f"{where}: in {len(others)} of {len(numbers)} episodes a step takes another time than the "
                f"{self.span:.3g} of most, first in episode {others[0]}, {first:.3g}: {remedy}; bring the "
                "episodes to one rate",
                file=sys.stderr,
            )
        mine = np.repeat(np.where(own > 0, own, self.span), counts)
        odd = np.flatnonzero(~(abs(self.spans / mine - 1) <= OFF))
        if len(odd):
            episode, step = find_row(source, int(self.rows[odd[0]]))
            print(
                f"{where}: {len(odd)} of {len(self.spans)} steps take more than {OFF:g} of a step more or "
                f"less than the {mine[odd[0]]:.3g} of the others, first step {step} of episode {episode}, "
                f"{self.spans[odd[0]]:.3g}: {remedy}; bring the rows to one rate, or cut the episode there",
                file=sys.stderr,
            )


def find_stamps(source: EpisodeSource) -> TimeStamps | None:
    """The times of the steps of a source, if an array with one of the `NAMES` holds such.

    They grow with the steps. What stands still in many of them, goes back and forth, or goes from one end to
    the other in each episode, however long, is something else. Of keys of one name the uppermost counts, as
    those of single cameras and sensors lie below.
    """
    by_name: dict[str, str] = {}
    for *_, last, key in sorted(([*re.split(r"[./]", key.lower()), key] for key in source.keys), key=len):
        if source.shapes[key] in ((), (1,)) and source.dtypes[key].kind in "iuf":
            by_name.setdefault(last, key)
    found = (_stamps(source, by_name[name]) for name in NAMES if name in by_name)
    return next((stamps for stamps in found if stamps is not None), None)


def _stamps(source: EpisodeSource, key: str) -> TimeStamps | None:
    """The times that a key holds, if they are such."""
    ends = source.episode_ends
    try:
        times = source.read(key, 0, int(ends[-1])).reshape(-1)
    except InputError:  # nobody has asked for it
        return None
    if not np.isfinite(times).all():
        return None
    # Unsigned numbers that go back differ by large ones, and float64 loses nanoseconds since 1970.
    times = times.astype(np.int64 if times.dtype.kind in "iu" else np.float64, copy=False)
    inside = np.ones(len(times), bool)
    inside[ends - 1] = False
    rows = np.flatnonzero(inside)
    spans = np.diff(times)[rows].astype(np.float64)
    if not len(spans) or (middle := np.median(spans)) <= 0:
        return None
    if (spans < 0).mean() > BACK or (spans == 0).mean() > STILL:
        return None
    lengths = np.diff(ends, prepend=0)
    if _is_progress(times[ends - 1] - times[ends - lengths], lengths):
        return None
    kind: Literal["seconds", "times", "counts"] = "seconds" if times.dtype.kind == "f" else "times"
    if (spans == np.rint(spans)).all():
        may_count = middle == 1 or (middle < COUNTED and times.min() < BEGUN)
        kind = "counts" if may_count else "times"
    episodes = np.repeat(np.arange(len(lengths)), np.maximum(lengths - 1, 0))
    return TimeStamps(source.path, key, kind, spans, rows, episodes)


def _is_progress(whole: np.ndarray, lengths: np.ndarray) -> bool:
    """Whether what episodes of these lengths pass through is their part that is over, or a multiple of it."""
    whole, steps = whole[lengths > 1].astype(np.float64), lengths[lengths > 1]
    for ends in (whole, whole * steps / (steps - 1)):  # the last step is the end, or the one after it
        of_all = len(np.unique(steps)) > 1 and np.ptp(ends) <= 1e-3 * ends.max()
        if of_all or (abs(ends - 1) <= 1e-3).all():
            return True
    return False
