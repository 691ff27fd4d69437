"""Work that is done on all cores, with its results in order and few of them in memory."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Done = TypeVar("Done")
#: Results that wait to be used, for each core.
AHEAD = 2


def in_order(work: Callable[[Given], Done], items: Iterable[Given]) -> Iterator[Done]:
    """``map(work, items)`` in a thread for each core; for work that does not hold the interpreter's lock.

    What ``work`` raises comes out at its place, and nothing that was not begun is begun after it.
    """
    cores = usable_cores()
    waiting: deque[Future[Done]] = deque()
    with ThreadPoolExecutor(cores) as threads:
        try:
            for item in items:
                waiting.append(threads.submit(work, item))
                if len(waiting) >= AHEAD * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
