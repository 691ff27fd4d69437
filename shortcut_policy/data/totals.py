"""Sums by which a training knows its data again."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

#: Two sums of the same float32 numbers differ by a smaller part, whatever processor computed them.
ROUNDING = 1e-6


def totals(blocks: Iterable[tuple[int, np.ndarray]]) -> list[float]:
    """One sum that rows and elements weigh in differently, and one of sizes.

    They are those of the same data on any processor, but for `ROUNDING`; a hash is another where a processor
    rounds what is computed from the data in another way.

    Args:
        blocks: Number of the first row, and rows (n, *shape).
    """
    told = sizes = 0.0
    for start, rows in blocks:
        numbers = rows.reshape(len(rows), -1).astype(np.float64)
        told += float(np.cos(np.arange(start, start + len(rows))) @ numbers.sum(1))
        told += float((numbers @ np.sin(np.arange(numbers.shape[1]))).sum())
        sizes += float(np.abs(numbers).sum())
    return [told, sizes]


def changed(before: Any, now: Mapping[str, list[float]]) -> str | None:
    """The first field with other `totals` than before; None if there is none.

    Args:
        before: What a checkpoint holds; what is no totals there says nothing.
        now: Totals of each field.
    """
    for name, (told, sizes) in now.items():
        match before.get(name) if isinstance(before, Mapping) else None:
            case [int() | float() as old, int() | float() as old_sizes]:
                if max(abs(told - old), abs(sizes - old_sizes)) > ROUNDING * max(sizes, old_sizes):
                    return name
    return None
