"""Leaving the loop when the process is asked to end."""

import signal
import threading
from types import FrameType
from typing import Any


class StopSignals:
    """Remembers SIGINT or SIGTERM until the loop can save; a second one acts at once.

    Attributes:
        received: Number of the signal; None if there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._previous[number])
