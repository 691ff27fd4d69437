"""The page that a person records in, on this machine: a socket that carries pictures out and what is moved
in.

Each tick of the control rate the page gets a message of JSON, `Status` with the number of the ``tick``, and,
when something has changed, a picture (JPEG, bytes). It answers with ``{"tick", "given", "held"}``; a step is
played for each answer, so a page that hangs, or is hidden, stops the episode and no step is played blind.
``{"do": name}`` is one of `COMMANDS`. The first message to a page says what it is about, and what was
``given`` last in the running episode, whose gripper may be closed.
"""

import asyncio
import hmac
import http
import json
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from shortcut_policy.background_server import BackgroundServer
from shortcut_policy.errors import InputError
from shortcut_policy.recording.session import Session
from shortcut_policy.settings import Positive, check_fields, is_loopback

LOG = logging.getLogger(__name__)
COMMANDS = ("begin", "finish", "discard", "skip", "undo")
SOCKET = "/socket"
#: Bytes of a message of the page, which are a few numbers.
LARGEST_MESSAGE = 4096
PICTURE_QUALITY = 85
#: Seconds in which a page has to take a message.
SEND_SECONDS = 10.0
CLOSING_SECONDS = 1.0
#: What the page may do: run itself and talk to where it came from.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; "
    "connect-src 'self'"
)


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """Where the page is.

    Attributes:
        host: Address to listen at.
        port: 0 for any that is free.
        exposed: Listen beyond this machine; whoever has the link may record.
        rate: Control steps a second; those of the environment if None.

    Raises:
        InputError: A setting is not of its type, or the page would be open to a network.
    """

    host: str = "127.0.0.1"
    port: int = 8010
    exposed: bool = False
    rate: Positive | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.port < 65536:
            raise InputError(f"port={self.port} must be a whole number from 0 to 65535")
        if not (is_loopback(self.host) or self.exposed):
            raise InputError(
                f"host={self.host} lets others on the network open the page: give exposed=true if that is "
                "meant"
            )


