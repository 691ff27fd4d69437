"""How a command that runs until it is told to end is told."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM
from types import FrameType

from shortcut_policy.errors import Stopped


@contextmanager
def tidied() -> Iterator[None]:
    """SIGTERM ends the process as an exception does, so that what is half there is removed."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    before = signal.signal(SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(SIGTERM, before)


@contextmanager
def ending() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of ending the process."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (SIGINT, SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
