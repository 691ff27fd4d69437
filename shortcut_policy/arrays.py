"""Numbers that a caller hands over, of whatever kind, as tensors; nothing in them is changed or left out."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.errors import InputError


def as_numbers(name: str, value: Any) -> Tensor:
    """Numbers as a tensor without gradient; an array of a type and order that torch has shares its memory.

    Args:
        name: What they are, for errors.
        value: A tensor, also one that is sparse or of floats of 8 bits; or what NumPy makes an array of.

    Raises:
        InputError: It is no array of real numbers, or holds no value in some places.
    """
    if not isinstance(value, Tensor):
        return torch.as_tensor(as_array(name, value))
    if value.is_complex():
        raise InputError(f"{name} must be real numbers, not {value.dtype}")
    if value.is_meta or value.is_nested:
        kind = (
            "on the device 'meta', which holds no numbers"
            if value.is_meta
            else "of tensors, without one shape"
        )
        raise InputError(f"{name} is a tensor {kind}: give one array of numbers")
    value = value.detach()
    if value.layout != torch.strided:
        value = value.to_dense()
    # Torch compares no floats of 8 bits.
    return value.float() if value.is_floating_point() and value.element_size() == 1 else value


def as_array(name: str, value: Any) -> np.ndarray:
    """Numbers that are no tensor as an array that torch takes: a copy of it, where it does not.

    Raises:
        InputError: It is no array of real numbers, or some of them are masked.
    """
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # tensors in a list raise the last two
        raise InputError(f"{name} is no array ({error})") from error
    if array.dtype.kind not in "biuf":
        shown = " ".join(repr(array).split())
        raise InputError(f"{name} must be real numbers, not {array.dtype}: {shown:.60}")
    _check_unmasked(name, value)
    if array.dtype.itemsize > 8 or not array.dtype.isnative:
        small = np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
        array = array.astype(small)
    # Views that go backwards: a picture whose channels or rows were turned around with [..., ::-1].
    return array.copy() if any(stride < 0 for stride in array.strides) else array


def copied(name: str, value: Any) -> np.ndarray:
    """A copy as an array of whatever kind, numbers or not.

    Raises:
        InputError: It is no array, or some of it is masked.
    """
    _check_unmasked(name, value)
    if isinstance(value, Tensor):  # with a gradient, or of a GPU, as simulators of many robots give them
        numbers = as_numbers(name, value).cpu()
        value = (numbers.float() if numbers.dtype == torch.bfloat16 else numbers).numpy()
    try:
        return np.array(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{name} is no array ({error})") from error


def _check_unmasked(name: str, value: Any) -> None:
    if np.ma.is_masked(value):
        raise InputError(f"{name} has numbers that are masked, for which nothing can stand: fill them in")
