"""Whether demonstrations are of one kind: what their arrays are, and what they were recorded in."""

import json
import math
from collections.abc import Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from shortcut_policy.data.env_args import ENV_ARGS, EnvArgs
from shortcut_policy.data.source import EpisodeSource
from shortcut_policy.data.time_stamps import find_stamps
from shortcut_policy.errors import InputError
from shortcut_policy.settings import flatten

#: Attributes of any format that say which robot, environment and rate demonstrations are of.
ENVIRONMENT = {
    "action_space",
    "control_freq",
    "control_hz",
    "env",
    "env_args",
    "env_info",
    "env_name",
    "env_spec",
    "env_version",
    "fps",
    "goal_pose",
    "observation_space",
    "rate",
    "robot",
    "robot_type",
    "robots",
}
#: Those of them that are the rate, in steps a second.
RATES = ("fps", "control_freq", "control_hz", "rate")
#: Two rates that differ by less, as a part, are the same.
SAME_RATE = 0.01
#: Characters of a value in a sentence.
LONGEST = 80


def recorded_rate(source: EpisodeSource) -> float | None:
    """Steps a second that demonstrations were recorded at, where their source says it in some way.

    That is in its attributes, or else in the times of its steps. Of the latter is said on stderr if they are
    not one time apart, or are of another rate than the attributes say.
    """
    said, stamps = _said_rate(source), find_stamps(source)
    if stamps is None:
        return said
    stamps.say(source, said)
    return stamps.rate if said is None else said


def _said_rate(source: EpisodeSource) -> float | None:
    """Steps a second by the attributes of a source."""
    attributes = getattr(source, "attributes", {})
    said: dict[str, Any] = dict(attributes() if callable(attributes) else attributes)
    # A robomimic file that was made of something else keeps what that said apart from its own attributes.
    said = {**getattr(source, "origins", dict)(), **said}
    env_args = getattr(source, "env_args", None)
    return rate_of(said | ({} if env_args is None else env_args.kwargs))


def rate_of(attributes: Mapping[str, Any]) -> float | None:
    """Steps a second by attributes of any format; None if they do not say it."""
    # Stores keep what they were converted from under the name of that format.
    places = ("mcap", "recording"), ("lerobot", "rest"), ("zarr", "rest"), ("robomimic", "rest")
    imported, lerobot, store, robomimic = (_below(attributes, *names) for names in places)
    env_args = attributes.get(ENV_ARGS) or robomimic.get(f"data/@{ENV_ARGS}")
    found = [
        *(part.get(name) for part in (imported, attributes) for name in RATES),
        *(part.get(f"/@{name}") for part in (lerobot, store) for name in RATES),
        _control_freq(env_args),
    ]
    numbers = [float(rate) for rate in found if isinstance(rate, Real) and not isinstance(rate, bool)]
    return next((rate for rate in numbers if 0 < rate < math.inf), None)


def _control_freq(env_args: Any) -> Any:
    """What robomimic's text about an environment says of its rate, if it can be read."""
    try:
        return None if env_args is None else EnvArgs.parse(env_args, ENV_ARGS).kwargs.get("control_freq")
    except InputError:  # who makes the environment is told
        return None


def _below(attributes: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """What attributes hold under names in names, if these are mappings; or else nothing."""
    found: Any = attributes
    for name in names:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, and both values in words, of what is not the same in two mappings, or is in one alone."""
    for name in sorted(one.keys() | other.keys()):
        first, second = ({name: one[name]} if name in one else {} for one in (one, other))
        if not same(first, second):
            yield name, in_words(first.get(name)), in_words(second.get(name))


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same in type and value, arrays in them, too."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray | np.generic) or isinstance(other, np.ndarray | np.generic):
        first, second = np.asarray(one), np.asarray(other)
        equal_nan = first.dtype.kind in "fc" and second.dtype.kind in "fc"
        return first.dtype == second.dtype and np.array_equal(first, second, equal_nan=equal_nan)
    return bool(one == other)


def in_words(value: Any) -> str:
    """A value for a sentence; None stands for nothing."""
    if value is None:
        return "missing"
    text = " ".join(str(value).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def kind_of_array(shape: tuple[int, ...], dtype: np.dtype) -> str:
    """What an array holds for each step."""
    return f"{dtype} of shape {list(shape)} per step"


def opened(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes with what is JSON, as ``env_args`` is, under dotted names: the part that differs is said."""
    return flatten({name: _parsed(value) for name, value in attributes.items()})


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value
