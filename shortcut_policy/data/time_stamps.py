"""Times of steps that demonstrations hold beside what is learned from: their rate, and whether it is one.

LeRobot's reader refuses steps off the grid of its ``fps``, and an import of MCAP makes ticks of one rate.
Arrays of other formats promise nothing: of them it is said, and training goes on.
"""

import re
import sys
from dataclasses import dataclass
from functools import cached_property

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
        seconds: Whether they may be seconds: floats that do not count steps.
        spans: (M,) how long each step but the last of an episode took, in the units of the stamps.
        rows: (M,) the rows of these steps.
        episodes: (M,) their episodes.
    """

    path: str
    key: str
    seconds: bool
    spans: np.ndarray
    rows: np.ndarray
    episodes: np.ndarray

    @cached_property
    def span(self) -> float:
        """How long most steps took, above 0."""
        return float(np.median(self.spans))

    @property
    def rate(self) -> float | None:
        """Steps a second, to three digits; None if the stamps are not in seconds by all that is known."""
        rate = 1 / self.span
        return float(f"{rate:.3g}") if self.seconds and RATES[0] <= rate <= RATES[1] else None

    def agrees(self, rate: float) -> bool:
        """Whether most steps took what this many steps a second do, in any unit that is usual."""
        return any(abs(unit / self.span / rate - 1) < ANOTHER for unit in UNITS)

    def say(self, source: EpisodeSource, rate: float | None) -> None:
        """On stderr, which steps and episodes have another rate than most, and if ``rate`` is another."""
        where, remedy = f"key '{self.key}' of {self.path}", "a policy takes all steps for one time apart"
        if rate is not None and not self.agrees(rate):
            print(
                f"{where}: a step takes {self.span:.3g} by it, and the attributes say {rate:g} steps a "
                "second: correct one of the two",
                file=sys.stderr,
            )
        numbers = np.unique(self.episodes)
        begun = np.searchsorted(self.episodes, numbers)
        own = np.array([np.median(spans) for spans in np.split(self.spans, begun[1:])])
        others = numbers[abs(own / self.span - 1) > ANOTHER]
        if len(others):
            first = own[numbers == others[0]][0]
            print(
                f"{where}: in {len(others)} of {len(numbers)} episodes a step takes another time than the "
                f"{self.span:.3g} of most, first in episode {others[0]}, {first:.3g}: {remedy}; bring the "
                "episodes to one rate",
                file=sys.stderr,
            )
        mine = np.repeat(own, np.diff(np.append(begun, len(self.spans))))
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

    They grow with the steps. What stands still in most of them, goes back and forth, or goes from one end to
    the other in each episode, however long, is something else.
    """
    by_name: dict[str, str] = {}
    for key in source.keys:
        if source.shapes[key] in ((), (1,)) and source.dtypes[key].kind in "iuf":
            by_name.setdefault(re.split(r"[./]", key.lower())[-1], key)
    found = (_stamps(source, by_name[name]) for name in NAMES if name in by_name)
    return next((stamps for stamps in found if stamps is not None), None)


def _stamps(source: EpisodeSource, key: str) -> TimeStamps | None:
    """The times that a key holds, if they are such."""
    ends = source.episode_ends
    try:
        times = source.read(key, 0, int(ends[-1])).reshape(-1)
    except InputError:  # nobody has asked for it
        return None
    # Unsigned numbers that go back differ by large ones, and float64 loses nanoseconds since 1970.
    spans = np.diff(times.astype(np.int64) if times.dtype.kind in "iu" else times.astype(np.float64))
    inside = np.ones(len(spans), bool)
    inside[ends[:-1] - 1] = False
    rows = np.flatnonzero(inside)
    spans = spans[inside].astype(np.float64)
    if not len(spans) or not np.isfinite(spans).all() or np.median(spans) <= 0:
        return None
    lengths = np.diff(ends, prepend=0)
    whole = (times[ends - 1] - times[ends - lengths])[lengths > 1].astype(np.float64)
    progress = len(np.unique(lengths[lengths > 1])) > 1 and np.ptp(whole) <= 1e-3 * whole.max()
    if progress or (spans < 0).mean() > BACK:
        return None
    counts = bool((spans == 1).all())
    episodes = np.searchsorted(ends, rows, side="right")
    return TimeStamps(source.path, key, times.dtype.kind == "f" and not counts, spans, rows, episodes)
