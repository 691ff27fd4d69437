"""What is taken out of a decoded ROS 2 message: numbers by the path of a field, and pictures."""

import io
import re
from typing import Any

import numpy as np

from shortcut_policy.errors import InputError

COMPRESSED, RAW = "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image"
IMAGES = (COMPRESSED, RAW)
#: Encodings of raw images: channels, and the order in which they become red, green, blue.
ENCODINGS = {"rgb8": (3, slice(None)), "bgr8": (3, slice(None, None, -1)), "mono8": (1, slice(None))}
STEP = re.compile(r"(?P<name>[A-Za-z]\w*)(?:\[(?P<start>\d*)(?P<range>:?)(?P<stop>\d*)\])?")
SECOND = 1_000_000_000
#: Names of fields, each with what is taken out of it.
Steps = list[tuple[str, int | slice | None]]


def stamp_of(message: Any) -> int | None:
    """Nanoseconds of the header, or of a message that has a stamp itself; None if it has neither."""
    stamp = getattr(getattr(message, "header", message), "stamp", None)
    return None if stamp is None else int(stamp.sec) * SECOND + int(stamp.nanosec)


def parse_path(path: str) -> Steps:
    """Steps of a path such as ``transforms[0].transform.translation`` or ``position[0:6]``.

    Raises:
        InputError: It is no path.
    """
    steps: Steps = []
    for part in path.split("."):
        found = STEP.fullmatch(part)
        if found is None or (found["start"] == "" and not found["range"]):
            raise InputError(f"field: '{path}' is no path of a field, such as position[0:6] or pose.position")
        index: int | slice | None = None
        if found["range"]:
            index = slice(int(found["start"] or 0), int(found["stop"]) if found["stop"] else None)
        elif found["start"]:
            index = int(found["start"])
        steps.append((found["name"], index))
    return steps


def numbers(message: Any, steps: Steps, order: list[int] | None = None) -> np.ndarray:
    """The numbers at a path, (D,) float64, a copy; those of a message in it in the order of its fields.

    Args:
        message: Decoded.
        steps: Of the path.
        order: In which the last list on the path is brought first, if it is not in the right one.

    Raises:
        InputError: There is no such field, or it holds no numbers.
    """
    *through, (name, index) = steps
    value = _field(inside(message, through), name)
    if order is not None:
        value = [value[place] for place in order]
    value = _element(value, name, index)
    flat = _flat(value)
    if not flat:
        raise InputError(f"'{name}' is empty")
    return np.array(flat, np.float64)


def inside(message: Any, steps: Steps) -> Any:
    """What a path leads to.

    Raises:
        InputError: There is no such field, or it has no such element.
    """
    for name, index in steps:
        message = _element(_field(message, name), name, index)
    return message


def _field(message: Any, name: str) -> Any:
    if not hasattr(message, name):
        fields = ", ".join(getattr(message, "__slots__", ())) or "no fields"
        raise InputError(f"there is no field '{name}' (there are {fields})")
    return getattr(message, name)


def _element(value: Any, name: str, index: int | slice | None) -> Any:
    if index is None:
        return value
    wanted = index if isinstance(index, int) else (index.stop or index.start + 1) - 1
    if not hasattr(value, "__len__") or wanted >= len(value):
        count = len(value) if hasattr(value, "__len__") else "no"
        raise InputError(f"'{name}' has {count} values, and number {wanted} is asked for")
    return value[index]


def holds_quaternion(message: Any, steps: Steps) -> bool:
    """Whether a path leads to a message with a quaternion in it."""
    return _has_quaternion(inside(message, steps))


def picture(message: Any, kind: str, size: tuple[int, int] | None) -> np.ndarray:
    """The picture of a message, (H, W, 3) or, if it is grey, (H, W, 1), uint8, a copy.

    Args:
        message: Decoded.
        kind: Its type, one of `IMAGES`.
        size: Height and width to which it is brought; as it is if None.

    Raises:
        InputError: An encoding that is not supported, or damaged data.
    """
    from PIL import Image

    if kind == COMPRESSED:
        image = _decoded(bytes(message.data), message.format)
    else:
        image = Image.fromarray(_raw(message))
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _decoded(data: bytes, form: str) -> Any:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"a picture of format '{form}' cannot be decoded as JPEG or PNG ({error})"
        ) from error
    if image.mode not in ("RGB", "L"):
        raise InputError(
            f"a picture of format '{form}' has the pixels {image.mode}; only RGB and grey of 8 bits are read"
        )
    return image


def _raw(message: Any) -> np.ndarray:
    if message.encoding not in ENCODINGS:
        raise InputError(
            f"the encoding '{message.encoding}' is not supported; {', '.join(ENCODINGS)}, JPEG and PNG are"
        )
    channels, order = ENCODINGS[message.encoding]
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(bytes(message.data), np.uint8)
    if step < width * channels or len(data) < height * step or not height * width:
        raise InputError(f"a picture of {height} x {width}, {step} bytes a row, has {len(data)} bytes")
    # A row may be longer than its pixels.
    rows = data[: height * step].reshape(height, step)[:, : width * channels]
    pixels = rows.reshape(height, width, channels)[:, :, order]
    return np.ascontiguousarray(pixels if channels == 3 else pixels[:, :, 0])


def _flat(value: Any) -> list[float]:
    if hasattr(value, "__slots__") and hasattr(value, "_type"):
        return [number for name in value.__slots__ for number in _flat(getattr(value, name))]
    if isinstance(value, str):
        raise InputError(f"it holds the text '{value:.20}' and no number")
    if isinstance(value, bool | int | float | np.number | np.bool_):
        return [float(value)]
    return [number for item in value for number in _flat(item)]


def _has_quaternion(value: Any) -> bool:
    if not hasattr(value, "_type"):
        return False
    is_one = str(value._type).endswith("/Quaternion")
    return is_one or any(_has_quaternion(getattr(value, name)) for name in value.__slots__)
