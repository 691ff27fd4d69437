"""Messages of a policy server: msgpack with arrays of numbers.

The server's side is ``shortcut_policy.serving.protocol``; its tests hold the two together.
"""

import math
from typing import Any

import msgpack
import numpy as np

from shortcut_client.errors import ClientError

NUMBERS = "biuf"


def pack(content: Any) -> bytes:
    """Plain containers, numbers, texts and NumPy arrays of numbers as one message.

    Raises:
        TypeError: It holds something else.
    """
    packed: bytes = msgpack.packb(content, default=_plain)
    return packed


def unpack(message: bytes) -> Any:
    """What a message of the server holds.

    Raises:
        ClientError: It is damaged, or from another kind of server.
    """
    try:
        return msgpack.unpackb(message, object_hook=_arrays, strict_map_key=False)
    except (ValueError, TypeError, KeyError, OverflowError, msgpack.UnpackException) as error:
        raise ClientError(f"the server's message cannot be read ({error}): is it a policy server?") from error


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind not in NUMBERS:
        raise TypeError(f"an array of {value.dtype} cannot be sent: numbers only")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, int):
        raise TypeError(f"{value:.3g} cannot be sent: give whole numbers of 64 bits at most")
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} cannot be sent: give NumPy arrays, numbers or lists")
    if np.ma.is_masked(value):
        raise TypeError("an array with masked numbers cannot be sent: fill them in")
    return {
        b"__ndarray__": True,
        b"data": value.tobytes(),
        b"dtype": value.dtype.str,
        b"shape": value.shape,
    }


def _arrays(content: dict[Any, Any]) -> Any:
    if b"__ndarray__" not in content:
        return content
    dtype = np.dtype(str(content[b"dtype"]))
    if dtype.kind not in NUMBERS or len(content[b"data"]) != math.prod(content[b"shape"]) * dtype.itemsize:
        raise ValueError("an array that holds no numbers, or not as many as it says")
    # A copy, which the caller may change.
    return np.frombuffer(content[b"data"], dtype).reshape(content[b"shape"]).copy()
