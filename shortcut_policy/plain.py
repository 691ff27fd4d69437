"""Values that a JSON file can hold: what a checkpoint says of itself survives as it is, or is refused."""

import math
from collections.abc import Mapping
from typing import Any

from shortcut_policy.errors import InputError


def plain_json(value: Any, name: str = "") -> Any:
    """A copy of a value that comes back from JSON as it went in; tuples become lists.

    Args:
        value: Nested mappings, lists and tuples of strings, numbers, booleans and None.
        name: What it is called in the sentence; the keys of mappings come behind it.

    Raises:
        InputError: Something in it is none of these, such as a number of NumPy, an array or a module, is not
            finite, or a key is no string. It is not replaced by anything else.
    """
    if value is None or type(value) in (str, bool, int):
        return value
    if type(value) is float:
        if math.isfinite(value):
            return value
        raise InputError(f"{name}={value} is not finite, which a checkpoint's JSON cannot hold")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InputError(f"{name or 'a mapping'} has the key {key!r}, but keys of JSON are strings")
        return {key: plain_json(item, f"{name}.{key}" if name else key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, f"{name}[{index}]") for index, item in enumerate(value)]
    raise InputError(
        f"{name or 'the value'}={_short(value)} is a {type(value).__module__}.{type(value).__qualname__}, "
        f"which a checkpoint's JSON cannot hold: give {_instead(value)}"
    )


def _instead(value: Any) -> str:
    """What to give in place of a value."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return f"a number of Python, such as {value.item()!r}"
    if hasattr(value, "tolist"):
        return "its numbers as a list, .tolist()"
    if hasattr(value, "__fspath__"):
        return "a string"
    return 'a plain value, or of an object its specification, {"_target_": "package.Class", ...}'


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
