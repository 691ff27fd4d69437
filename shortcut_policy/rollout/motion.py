"""How smoothly a robot was told to move."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import mean

import numpy as np


@dataclass(frozen=True)
class Motion:
    """Of the actions that an episode played; norms are Euclidean, in the units of an action.

    Attributes:
        jerk: Mean norm of the third difference, a_{t+3} - 3 a_{t+2} + 3 a_{t+1} - a_t; None for fewer than
            four actions.
        border_jump: Mean norm of a_t - a_{t-1} at the steps t where a new chunk took over; None without one.
        inner_step: The same at all other steps, to compare with; None without one.
        held: Steps for which no chunk held an action, so that the last one was repeated.
    """

    jerk: float | None = None
    border_jump: float | None = None
    inner_step: float | None = None
    held: int = 0

    @classmethod
    def of(cls, actions: np.ndarray, borders: np.ndarray, held: int = 0) -> "Motion":
        """Measure actions (T, A), where new chunks took over at the steps ``borders``, ones from 1 on."""
        wide = actions.astype(np.float64)
        steps = np.linalg.norm(np.diff(wide, axis=0), axis=-1)
        at_border = np.zeros(len(steps), bool)
        at_border[[border - 1 for border in borders if 0 < border <= len(steps)]] = True
        return cls(
            jerk=_mean(np.linalg.norm(np.diff(wide, n=3, axis=0), axis=-1)),
            border_jump=_mean(steps[at_border]),
            inner_step=_mean(steps[~at_border]),
            held=held,
        )


def mean_motion(motions: Iterable[Motion]) -> dict[str, float | None]:
    """Means over episodes, each without those that have no such number."""
    found = list(motions)
    means: dict[str, float | None] = {}
    for name in ("jerk", "border_jump", "inner_step", "held"):
        values = [value for motion in found if (value := getattr(motion, name)) is not None]
        means[name] = float(mean(values)) if values else None
    return means


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
