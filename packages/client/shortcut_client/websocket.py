"""A websocket for one question at a time, without a thread of its own.

Two threads, one that reads and one that waits for it, cost each answer a tenth of a millisecond and more.
"""

import contextlib
import socket
import ssl as tls
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Optional, Union

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import BINARY, CONT, TEXT
from websockets.protocol import State
from websockets.uri import parse_uri

#: Bytes of a message, and of one read.
LARGEST, CHUNK = 2**26, 2**16
CLOSING_SECONDS = 1.0


class WebSocket:
    """Connected, until it raises anything or is closed.

    The protocol is that of ``websockets``; here are the socket and the time.

    Args:
        url: ``ws://host:port`` or ``wss://host:port``.
        headers: Sent with the handshake.
        ssl: Context of TLS; None for that of the system if the address wants one.
        timeout: Seconds in which the connection has to be made.

    Raises:
        OSError: Nobody listens, or the certificate is not trusted.
        TimeoutError: It took too long.
        InvalidHandshake: The other side is no websocket, or turned us away.
        InvalidURI: ``url`` is no address.
    """

    def __init__(
        self, url: str, headers: Mapping[str, str], ssl: Optional[tls.SSLContext], timeout: float
    ) -> None:
        deadline, address = time.monotonic() + timeout, parse_uri(url)
        self._protocol = ClientProtocol(address, max_size=LARGEST)
        self._events: deque[Any] = deque()
        self._socket = socket.create_connection((address.host, address.port), timeout)
        try:
            # A request is a single write: nothing comes that it could be sent together with.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if address.secure:
                context = ssl or tls.create_default_context()
                self._socket = context.wrap_socket(self._socket, server_hostname=address.host)
            request = self._protocol.connect()
            for name, value in headers.items():
                request.headers[name] = value
            self._protocol.send_request(request)
            self._send()
            while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
                self._read(deadline)
            if self._protocol.handshake_exc is not None:
                raise self._protocol.handshake_exc
            self._events.popleft()  # the answer to the handshake
        except BaseException:
            self._socket.close()
            raise

    def ask(self, message: bytes, timeout: float) -> Union[bytes, str]:
        """The answer to a message, see `receive`."""
        deadline = time.monotonic() + timeout
        # What nobody asked for is no answer.
        self._events.clear()
        self._check_open()
        self._protocol.send_binary(message)
        self._socket.settimeout(timeout)
        # Who hangs up may have said why, which is read below.
        with contextlib.suppress(ConnectionError):
            self._send()
        return self.receive(deadline - time.monotonic())

    def receive(self, timeout: float) -> Union[bytes, str]:
        """The next message.

        Raises:
            TimeoutError: None came in time.
            OSError: The connection is lost.
            ConnectionClosed: The other side closed it.
        """
        deadline, parts, text = time.monotonic() + timeout, [], False
        while True:
            while self._events:
                frame = self._events.popleft()
                if frame.opcode not in (TEXT, BINARY, CONT):
                    continue  # a ping, which has been answered
                text = frame.opcode is TEXT or (text and frame.opcode is CONT)
                parts.append(bytes(frame.data))
                if frame.fin:
                    message = b"".join(parts)
                    return message.decode(errors="replace") if text else message
            self._check_open()
            self._read(deadline)

    def close(self) -> None:
        """Say farewell and hear that of the other side, so that it knows when this returns."""
        with contextlib.suppress(OSError, WebSocketException):
            self._protocol.send_close(1000)
            deadline = time.monotonic() + CLOSING_SECONDS
            self._send()
            while self._protocol.state is not State.CLOSED:
                self._read(deadline)
        self.drop()

    def drop(self) -> None:
        """Forget the connection without a farewell, for which nobody may be there."""
        self._socket.close()

    def _check_open(self) -> None:
        if self._protocol.state is not State.OPEN:
            self._protocol.receive_eof()
            raise self._protocol.close_exc

    def _send(self) -> None:
        """Send what the protocol has to say; that it has no more is seen when the socket is closed."""
        for data in filter(None, self._protocol.data_to_send()):
            self._socket.sendall(data)

    def _read(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        try:
            data = self._socket.recv(CHUNK)
        except socket.timeout as error:  # another one than TimeoutError before Python 3.10
            raise TimeoutError from error
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._events.extend(self._protocol.events_received())
        self._send()
