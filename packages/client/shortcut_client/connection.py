"""A connection that is made again when it is lost."""

import ssl as tls
import time
from typing import Any, Optional, Union

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from shortcut_client.errors import ClientError, RequestRefused, ServerUnavailable
from shortcut_client.messages import unpack
from shortcut_client.websocket import WebSocket

#: Seconds before the third try; each waits twice as long as the one before. The second one comes at once: a
#: connection that rested may have ended long ago, and its server been started again.
FIRST_WAIT, LONGEST_WAIT = 0.05, 1.0
#: The server closes with this code what is larger than it takes.
TOO_LARGE = 1009
TURNED_AWAY = (401, 403)
#: Of the messages that are read here.
PROTOCOL = 1


class Connection:
    """Sends a message and returns the answer, over as many connections as it takes.

    Args:
        url: ``ws://host:port`` or ``wss://host:port``.
        api_key: Sent with each connection.
        ssl: Context of TLS; None for that of the system if the address wants one.
        timeout: Seconds in which a connection has to be made and a message to be answered.
        patience: Seconds after which a server that cannot be reached is given up.
    """

    def __init__(
        self,
        url: str,
        api_key: Optional[str],
        ssl: Optional[tls.SSLContext],
        timeout: float,
        patience: float,
    ) -> None:
        if not url.startswith("wss://" if ssl else ("ws://", "wss://")):
            raise ClientError(f"{url} must be {'wss' if ssl else 'ws'}://host:port, as the server prints it")
        self._url, self._ssl, self._timeout, self._patience = url, ssl, timeout, patience
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._socket: Optional[WebSocket] = None
        #: What the server said of its policy when it was last connected.
        self.metadata: dict[str, Any] = {}

    def open(self) -> None:
        """Connect, if it is not connected."""
        self._until(time.monotonic() + self._patience, None)

    def ask(self, message: bytes, begun: Optional[dict[str, Any]] = None) -> bytes:
        """The answer to a message.

        A lost connection is made again, and the message sent again: a request changes nothing outside of the
        session, which is new then. An answer that is late is not waited for any longer, and never taken for
        that to a later question.

        Args:
            message: What is asked.
            begun: Metadata with which the episode began that goes on; None if it is all the same who answers.

        Raises:
            RequestRefused: The server says why; or it has another policy now than when the episode began.
            ServerUnavailable: There is no server, or no answer in time.
        """
        answer = self._until(time.monotonic() + self._patience, message, begun)
        if isinstance(answer, str):
            raise RequestRefused(answer)
        return answer

    def close(self) -> None:
        """Hang up."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def _until(
        self, deadline: float, message: Optional[bytes], begun: Optional[dict[str, Any]] = None
    ) -> Union[bytes, str]:
        wait = 0.0
        while True:
            try:
                return self._once(message, begun)
            except (OSError, InvalidHandshake, ConnectionClosed) as error:
                self._drop()
                _check_worth_trying(error, self._url)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ServerUnavailable(
                        f"no policy server at {self._url} for {self._patience:g} s ({_reason(error)})"
                    ) from error
                time.sleep(min(wait, left))
                wait = min(2 * wait or FIRST_WAIT, LONGEST_WAIT)

    def _once(self, message: Optional[bytes], begun: Optional[dict[str, Any]]) -> Union[bytes, str]:
        socket = self._socket or self._connected()
        if message is None:
            return b""
        if begun is not None:
            _check_same(begun, self.metadata, self._url)
        try:
            return socket.ask(message, self._timeout)
        except TimeoutError as error:
            self._drop()
            raise ServerUnavailable(f"{self._url} gave no answer in {self._timeout:g} s") from error
        except BaseException:
            # Ctrl-C too: the next question must not get this one's answer.
            self._drop()
            raise

    def _connected(self) -> WebSocket:
        try:
            self._socket = WebSocket(self._url, self._headers, self._ssl, self._timeout)
        except InvalidURI as error:
            raise ClientError(f"{self._url} is no address ({error}): give ws://host:port") from error
        first = self._socket.receive(self._timeout)
        metadata = unpack(first) if isinstance(first, bytes) else None
        if not isinstance(metadata, dict):
            self._drop()
            raise ClientError(f"{self._url} is no policy server: it sent no metadata")
        if metadata.get("protocol", PROTOCOL) != PROTOCOL:
            self._drop()
            raise ClientError(
                f"{self._url} speaks protocol {metadata['protocol']}, and this client {PROTOCOL}: install "
                "the client of the server's version"
            )
        self.metadata = metadata
        return self._socket

    def _drop(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.drop()


def _check_same(begun: dict[str, Any], now: dict[str, Any], url: str) -> None:
    """Raise `RequestRefused` if a server was started again with another policy."""
    before, after = _identity(begun), _identity(now)
    for name in before:
        if before[name] != after[name]:
            raise RequestRefused(
                f"{url} has another policy than the one that began this episode ({name} was {before[name]}, "
                f"is {after[name]}): stop the robot, and begin an episode with reset()"
            )


def _identity(metadata: dict[str, Any]) -> dict[str, Any]:
    """What stays when the same policy is served again; servers of older versions tell no weights."""
    shapes = {f"shape of {name}": field.get("shape") for name, field in metadata.get("obs", {}).items()}
    sizes = {name: metadata.get(name) for name in ("n_obs_steps", "n_action_steps", "weights")}
    return {"observations": sorted(shapes), **shapes, **sizes}


def _check_worth_trying(error: Exception, url: str) -> None:
    """Raise what trying again does not change."""
    if isinstance(error, InvalidStatus) and error.response.status_code in TURNED_AWAY:
        raise RequestRefused(f"{url} turned us away ({_reason(error)}): give its api_key") from error
    if isinstance(error, tls.SSLCertVerificationError):
        raise RequestRefused(
            f"the certificate of {url} is not trusted ({error.verify_message}): give an ssl context that does"
        ) from error
    if isinstance(error, ConnectionClosed) and error.rcvd is not None and error.rcvd.code == TOO_LARGE:
        raise RequestRefused(f"the observation is larger than {url} takes") from error


def _reason(error: Exception) -> str:
    if isinstance(error, InvalidStatus):
        body = (error.response.body or b"").decode(errors="replace").strip()
        return body or f"status {error.response.status_code}"
    return str(error) or type(error).__name__