class RecordingServer(BackgroundServer):
    """Serves the page and plays the session at its rate, until it is stopped.

    Whoever opens the page has to know the token in its link, and a page of another origin is turned away.
    There is one page at a time: a second one takes over from the first.

    Args:
        make_session: Called in the thread that plays: OpenGL belongs to the thread that made it.
        title: What is recorded, and where to.
        settings: Where the page is.

    Raises:
        InputError: websockets is not installed, the address cannot be used, or see ``make_session``.
    """

    def __init__(
        self, make_session: Callable[[], Session], title: str, settings: PageSettings | None = None
    ) -> None:
        self._settings = settings or PageSettings()
        super().__init__(self._settings.host, self._settings.port, "recording")
        self._make_session, self._title = make_session, title
        self._token = secrets.token_urlsafe(24)
        self._page = files("shortcut_policy.recording").joinpath("templates/record.html").read_bytes()
        #: Set with what ended the playing, if that was an error.
        self.ended: Future[None] = Future()
        self._player = ThreadPoolExecutor(1, thread_name_prefix="session")
        self._client: Any = None
        self._commands: list[str] = []
        self._answer: dict[str, Any] | None = None
        self._fresh = False

    @property
    def url(self) -> str:
        """The link of the page, known once it has started."""
        return f"http://{self.place}/?token={self._token}"

    def start(self) -> None:
        """Make the session, and listen when it is there."""
        try:
            import websockets  # noqa: F401
        except ImportError as error:
            raise InputError(
                "recording needs websockets, which is not installed: pip install 'shortcut-policy[record]'"
            ) from error
        super().start()

    def stop(self) -> None:
        """Close the page's connection and the environment, and return when that is done."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it may be ending by itself
                self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            waiting = self.ended if self._listening.done() else self._listening
            waiting.set_exception(error)
        else:
            self.ended.set_result(None)
        finally:
            self._player.shutdown()

    async def _serve(self) -> None:
        from websockets.asyncio.server import serve

        self._loop, self._stopping, self._wake = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        session = await self._in_thread(self._make_session)
        listening = serve(
            self._serve_client,
            self._settings.host,
            self._settings.port,
            process_request=self._before_connection,
            compression=None,
            max_size=LARGEST_MESSAGE,
            close_timeout=CLOSING_SECONDS,
            logger=logging.getLogger(f"{__name__}.websockets"),
        )
        try:
            self._binding = True
            async with listening as server:
                self._listening.set_result(next(iter(server.sockets)).getsockname()[1])
                playing = asyncio.create_task(self._play(session))
                stopping = asyncio.create_task(self._stopping.wait())
                await asyncio.wait([playing, stopping], return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
                if playing.done():
                    await playing  # raises what it ended with
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
        finally:
            await self._in_thread(session.close)

    def _before_connection(self, connection: Any, request: Any) -> Any:
        """Answer with the page, and turn away who may not come in."""
        asked = urlsplit(request.path)
        hosts, origins = request.headers.get_all("Host"), request.headers.get_all("Origin")
        if asked.path not in ("/", SOCKET):
            return connection.respond(http.HTTPStatus.NOT_FOUND, "there is nothing here\n")
        # A page of somebody else's could call this address under a name of its own.
        ours = hosts == [self.place] or hosts == [f"localhost:{self._listening.result()}"]
        if not (ours or self._settings.exposed) or origins not in (
            [],
            [f"http://{hosts[0]}"] if hosts else [],
        ):
            return connection.respond(http.HTTPStatus.FORBIDDEN, "this page belongs to another origin\n")
        given = parse_qs(asked.query).get("token", [""])
        if len(given) != 1 or not hmac.compare_digest(given[0].encode(), self._token.encode()):
            return connection.respond(
                http.HTTPStatus.FORBIDDEN, "open the link that the command has printed\n"
            )
        if asked.path == SOCKET:
            return None
        return self._page_response()

    def _page_response(self) -> Any:
        from websockets.datastructures import Headers
        from websockets.http11 import Response

        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(self._page)),
            "Content-Security-Policy": POLICY,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "Connection": "close",
        }
        return Response(200, "OK", Headers(headers), self._page)

    async def _serve_client(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        before, self._client = self._client, connection
        self._commands, self._answer, self._fresh = [], None, True
        self._wake.set()
        if before is not None:
            await before.close(4000, "the page was opened again")
        try:
            async for message in connection:
                self._take(message)
        except ConnectionClosed:
            pass
        finally:
            if self._client is connection:
                self._client = None

    def _take(self, message: bytes | str) -> None:
        """Remember an answer or a command; anything else is left out, and said in the log."""
        try:
            content = json.loads(message)
            if content.get("do") in COMMANDS:
                self._commands.append(content["do"])
            elif "tick" in content:
                self._answer = content
            else:
                raise ValueError("it is neither an answer nor a command")
        except (ValueError, AttributeError) as error:
            LOG.warning("a message of the page was left out: %s", error)
        self._wake.set()

    async def _play(self, session: Session) -> None:
        """Play at the control rate while there is a page that answers."""
        period = 1 / (self._settings.rate or session.rate)
        hello = {"title": self._title, "control": session.control.kind, "policy": session.has_policy}
        due, tick = self._loop.time(), 0
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            due = max(due, self._loop.time() - period) + period
            client, commands, answer, fresh = self._client, self._commands, self._answer, self._fresh
            self._commands, self._answer, self._fresh = [], None, False
            if client is None:
                continue
            status, picture = await self._in_thread(partial(_tick, session, commands, answer, fresh))
            tick += 1
            greeting = hello | {"given": session.given} if fresh else {}
            messages = [json.dumps(status | greeting | {"tick": tick}), picture]
            await self._send(client, [message for message in messages if message is not None])

    async def _send(self, client: Any, messages: list[str | bytes]) -> None:
        from websockets.exceptions import ConnectionClosed

        try:
            async with asyncio.timeout(SEND_SECONDS):
                for message in messages:
                    await client.send(message)
        except ConnectionClosed:
            pass
        except TimeoutError:
            LOG.warning("the page took no message for %g s: its connection is cut", SEND_SECONDS)
            client.transport.abort()

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await self._loop.run_in_executor(self._player, call)


def _tick(
    session: Session, commands: list[str], answer: dict[str, Any] | None, fresh: bool
) -> tuple[dict[str, Any], bytes | None]:
    """Commands, then a step if the page has answered; the status, and the picture if it may have changed."""
    for command in commands:
        getattr(session, command)()
    stepping = session.running and answer is not None
    if stepping and answer is not None:
        try:
            session.step(answer.get("given"), answer.get("held") is True)
        except InputError as error:
            LOG.warning("a message of the page was left out: %s", error)
    changed = fresh or stepping or bool(commands)
    return session.status, _jpeg(session) if changed else None


def _jpeg(session: Session) -> bytes:
    buffer = BytesIO()
    Image.fromarray(session.picture()).save(buffer, "JPEG", quality=PICTURE_QUALITY)
    return buffer.getvalue()
