"""Settings as they come from a command line or a configuration: into typed dataclasses, or one sentence.

`parse` is the way to read them; the checks below it are for values that reach a library call directly.
"""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from ipaddress import ip_address
from numbers import Real
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from annotated_types import Ge, Gt, Le, Lt, Predicate

from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR

if TYPE_CHECKING:
    from pydantic import TypeAdapter

#: What torch's generators take.
LARGEST_SEED = 2**63 - 1

#: Numbers in the usual ranges, to annotate settings with; others are written as ``Annotated[int, Ge(4)]``.
Count = Annotated[int, Ge(1)]
Index = Annotated[int, Ge(0)]
Seed = Annotated[int, Ge(0), Le(LARGEST_SEED)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]

Parsed = TypeVar("Parsed")
UNIONS = (Union, UnionType)
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")
NOUNS: Mapping[Any, str] = {int: "whole number", float: "number", str: "text"}
LENGTHS = {2: "two ", 3: "three "}


@dataclass(frozen=True)
class Words:
    """What errors call the values of an annotation: ``Annotated[float, Gt(0), Words("a rate above 0")]``."""

    text: str


def is_class_path(name: Any) -> bool:
    """Whether a ``_target_`` can name something in a module, such as ``package.Class``."""
    parts = name.split(".") if isinstance(name, str) else []
    return len(parts) > 1 and all(part.isidentifier() for part in parts)


def _names_class(spec: Mapping[str, Any]) -> bool:
    return is_class_path(spec.get("_target_"))


#: What `build` makes an object from. It stays a mapping: a checkpoint holds it as it is.
SPEC = Words(
    f"a mapping with the class to build, {{_target_: package.Class, ...}}; {CONFIG_DIR} holds examples"
)
Spec = Annotated[Mapping[str, Any], Predicate(_names_class), SPEC]


def parse(
    kind: type[Parsed], values: Any, owner: str, elsewhere: Collection[str] = (), prefix: str = ""
) -> Parsed:
    """Build a dataclass of settings from plain values, as a YAML file or a command line gives them.

    Types are those of the annotations, and numbers within their bounds. A whole number may be written as 1e4,
    any number as 1e-3, which YAML takes for a text, and a text may be a whole number, such as the folder
    2024; nothing else is converted: "no" is no boolean and True no number. NaN is refused, and so is infinity
    where the annotation lacks pydantic's ``AllowInfNan()``. A field that is annotated with a dataclass, or
    with a sequence or mapping of them, takes mappings; other sequences become what is annotated.

    Args:
        kind: The dataclass; its fields without a default are required.
        values: Name -> value.
        owner: What has the settings, in the sentence.
        elsewhere: Dotted names of settings that are not its own, which may have been meant.
        prefix: What the command line puts before the names, such as ``trainer.``.

    Raises:
        InputError: A setting is not known, is missing, or is not of its type or in its bounds; or ``values``
            is no mapping.
    """
    assert is_dataclass(kind)
    required = [f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING]
    optional = [f.name for f in fields(kind) if f.name not in required]
    check_keys(owner, values, required, optional, elsewhere)
    annotations = get_type_hints(kind, include_extras=True)
    typed = {name: _typed(annotations[name], value, prefix + name) for name, value in values.items()}
    return kind(**typed)


def check_fields(settings: Any, prefix: str = "") -> None:
    """Let a frozen dataclass, in its ``__post_init__``, check and convert its values as `parse` does.

    Args:
        settings: The dataclass, for which Python code need not go through `parse` then.
        prefix: What the command line puts before the names.

    Raises:
        InputError: A value is not of its type or in its bounds.
    """
    for name, annotation in get_type_hints(type(settings), include_extras=True).items():
        object.__setattr__(settings, name, _typed(annotation, getattr(settings, name), prefix + name))


def described(annotation: Any) -> str:
    """What an annotation allows, to follow "must be": "a list of two numbers from 0 on, or null"."""
    noun, rest = _noun(annotation)
    return f"a {noun}{rest}" if noun else rest


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys: the way to name a setting on the command line."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    parts = [flatten(item, f"{prefix}.{key}" if prefix else str(key)) for key, item in value.items()]
    return {key: item for part in parts for key, item in part.items()}


