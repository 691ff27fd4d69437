"""Checks of arguments that several environments and experts take."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shortcut_policy.errors import InputError


def check_deviation(name: str, value: Any) -> None:
    """Raise `InputError` unless ``value`` can be a standard deviation."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise InputError(f"{name} is {value!r}; it must be a finite number from 0 on.")


def finite_vector(name: str, value: Any, meaning: str) -> np.ndarray:
    """``value`` as float64 numbers, one for each word group of ``meaning``; raises `InputError`."""
    expected = (meaning.count(",") + 1,)
    try:
        vector = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        vector = np.empty(0)
    if vector.shape != expected or not np.isfinite(vector).all():
        raise InputError(f"{name} is {value!r}; it must be {expected[0]} finite numbers: {meaning}.")
    return vector


def checked_action(action: Any, size: int, owner: str, dtype: type = np.float64) -> np.ndarray:
    """``action`` as (size,) finite numbers of ``dtype``; raises `InputError` that names its ``owner``."""
    given: np.ndarray = np.asarray(action, dtype)
    if given.shape != (size,) or not np.isfinite(given).all():
        raise InputError(f"an action of {owner} must be {size} finite numbers, not {given}")
    return given


def check_cameras(cameras: Any, known: Sequence[str]) -> None:
    """Raise `InputError` unless ``cameras`` is a list of some of those that are ``known``."""
    is_list = isinstance(cameras, Sequence) and not isinstance(cameras, str)
    if not is_list or any(camera not in known for camera in cameras):
        raise InputError(f"cameras={cameras} must be a list of some of {', '.join(known)}")


def known_options(options: Mapping[str, Any] | None, name: str | None = None) -> Mapping[str, Any]:
    """The options of a ``reset``, which may be ``name`` alone; raises `InputError` for others."""
    given = options or {}
    if unknown := sorted(set(given) - {name}):
        others = "there are none" if name is None else f"the only option is {name!r}"
        raise InputError(f"reset option {unknown[0]!r} is unknown; {others}")
    return given
