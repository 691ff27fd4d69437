"""Checks of settings as they come from a command line or a configuration."""

from collections.abc import Sequence
from typing import Any

from shortcut_policy.errors import InputError


def listed(name: str, value: Any) -> list[Any]:
    """The values of a setting that is a list of them or, for short, a single one.

    Raises:
        InputError: There is none.
    """
    values = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if not values or values == [None]:
        raise InputError(f"{name}={value} names nothing: give at least one value, such as {name}=[1]")
    return values


def check_whole(name: str, value: Any, lowest: int) -> None:
    """Raise `InputError` unless ``value`` is a whole number from ``lowest`` on."""
    if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
        raise InputError(f"{name}={value!r} must be a whole number of at least {lowest}")


def check_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `InputError` unless a setting is one of these values, such as ``(True, False)``."""
    if value not in choices:
        *others, last = (str(choice).lower() if isinstance(choice, bool) else choice for choice in choices)
        raise InputError(f"{key}={value} must be {', '.join(others)} or {last}")
