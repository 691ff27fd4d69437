"""How a command that runs until it is told to end is told."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGINT, SIGTERM


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
