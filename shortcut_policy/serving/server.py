"""The server: who may connect, what a client is told, what is answered."""

import asyncio
import hmac
import http
import logging
import math
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from shortcut_policy.adaptive import Steps, check_steps
from shortcut_policy.background_server import BackgroundServer
from shortcut_policy.errors import InputError, one_line
from shortcut_policy.policy import Policy
from shortcut_policy.serving.batching import Batcher
from shortcut_policy.serving.connection import ClientConnection
from shortcut_policy.serving.metadata import server_metadata
from shortcut_policy.serving.metrics import ServerMetrics
from shortcut_policy.serving.protocol import pack, read_request
from shortcut_policy.serving.sessions import Answer, Session
from shortcut_policy.settings import Count, Positive, Seed, check_fields, is_loopback

LOG = logging.getLogger(__name__)
#: Messages of a client that wait unread; it is not read on before they are answered.
UNREAD = 2
CLOSING_SECONDS = 2.0
#: Characters of a refusal.
LONGEST_SENTENCE = 600


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """How a policy is served; ``configs/serve.yaml`` describes the settings.

    Attributes:
        host: Address to listen at.
        port: 0 for any that is free.
        steps: Sampling steps of requests that name none, a number or ``auto``.
        max_steps: The most that a request may name.
        seed: Of the noise of requests that name none.
        batch_size: Rows of every batch, see `Batcher`.
        max_clients: More are turned away.
        max_message: Bytes of a request; None for twice what a history takes in 64 bits, but 1 MiB at least.
        send_timeout: Seconds in which a client has to take an answer.
        rate: Control steps a second, told to the clients.
        units: Observation or ``action`` -> units in words, told to the clients.
        api_key_file: Its text is what clients have to know; None for nothing.
        tls_cert: File of the certificate chain, PEM; None for a connection in clear text.
        tls_key: File of its private key.
        exposed: Listen beyond this machine without a key.

    Raises:
        InputError: A setting is not of its type, or the server would be open to a network.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    steps: Any = 1
    max_steps: Count = 128
    seed: Seed = 0
    batch_size: Count = 1
    max_clients: Count = 64
    max_message: Count | None = None
    send_timeout: Positive = 10.0
    rate: Positive | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    api_key_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    exposed: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.port < 65536:
            raise InputError(f"port={self.port} must be a whole number from 0 to 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("tls_cert and tls_key belong together: give both files, or none")
        if not (is_loopback(self.host) or self.api_key_file or self.exposed):
            raise InputError(
                f"host={self.host} lets others on the network use this policy: give api_key_file, or "
                "exposed=true if that is meant"
            )


class PolicyServer(BackgroundServer):
    """Serves a policy, see `shortcut_policy.serving.protocol`, until it is stopped.

    Clients that came from a page in a browser, which says so by an ``Origin``, are turned away.

    Args:
        policy: Ready to act, on its device.
        settings: How it is served.

    Raises:
        InputError: A setting does not fit the policy, or the files of key or TLS cannot be used.

    Example:
        >>> with PolicyServer(load_policy("pretrained/pusht"), ServerSettings(port=0)) as server:
        ...     print(server.url)
    """

    def __init__(self, policy: Policy, settings: ServerSettings | None = None) -> None:
        self._policy, self._settings = policy, settings or ServerSettings()
        super().__init__(self._settings.host, self._settings.port, "sockets")
        self._steps: Steps = check_steps(policy.objective, self._settings.steps)
        self._tls, self._key = _tls(self._settings), _key(self._settings.api_key_file)
        self._metadata = pack(
            server_metadata(
                policy, self._steps, self._settings.max_steps, self._settings.rate, self._settings.units
            )
        )
        self._metrics = ServerMetrics()
        self._batcher = Batcher(policy, self._settings.batch_size, self._steps, self._metrics.observe)
        self._clients = 0

    @property
    def url(self) -> str:
        """Where it listens; known once it has started."""
        return f"{'wss' if self._tls else 'ws'}://{self.place}"

    def stop(self) -> None:
        """Close all connections, so that clients look for the next server, and return when that is done."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join()

    def _run(self) -> None:
        """Warm the policy up, and listen when it is."""
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        listening = serve(
            self._serve_client,
            self._settings.host,
            self._settings.port,
            ssl=self._tls,
            origins=[None],
            process_request=self._before_connection,
            compression=None,
            max_size=self._settings.max_message or largest_message(self._policy),
            max_queue=UNREAD,
            ping_interval=None,
            close_timeout=CLOSING_SECONDS,
            create_connection=ClientConnection,
            logger=logging.getLogger(f"{__name__}.websockets"),
        )
        try:
            await self._batcher.start()
            self._binding = True
            async with listening as server:
                self._listening.set_result(next(iter(server.sockets)).getsockname()[1])
                await self._ended.wait()
                await self._batcher.close()
        except Exception as error:
            if self._listening.done():
                raise
            self._listening.set_exception(error)

    def _before_connection(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer what is no websocket, and turn away who may not come in."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self._key is not None and not _knows(self._key, request):
            self._metrics.turned_away.labels("key").inc()
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "this server wants a header 'Authorization: Api-Key ...'\n"
            )
        if request.path == "/metrics":
            response = connection.respond(http.HTTPStatus.OK, self._metrics.text())
            del response.headers["Content-Type"]
            response.headers["Content-Type"] = self._metrics.CONTENT_TYPE
            return response
        if self._clients >= self._settings.max_clients:
            self._metrics.turned_away.labels("full").inc()
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{self._clients} clients are connected, the most\n"
            )
        return None

    async def _serve_client(self, connection: ServerConnection) -> None:
        assert isinstance(connection, ClientConnection)
        self._clients += 1
        self._metrics.clients.set(self._clients)
        session = Session(self._policy, self._steps, self._settings.max_steps, self._settings.seed)
        try:
            await connection.send(self._metadata)
            connection.send_timeout = self._settings.send_timeout
            connection.at_once = partial(self._reply_at_once, session)
            await connection.answer_all(partial(self._reply, session, connection.is_open))
        except (ConnectionClosed, asyncio.CancelledError):
            pass
        finally:
            self._clients -= 1
            self._metrics.clients.set(self._clients)

    def _reply_at_once(self, session: Session, message: bytes, write: Callable[[bytes | str], None]) -> bool:
        """Answer a message if the policy is quick enough for that; metrics can wait until it has gone."""
        if not self._batcher.is_quick:
            return False
        began = time.perf_counter()
        try:
            question = session.ask(*read_request(message))
            self._batcher.answer(question, lambda answer: write(_packed(answer, began)))
        except Exception as error:
            write(self._refusal(error))
        else:
            self._metrics.requests.labels("answered").inc()
        return True

    async def _reply(self, session: Session, wanted: Callable[[], bool], message: bytes | str) -> bytes | str:
        """The answer to a message: bytes, or one sentence."""
        began = time.perf_counter()
        try:
            question = session.ask(*read_request(message))
            reply = _packed(await self._batcher.ask(question, wanted), began)
        except asyncio.CancelledError:
            self._metrics.requests.labels("abandoned").inc()
            raise
        except Exception as error:
            return self._refusal(error)
        self._metrics.requests.labels("answered").inc()
        return reply

    def _refusal(self, error: Exception) -> str:
        """What the client is told; faults of ours stand in the log alone."""
        if isinstance(error, InputError):
            self._metrics.requests.labels("refused").inc()
            # One line, and not all that the client itself has sent.
            sentence = one_line(error)
            return (
                sentence if len(sentence) <= LONGEST_SENTENCE else f"{sentence[: LONGEST_SENTENCE - 4]} ..."
            )
        LOG.error("a request failed", exc_info=error)
        self._metrics.requests.labels("failed").inc()
        return "the server could not answer this request; its log says why"


