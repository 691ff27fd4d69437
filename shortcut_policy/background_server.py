"""What servers in a thread of their own have in common: to begin, to be told that they listen, to end."""

import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from shortcut_policy.errors import InputError


class BackgroundServer(ABC):
    """Runs `_run` in a thread, whose first act is to listen.

    Args:
        host: Where it listens,
        port: as well.
        name: Of the thread.
    """

    def __init__(self, host: str, port: int, name: str) -> None:
        self._host, self._port = host, port
        #: The port, once it listens.
        self._listening: Future[int] = Future()
        #: Set when `_run` turns to the address: what the system refuses before that is something else.
        self._binding = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def place(self) -> str:
        """Host and port as they stand in an address, known once it has started."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._listening.result()}"

    @abstractmethod
    def _run(self) -> None:
        """Listen, say so in `_listening`, and serve until the end."""

    @abstractmethod
    def stop(self) -> None:
        """End, and return when that is done."""

    def start(self) -> None:
        """Listen; returns when clients can connect.

        Raises:
            InputError: The address cannot be used, or what `_run` raises before it listens.
        """
        self._thread.start()
        try:
            self._listening.result()
        except OSError as error:
            if not self._binding:
                raise
            raise InputError(
                f"host={self._host} port={self._port} cannot be listened at "
                f"({error.strerror or error}): give another"
            ) from error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
