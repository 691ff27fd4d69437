"""How many threads compute an update on a CPU where other programs want the cores too.

The threads of an update wait for each other hundreds of times, spinning. If another program takes one of the
cores, all of them wait for the thread that has none: two threads on two cores become slower than one.
"""

import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import torch

from shortcut_policy.data.in_order import usable_cores

#: The load is judged over so many seconds of updates, without a break of more than `BREAK` seconds.
WINDOW, BREAK = 3.0, 0.05
#: In cores: how many more than there are have to be wanted, or how many idle, for the threads to change.
SHORT, IDLE = 0.3, 0.75
#: Seconds for which a smaller number is kept at least.
PATIENCE = 10.0


class Load(NamedTuple):
    """What the system has counted so far, in seconds.

    Attributes:
        all: Of the cores that this process may use, time that anybody used, or a hypervisor kept for others.
        own: Of it, what this process used.
    """

    all: float
    own: float


def read_load() -> Load | None:
    """The load of this moment; None where the system does not tell (others than Linux)."""
    try:
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        # user, nice, system, idle, waiting for a disk, interrupts (two), taken by the hypervisor
        ticks = [[int(text) for text in line[1:9]] for line in lines if line[0] in cores]
        used = sum(sum(core) - core[3] - core[4] for core in ticks)
        return Load(used / os.sysconf("SC_CLK_TCK"), time.process_time()) if ticks else None
    except (OSError, AttributeError, IndexError, ValueError):
        return None


class Threads:
    """Sets PyTorch's number of threads for as long as a training lasts, and with ``auto`` adapts it.

    Used twice: `Threads` itself is the context of each update, and `close` ends it. ::

        threads = Threads("auto", device)
        for ...:
            with threads:
                update()
        threads.close()

    There are never more threads than there were at the start (``OMP_NUM_THREADS``, or a thread a core). They
    become fewer when they and other programs want more cores than there are, unless that turns out slower,
    and more when cores are idle. On a machine that is left alone nothing changes, and nothing is tried.

    Args:
        setting: A number, or ``auto``.
        device: That trains; with a GPU, ``auto`` leaves the threads alone.
        read: Where the load is read.
        clock: Seconds.
        cores: That this process may use; asked of the system if None.
    """

    def __init__(
        self,
        setting: int | Literal["auto"],
        device: torch.device,
        read: Callable[[], Load | None] = read_load,
        clock: Callable[[], float] = time.perf_counter,
        cores: int | None = None,
    ) -> None:
        self._before = torch.get_num_threads()
        self.most = self._before if setting == "auto" else setting
        self._read, self._clock = read, clock
        self.adapts = setting == "auto" and device.type == "cpu" and self.most > 1 and read() is not None
        self.count = 0
        self._use(self.most)
        self._left = self._begun = self._hold_until = -math.inf
        self._load: Load | None = None
        self._cores = cores or usable_cores()
        self._updates = 0
        #: Threads and updates a second before they became fewer.
        self._more: tuple[int, float] | None = None

    def close(self) -> None:
        """Give PyTorch the number that it had."""
        self._use(self._before)

    def __enter__(self) -> Self:
        if self.adapts and self._clock() - self._left > BREAK:
            self._begin()  # a validation, rollout or checkpoint is not the load of an update
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.adapts:
            return
        self._updates, self._left = self._updates + 1, self._clock()
        if self._left - self._begun >= WINDOW:
            self._judge()
            self._begin()

    def _begin(self) -> None:
        self._load, self._updates, self._begun = self._read(), 0, self._clock()
        self._left = self._begun

    def _judge(self) -> None:
        load = self._read()
        if load is None or self._load is None:
            return
        now, seconds = self._left, self._left - self._begun
        own = (load.own - self._load.own) / seconds
        others = (load.all - self._load.all) / seconds - own
        # Where cores are short, others get as small a part of what they want as the threads here.
        share = min(1.0, max(0.1, own / self.count))
        short = self.count + others / share - self._cores
        rate, more, self._more = self._updates / seconds, self._more, None
        if more is not None and rate < more[1]:
            self._use(more[0])
            self._hold_until = now + PATIENCE
        elif now < self._hold_until:
            return
        elif short > SHORT and self.count > 1:
            self._more = self.count, rate
            self._use(max(1, self.count - max(1, round(short))))
            self._hold_until = now + PATIENCE
        elif short <= -IDLE and self.count < self.most:
            self._use(min(self.most, self.count + math.floor(1 - IDLE - short)))

    def _use(self, count: int) -> None:
        if count != self.count:
            self.count = count
            torch.set_num_threads(count)