def largest_message(policy: Policy) -> int:
    """Bytes of a request that no honest client exceeds."""
    numbers = policy.n_obs_steps * sum(math.prod(shape) for shape in policy.obs_shapes.values())
    return max(2**20, 2 * 8 * numbers)


def _packed(answer: Answer, began: float) -> bytes:
    # Nothing but the actions is an array: openpi's ActionChunkBroker cuts every array at the step.
    total_ms = 1000 * (time.perf_counter() - began)
    timing = {"queue_ms": answer.queue_ms, "infer_ms": answer.infer_ms, "total_ms": total_ms}
    content = {"actions": answer.actions, "evaluations": answer.evaluations, "server_timing": timing}
    return pack(content if answer.gap is None else content | {"gap": answer.gap})


def _tls(settings: ServerSettings) -> ssl.SSLContext | None:
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except OSError as error:  # ssl.SSLError is one
        raise InputError(
            f"tls_cert={settings.tls_cert} and tls_key={settings.tls_key} cannot be used "
            f"({error.strerror or error}): give the files of a certificate and its key, PEM"
        ) from error
    return context


def _key(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        key = file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"api_key_file={file} cannot be read ({error}): give a file of text") from error
    if not key:
        raise InputError(f"api_key_file={file} is empty: write the key into it, one line")
    return key


def _knows(key: str, request: Request) -> bool:
    # Whoever calls may send anything: bytes that are no UTF-8, or the header twice.
    given = [value.encode("utf-8", "surrogateescape") for value in request.headers.get_all("Authorization")]
    return len(given) == 1 and hmac.compare_digest(given[0], f"Api-Key {key}".encode())
