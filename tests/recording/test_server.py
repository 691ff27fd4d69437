"""The page and its socket, spoken to by a client that is no browser."""

import errno
import json
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from shortcut_policy.data import ZarrSource
from shortcut_policy.errors import InputError
from shortcut_policy.recording.server import PageSettings, RecordingServer


@pytest.fixture
def server(make_session):
    with RecordingServer(make_session, "Push-T", PageSettings(port=0, rate=200)) as running:
        yield running


def socket_of(server, **options):
    return connect(server.url.replace("http", "ws").replace("/?", "/socket?"), **options)


class Page:
    """Answers each status as the page does."""

    def __init__(self, server):
        self.socket, self.pictures = ExitStack().enter_context(socket_of(server)), 0

    def status(self):
        while isinstance(message := self.socket.recv(timeout=20), bytes):
            self.pictures += 1
        return json.loads(message)

    def answer(self, status, given, held=False):
        self.socket.send(json.dumps({"tick": status["tick"], "given": given, "held": held}))

    def do(self, name):
        self.socket.send(json.dumps({"do": name}))
        return self.status()


def test_an_episode_over_the_socket_is_stored_with_its_actions(server, store):
    page = Page(server)
    first = page.status()
    assert (first["title"], first["control"], first["policy"]) == ("Push-T", "pointer", False)
    assert first["phase"] == "ready"
    status = page.do("begin")
    given = []
    while status["step"] < 10:
        point = [0.3 + 0.01 * status["step"], 0.6]
        given.append(point)
        page.answer(status, point)
        status = page.status()
    assert page.do("finish")["note"].startswith("stored episode 0")
    page.socket.close()
    source = ZarrSource(store)
    assert source.episode_ends.tolist() == [10]
    np.testing.assert_allclose(source.read("action", 0, 10), 512 * np.array(given), rtol=1e-6)
    assert page.pictures >= 10


def test_a_page_that_does_not_answer_stops_the_episode(server):
    page = Page(server)
    page.status()
    assert page.do("begin")["step"] == 0
    with pytest.raises(TimeoutError):
        while True:
            assert not isinstance(page.socket.recv(timeout=0.2), str)


def test_nonsense_is_left_out(server):
    page = Page(server)
    page.status()
    page.do("begin")
    for message in ("[]", "{", "3", '{"do": "close"}', '{"tick": 1, "given": ["a"], "held": 3}'):
        page.socket.send(message)
    page.socket.send(json.dumps({"tick": 0, "given": [0.5, 0.5], "held": False}))
    assert page.status()["phase"] == "running"


def test_a_page_that_is_opened_again_takes_over(server):
    first = Page(server)
    first.status()
    second = Page(server)
    assert second.status()["title"] == "Push-T"
    with pytest.raises(ConnectionClosedError) as caught:
        while True:
            first.socket.recv(timeout=5)
    assert caught.value.rcvd.code == 4000


def fetched(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return response.headers, response.read().decode()


def test_the_page_is_for_whoever_has_the_link(server):
    headers, page = fetched(server.url)
    assert "<canvas" in page and "default-src 'none'" in headers["Content-Security-Policy"]
    base = server.url.partition("?")[0]
    for url, given in (
        (base, {}),
        (f"{base}?token=guessed", {}),
        (server.url, {"Host": "evil.example"}),
        (server.url, {"Origin": "http://evil.example"}),
        (f"{base}socket", {}),
    ):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            fetched(url, **given)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        fetched(f"{base}etc/passwd")


def test_the_socket_refuses_other_origins(server):
    with pytest.raises(InvalidStatus, match="403"):
        socket_of(server, origin="http://evil.example")
    own = server.url.partition("/?")[0]
    with socket_of(server, origin=own) as socket:
        assert json.loads(socket.recv(timeout=10))["phase"] == "ready"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"host": "0.0.0.0"}, "host=0.0.0.0 lets others on the network open the page"),
        ({"port": 70_000}, "port=70000 must be a whole number"),
        ({"rate": 0}, "rate=0 must be a number above 0"),
    ],
)
def test_wrong_settings_are_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        PageSettings(**settings)


def test_an_address_in_use_is_one_sentence(server, make_session, store):
    port = int(server.url.partition("/?")[0].rpartition(":")[2])
    other = RecordingServer(lambda: _Nothing(), "Push-T", PageSettings(port=port))
    with pytest.raises(InputError, match=f"port={port} cannot be listened at"):
        other.start()


def test_a_store_that_cannot_be_made_is_not_laid_to_the_address():
    def make():
        raise OSError(errno.ENOSPC, "No space left on device", "mine.zarr")

    server = RecordingServer(make, "Push-T", PageSettings(port=0))
    with pytest.raises(OSError, match=r"No space left on device: 'mine\.zarr'"):
        server.start()
    server.stop()


class _Nothing:
    def close(self):
        pass


def test_what_ends_the_playing_is_told(make_session):
    session = make_session()
    session.begin = lambda: (_ for _ in ()).throw(OSError("no space left"))
    server = RecordingServer(lambda: session, "Push-T", PageSettings(port=0))
    server.start()
    page = Page(server)
    page.status()
    page.socket.send(json.dumps({"do": "begin"}))
    with pytest.raises(OSError, match="no space left"):
        server.ended.result(timeout=20)
    server.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "recording"]
