"""Build an object from a plain specification, ``{"_target_": "package.Class", **arguments}``.

Checkpoints hold such specifications as JSON, so that loading one needs neither Hydra nor the configs it was
trained with. In a Hydra configuration the same mapping is what ``hydra.utils.instantiate`` reads.
"""

import importlib
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from shortcut_policy.errors import InputError, first_line
from shortcut_policy.settings import check_keys, is_class_path

#: Keys of a specification that are no arguments.
DIRECTIVES = ("_target_", "_partial_")


def build(spec: Mapping[str, Any], **extra: Any) -> Any:
    """Call the target of ``spec`` with its other entries and ``extra`` as arguments, nested ones built first.

    With ``_partial_: true`` it is not called yet: what comes back takes the arguments that are missing. This
    runs the code that it names: a file that others made goes through `trust.check_trust` first.

    Raises:
        InputError: There is no ``_target_``, it names nothing or cannot be imported, or it does not take
            these arguments; or there is another key with underscores, such as Hydra's ``_args_``.
    """
    if not isinstance(spec, Mapping) or "_target_" not in spec:
        raise InputError(f"cannot build an object from {spec}: it has no _target_ (package.Class)")
    path = spec["_target_"]
    if not is_class_path(path):
        raise InputError(f"cannot build an object from {spec}: its _target_={path!r} is no package.Class")
    for key in spec:
        if str(key).startswith("_") and key not in DIRECTIVES:
            raise InputError(
                f"{path} has the key {key}, which is not known here: give its arguments by name, beside "
                f"{' and '.join(DIRECTIVES)}"
            )
    arguments = {key: _nested(value) for key, value in spec.items() if not key.startswith("_")}
    target = find_target(path)
    if spec.get("_partial_"):
        return partial(target, **arguments, **extra)
    _check_arguments(path, target, arguments, extra)
    try:
        return target(**arguments, **extra)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        plain = {key: value for key, value in spec.items() if isinstance(value, str | int | float | list)}
        plain.pop("_target_")
        named = ", ".join(f"{key}={value}" for key, value in plain.items()) or "these settings"
        raise InputError(f"{path} cannot be built with {named}: {first_line(error)}") from error


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


def _check_arguments(path: str, target: Any, given: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # some classes written in C do not tell
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    named = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_POSITIONAL]
    own = [parameter for parameter in named if parameter.name not in extra]
    required = [parameter.name for parameter in own if parameter.default is parameter.empty]
    optional = [parameter.name for parameter in own if parameter.default is not parameter.empty]
    check_keys(path, given, required, optional)


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping) and "_target_" in value:
        return build(value)
    if isinstance(value, list):
        return [_nested(item) for item in value]
    return value
