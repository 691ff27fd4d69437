"""Build an object from a plain specification, ``{"_target_": "package.Class", **arguments}``.

Checkpoints hold such specifications as JSON, so that loading one needs neither Hydra nor the configs it was
trained with. In a Hydra configuration the same mapping is what ``hydra.utils.instantiate`` reads.
"""

import importlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from shortcut_policy.errors import InputError


def build(spec: Mapping[str, Any], **extra: Any) -> Any:
    """Call the target of ``spec`` with its other entries and ``extra`` as arguments, nested ones built first.

    With ``_partial_: true`` it is not called yet: what comes back takes the arguments that are missing.

    Raises:
        InputError: There is no ``_target_``, it cannot be imported, or it does not take these arguments.
    """
    if "_target_" not in spec:
        raise InputError(f"cannot build an object from {dict(spec)}: it has no _target_ (package.Class)")
    path = str(spec["_target_"])
    arguments = {key: _nested(value) for key, value in spec.items() if not key.startswith("_")}
    target = find_target(path)
    if spec.get("_partial_"):
        return partial(target, **arguments, **extra)
    try:
        return target(**arguments, **extra)
    except TypeError as error:
        raise InputError(f"{path} does not take {sorted({*arguments, *extra})}: {error}") from error


def find_target(path: str) -> Any:
    """What a ``_target_`` names.

    Raises:
        InputError: It cannot be imported.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"cannot import {path} ({error}); check its spelling or install its package"
        ) from error


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value)
    if isinstance(value, list):
        return [_nested(item) for item in value]
    return value