def is_list(value: Any) -> bool:
    """Whether a value is a list of others, as a text is not."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def _typed(annotation: Any, value: Any, key: str) -> Any:
    """A value as its annotation says, dataclasses in it parsed."""
    if _has_dataclass(annotation):
        form, parts = get_origin(annotation), get_args(annotation)
        if form is None:
            return value if isinstance(value, annotation) else parse(annotation, value, key, (), f"{key}.")
        if form in UNIONS:
            inner = [part for part in parts if _has_dataclass(part)]
            made = isinstance(value, tuple(part for part in inner if isinstance(part, type)))
            return value if made or (value is None and NoneType in parts) else _typed(inner[0], value, key)
        if issubclass(form, Mapping) and isinstance(value, Mapping):
            return {str(name): _typed(parts[1], one, f"{key}.{name}") for name, one in value.items()}
        if not issubclass(form, Mapping) and is_list(value):
            return tuple(_typed(parts[0], one, f"{key}[{number}]") for number, one in enumerate(value))
        raise InputError(f"{key}={value} must be {described(annotation)}")
    # Here, because importing the library must not wait for it.
    from pydantic import ValidationError

    try:
        return _adapter(annotation).validate_python(value)
    except ValidationError as error:
        raise InputError(f"{key}={shown(value)} must be {described(annotation)}") from error


def _has_dataclass(annotation: Any) -> bool:
    own = isinstance(annotation, type) and is_dataclass(annotation)
    return own or any(map(_has_dataclass, get_args(annotation)))


@cache
def _adapter(annotation: Any) -> "TypeAdapter[Any]":
    from pydantic import ConfigDict, TypeAdapter

    return TypeAdapter(_strict(annotation), config=ConfigDict(arbitrary_types_allowed=True))


def _strict(annotation: Any, marks: Sequence[Any] = ()) -> Any:
    """An annotation for pydantic, which by itself would take "1" for a number and 1 for true.

    Args:
        annotation: The type.
        marks: What is said of it in an ``Annotated``.
    """
    from pydantic import AllowInfNan, BeforeValidator, Strict

    form, parts = get_origin(annotation), get_args(annotation)
    if annotation in CONVERTED:
        finite = [AllowInfNan(False)] if annotation is float else []
        before = BeforeValidator(CONVERTED[annotation])
        return Annotated[(annotation, Strict(), *finite, *marks, before)]
    if annotation is bool:
        return Annotated[bool, Strict()]
    if form is Annotated:
        return _strict(parts[0], parts[1:])
    if form in UNIONS:
        inner: Any = Union[tuple(map(_strict, parts))]  # noqa: UP007 (the parts are not known before)
    elif form is None or form is Literal:
        inner = annotation
    else:
        inner = form[tuple(map(_strict, parts))]
    return Annotated[(inner, *marks)] if marks else inner


def _text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _number(value: Any) -> Any:
    """A number with an exponent and no dot is text in YAML 1.1, as PyYAML reads it."""
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


def _whole(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, int) or not isinstance(value, Real):
        return value
    return int(float(value)) if float(value).is_integer() else value


def _real(value: Any) -> Any:
    value = _number(value)
    try:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else value
    except OverflowError:  # a whole number that no floating-point number can be
        return math.inf if value > 0 else -math.inf


#: How a value may be given that is not of the type itself.
CONVERTED: Mapping[Any, Callable[[Any], Any]] = {int: _whole, float: _real, str: _text}


def _noun(annotation: Any) -> tuple[str, str]:
    """The noun for values of a type, without an article, and what follows it; or no noun and all words."""
    form, parts = get_origin(annotation), get_args(annotation)
    if form is Annotated:
        words = next((mark.text for mark in parts[1:] if isinstance(mark, Words)), None)
        noun, rest = _noun(parts[0])
        return ("", words) if words else (noun, rest + _bounds(parts[1:]))
    if form in UNIONS:
        null = ", or null" if NoneType in parts else ""
        return "", " or ".join(described(part) for part in parts if part is not NoneType) + null
    if annotation is bool or form is Literal:
        return "", one_of(parts or (True, False))
    kind = form or annotation
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return "mapping", ""
    if isinstance(kind, type) and issubclass(kind, Sequence) and kind is not str:
        count = LENGTHS.get(len(parts), "") if kind is tuple and Ellipsis not in parts else ""
        noun, rest = _noun(parts[0])
        return (f"list of {count}{noun}s", rest) if noun else ("list", f", each of it {rest}")
    return NOUNS.get(kind, kind.__name__.lower()), ""


def _bounds(marks: Sequence[Any]) -> str:
    """The bounds of a number: " from 1 on", " above 0", " from 0 to below 1"."""
    words = []
    for mark in marks:
        if isinstance(mark, Ge):
            words.append(f" from {mark.ge}")
        elif isinstance(mark, Gt):
            words.append(f" above {mark.gt}")
        elif isinstance(mark, Le):
            words.append(f" to {mark.le}")
        elif isinstance(mark, Lt):
            words.append(f" to below {mark.lt}")
    if len(words) == 1 and words[0].startswith(" from"):
        words.append(" on")
    return "".join(words)


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
        most = "on" if largest is None else f"to {largest}"
        raise InputError(f"{name}={value!r} must be a whole number from {lowest} {most}")


def check_number(key: str, value: Any, holds: Callable[[float], bool], words: str) -> None:
    """Raise `InputError` unless ``value`` is a finite number that ``holds``, which ``words`` describe."""
    number = _real(value) if isinstance(value, Real) else None
    if not (isinstance(number, float) and math.isfinite(number) and holds(value)):
        raise InputError(f"{key}={shown(value)} must be {words}")


def shown(value: Any) -> str:
    """A value for a sentence, which has to tell a text that reads as a number from one."""
    try:
        return f"{value!r} (a text)" if isinstance(value, str) and math.isfinite(float(value)) else str(value)
    except ValueError:
        return str(value)


def check_choice(key: str, value: Any, choices: Sequence[Any]) -> None:
    """Raise `InputError` unless a setting is one of these values, such as ``(True, False)``."""
    if value not in choices:
        raise InputError(f"{key}={value} must be {one_of(choices)}")


def is_loopback(host: str) -> bool:
    """Whether nobody on a network can reach what listens at ``host``."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def one_of(choices: Sequence[Any]) -> str:
    """Choices in words: "auto, bf16 or fp32"."""
    *others, last = (str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in choices)
    return f"{', '.join(others)} or {last}" if others else last


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
            hint = f"did you mean '{meant[0]}'?" if meant else f"it has {', '.join(known) or 'none'}"
            raise InputError(f"{owner} has no setting '{key}': {hint}")
    for key in required:
        if key not in given:
            others = ", ".join(name for name in known if name != key)
            also = f"; it also has {others}" if others else ""
            raise InputError(f"{owner} lacks the setting '{key}'{also}")
