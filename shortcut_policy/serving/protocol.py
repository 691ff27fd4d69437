"""The messages between a server and its clients: msgpack with arrays of numbers, nothing that could run.

The form is that of openpi's clients (https://github.com/Physical-Intelligence/openpi, ``openpi-client``
0.1.2): an array is a map with the byte keys ``__ndarray__``, ``data``, ``dtype`` and ``shape``, a NumPy
scalar one with ``__npgeneric__``, ``data`` and ``dtype``. After connecting the server sends a map of
metadata. Then each message of bytes is an observation, answered by a map with ``actions``; an answer of text
is an error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgpack
import numpy as np

from shortcut_policy.adaptive import Steps
from shortcut_policy.errors import InputError
from shortcut_policy.settings import LARGEST_SEED, check_keys, check_number, check_whole

#: The key of an observation under which a client says how it wants to be answered.
REQUEST = "__request__"
#: Booleans, signed and unsigned integers, floats; objects, texts, structures and complex numbers are refused.
NUMBERS = "biuf"
LARGEST_DIMENSIONS, LARGEST_MAP, LARGEST_LIST, LONGEST_NAME = 8, 256, 65_536, 200


@dataclass(frozen=True)
class Options:
    """How a client wants to be answered; None leaves it to the server, or to where the session stands.

    Attributes:
        steps: Sampling steps, or ``auto``.
        guidance: See `Policy.act`.
        seed: The noise is a function of it,
        episode: of the number of the episode
        chunk: and of that of the chunk in its episode.
        reset: An episode begins with this request.
        consecutive: The observation, of one step, follows that of the session's last request by one step of
            control.
    """

    steps: Steps | None = None
    guidance: float | None = None
    seed: int | None = None
    episode: int | None = None
    chunk: int | None = None
    reset: bool = False
    consecutive: bool = False

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps != "auto":
            check_whole(f"{REQUEST}.steps", self.steps, 1)
        if self.guidance is not None:
            check_number(f"{REQUEST}.guidance", self.guidance, math.isfinite, "a finite number")
        for name in ("seed", "episode", "chunk"):
            if getattr(self, name) is not None:
                check_whole(f"{REQUEST}.{name}", getattr(self, name), 0, LARGEST_SEED)
        for name in ("reset", "consecutive"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{REQUEST}.{name}={getattr(self, name)!r:.60} must be true or false")


OPTIONS = tuple(Options.__dataclass_fields__)


def read_request(message: bytes | str) -> tuple[dict[str, Any], Options]:
    """The observations of a request, unchecked, and its options.

    Raises:
        InputError: It is no map of texts, or its options are wrong.
    """
    if isinstance(message, str):
        raise InputError("a request is a message of bytes, an observation packed by msgpack, and not of text")
    content = unpack(message)
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise InputError(
            f"a request is a map of names to arrays, packed by msgpack, and not {type(content).__name__}"
        )
    if any(len(name) > LONGEST_NAME for name in content):
        raise InputError(f"a request holds a name of more than {LONGEST_NAME} characters")
    options = content.pop(REQUEST, None)
    if options is None:
        return content, Options()
    if not isinstance(options, dict) or any(len(str(name)) > LONGEST_NAME for name in options):
        raise InputError(f"{REQUEST} must be a map of options: {', '.join(OPTIONS)}")
    check_keys(REQUEST, options, (), OPTIONS)
    return content, Options(**options)


def pack(content: Any) -> bytes:
    """Plain containers, numbers, texts and NumPy arrays of numbers as one message."""
    packed: bytes = msgpack.packb(content, default=_plain)
    return packed


def unpack(message: bytes) -> Any:
    """What a message holds. It may come from anybody: only what `pack` makes is read, and nothing is run.

    Raises:
        InputError: It is damaged, or holds something else.
    """
    try:
        return msgpack.unpackb(
            message,
            object_hook=_arrays,
            ext_hook=_no_extension,
            strict_map_key=False,
            max_map_len=LARGEST_MAP,
            max_array_len=LARGEST_LIST,
        )
    except InputError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"the message is no msgpack that can be read here ({reason:.120})") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind not in NUMBERS:
        raise TypeError(f"an array of {value.dtype} is not sent: numbers only")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _arrays(content: dict[Any, Any]) -> Any:
    if b"__ndarray__" in content:
        return _array(content)
    if b"__npgeneric__" in content:
        dtype, value = _dtype(content), content.get(b"data")
        if not isinstance(value, bool | int | float):
            raise InputError(f"a scalar of {dtype} is a number, and not {type(value).__name__}")
        return dtype.type(value)
    return content


def _array(content: Mapping[bytes, Any]) -> np.ndarray:
    dtype, shape, data = _dtype(content), content.get(b"shape"), content.get(b"data")
    sizes = shape if isinstance(shape, list) and len(shape) <= LARGEST_DIMENSIONS else [-1]
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in sizes):
        raise InputError(
            f"an array of shape {shape!r:.60} cannot be read: at most {LARGEST_DIMENSIONS} whole numbers"
        )
    expected = math.prod(sizes) * dtype.itemsize
    if not isinstance(data, bytes) or len(data) != expected:
        found = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise InputError(f"an array of {dtype} and shape {sizes} takes {expected} bytes, and holds {found}")
    # A copy, because torch wants memory that may be written.
    return np.frombuffer(data, dtype).reshape(sizes).copy()


def _dtype(content: Mapping[bytes, Any]) -> np.dtype:
    name = content.get(b"dtype")
    try:
        # Only texts, and no others than NumPy writes: a list or a comma would describe a structure.
        dtype = np.dtype(name) if isinstance(name, str) and len(name) <= 4 else None
    except (TypeError, ValueError):
        dtype = None
    if dtype is None or dtype.kind not in NUMBERS or dtype.itemsize > 8:
        raise InputError(f"an array of {name!r:.40} is refused: booleans, integers and floats up to 64 bits")
    return dtype


def _no_extension(code: int, data: bytes) -> Any:
    raise InputError(f"the message holds a msgpack extension of type {code}, and only plain types are read")
