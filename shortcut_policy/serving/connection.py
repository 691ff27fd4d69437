"""A client's connection: answered at once where that can be, and never waited for."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

from websockets.asyncio.server import ServerConnection
from websockets.frames import BINARY, DATA_OPCODES, Frame
from websockets.protocol import Event, State

LOG = logging.getLogger(__name__)
#: When a computer that has vanished is given up: seconds of silence before it is asked, between questions,
#: their number, and seconds for which an answer may stay without a receipt.
KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
UNRECEIPTED_SECONDS = 50

#: Answers a message with the function that it is given, or returns false.
AtOnce = Callable[[bytes, Callable[[bytes | str], None]], bool]


class ClientConnection(ServerConnection):
    """A connection of ``websockets`` with three things more.

    A message that comes alone is offered to ``at_once`` in the moment in which it is read. The usual way,
    through a queue into a task that wakes up, takes two tenths of a millisecond after a policy has filled the
    caches. A second message of the same read waits in the queue, so that others have their turn.

    A client that does not take its answers is cut off after ``send_timeout`` seconds.

    Whether the other computer is there still is the business of TCP: clients need no thread that answers
    pings while their robot rests.
    """

    send_timeout = 10.0
    at_once: AtOnce | None = None
    _waiting = 0  # messages in the queue
    _alone = False
    _cutting: asyncio.TimerHandle | None = None

    async def answer_all(self, answer: Callable[[bytes | str], Awaitable[bytes | str]]) -> None:
        """Answer the messages that were not answered at once, until the connection ends."""
        async for message in self:
            await self.send(await answer(message))
            self._waiting -= 1
            await asyncio.sleep(0)  # others have their turn, even if the next message is there

    def is_open(self) -> bool:
        """Whether anybody waits for answers."""
        return self.protocol.state is State.OPEN

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Let TCP watch over the other computer."""
        super().connection_made(transport)
        there: socket.socket = transport.get_extra_info("socket")
        there.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            there.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        there.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * UNRECEIPTED_SECONDS)

    def data_received(self, data: bytes) -> None:
        """See whether what is read may be answered at once."""
        self._alone = not self._waiting and not self.paused
        super().data_received(data)

    def process_event(self, event: Event) -> None:
        """Answer a message, or put it into the queue."""
        if not (isinstance(event, Frame) and event.opcode in DATA_OPCODES):
            super().process_event(event)
            return
        alone, self._alone = self._alone, False
        alone = alone and event.opcode is BINARY and event.fin and self.is_open()
        if alone and self.at_once is not None and self.at_once(bytes(event.data), self._write):
            return
        self._waiting += event.fin
        super().process_event(event)

    def pause_writing(self) -> None:
        """Give the client its time to take what is there."""
        super().pause_writing()
        self._cutting = self.loop.call_later(self.send_timeout, self._cut_off)

    def resume_writing(self) -> None:
        """It has taken it."""
        super().resume_writing()
        self._keep()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody has to be cut off any more."""
        super().connection_lost(exc)
        self._keep()

    def _write(self, message: bytes | str) -> None:
        if isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        self.send_data()

    def _cut_off(self) -> None:
        LOG.warning("a client took no answer for %g s: its connection is cut", self.send_timeout)
        self.transport.abort()

    def _keep(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None
