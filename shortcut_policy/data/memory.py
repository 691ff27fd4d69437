"""Which fields of a dataset stay in memory, and giving back what is free."""

import ctypes
import os
from collections.abc import Iterable
from itertools import accumulate

import numpy as np

from shortcut_policy.data.source import Field

#: Key, columns, shape, and whether it is an image: fields that are the same in this are loaded once.
Kind = tuple[str, tuple[int, ...] | None, tuple[int, ...], bool]


def kind_of(field: Field) -> Kind:
    """What decides the values of a field."""
    return field.key, field.columns, field.shape, field.normalize == "image"


def needed_bytes(fields: Iterable[Field], rows: int) -> dict[Kind, int]:
    """Bytes of what is loaded together with all that is smaller: the smallest stay in memory."""
    sizes = {
        kind_of(field): rows * int(np.prod(field.shape)) * (1 if field.normalize == "image" else 4)
        for field in fields
    }
    kinds = sorted(sizes, key=sizes.__getitem__)
    return dict(zip(kinds, accumulate(sizes[kind] for kind in kinds), strict=True))


def local_processes() -> int:
    """Processes that torchrun started on this machine: each holds the fields, and all share its memory."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def trim_memory() -> None:
    """Give the system what was freed in this process, where its C library (glibc) can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
