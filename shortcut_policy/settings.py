"""Checks of settings as they come from a command line or a configuration."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from numbers import Real
from typing import Any

from shortcut_policy.errors import InputError

#: What torch's generators take.
LARGEST_SEED = 2**63 - 1


def listed(name: str, value: Any) -> list[Any]:
    """The values of a setting that is a list of them or, for short, a single one.

    Raises:
        InputError: There is none.
    """
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or values == [None]:
        raise InputError(f"{name}={value} names nothing: give a value, or several as {name}=[...,...]")
    return values


def check_whole(name: str, value: Any, lowest: int, largest: int | None = None) -> None:
    """Raise `InputError` unless ``value`` is a whole number from ``lowest`` on, up to ``largest`` if any."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < lowest or (largest is not None and value > largest):
        most = "" if largest is None else f" and at most {largest}"
        raise InputError(f"{name}={value!r} must be a whole number of at least {lowest}{most}")


def check_number(key: str, value: Any, holds: Callable[[float], bool], words: str) -> None:
    """Raise `InputError` unless ``value`` is a finite number that ``holds``, which ``words`` describe."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and holds(value)):
        raise InputError(f"{key}={value} must be {words}")


def check_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `InputError` unless a setting is one of these values, such as ``(True, False)``."""
    if value not in choices:
        *others, last = (str(choice).lower() if isinstance(choice, bool) else choice for choice in choices)
        raise InputError(f"{key}={value} must be {', '.join(others)} or {last}")


def check_keys(
    owner: str,
    given: Any,
    required: Sequence[str],
    optional: Sequence[str] = (),
    elsewhere: Collection[str] = (),
) -> None:
    """Raise `InputError` if ``owner`` was given a setting that it does not have, or not one that it needs.

    Args:
        owner: What has the settings, in the sentence.
        given: The settings that it was given; anything but a mapping is refused.
        required: Those that it needs.
        optional: Others that it has.
        elsewhere: Dotted names of settings that are not its own, which may have been meant.
    """
    known = [*required, *optional]
    if not isinstance(given, Mapping):
        raise InputError(f"{owner}={given} must be a mapping; its settings are {', '.join(known)}")
    for key in map(str, given):
        if key not in known:
            meant = [name for name in elsewhere if name.endswith(f".{key}")] or get_close_matches(key, known)
            hint = f"did you mean '{meant[0]}'?" if meant else f"it has {', '.join(known)}"
            raise InputError(f"{owner} has no setting '{key}': {hint}")
    for key in required:
        if key not in given:
            raise InputError(f"{owner} lacks the setting '{key}'; it has {', '.join(known)}")
