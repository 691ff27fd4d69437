"""The client against a server of a few lines, which does what a test wants; needs no shortcut_policy.

Where the real server is, tests/serving has the two together.
"""

import contextlib
import socket
import ssl
import threading
import time

import msgpack
import numpy as np
import pytest
from websockets.sync.server import serve

from shortcut_client import ClientError, RequestRefused, ServerUnavailable, ShortcutClient
from shortcut_client.messages import pack, unpack

METADATA = {"obs": {"place": {"shape": [2]}}, "n_obs_steps": 2, "n_action_steps": 3}
CHUNK = np.arange(6, dtype=np.float32).reshape(3, 2)


class Fake:
    """Answers with `CHUNK` and keeps what it was asked, unless ``script`` sees to a request."""

    def __init__(self, script=lambda connection, number: False, metadata=METADATA, port=0):
        self.asked, self.connections, self._open = [], 0, []
        self._script, self._metadata = script, metadata
        self._server = serve(self._talk, "127.0.0.1", port, close_timeout=0.2)
        self.port = self._server.socket.getsockname()[1]
        self.url = f"ws://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _talk(self, connection):
        self.connections += 1
        self._open.append(connection)
        with contextlib.suppress(Exception):
            connection.send(pack(self._metadata))
            for message in connection:
                self.asked.append(unpack(message))
                if not self._script(connection, len(self.asked)):
                    connection.send(pack({"actions": CHUNK}))

    def stop(self):
        self._server.shutdown()
        for connection in self._open:
            with contextlib.suppress(OSError):
                hang_up(connection)
        self._thread.join()


@pytest.fixture
def fake():
    made = []

    def make(*arguments, **settings):
        made.append(Fake(*arguments, **settings))
        return made[-1]

    yield make
    for one in made:
        one.stop()


@pytest.fixture
def connect():
    with contextlib.ExitStack() as opened:

        def open_client(server, **settings):
            client = ShortcutClient(server.url, **{"timeout": 2.0, "patience": 2.0, **settings})
            return opened.enter_context(client)

        yield open_client


def hang_up(connection, number=0):
    connection.socket.shutdown(socket.SHUT_RDWR)
    return True


def test_one_request_a_chunk_with_the_whole_history(fake, connect):
    server = fake()
    client = connect(server)
    client.reset(seed=7, episode=4)
    place = np.zeros(2)
    for step in range(4):
        place[:] = step  # the caller's array is used again
        action = client.select_action({"place": place, "other": "not sent"})
        assert np.array_equal(action, CHUNK[step % 3])
        action[:] = -1
    first, second = server.asked
    assert np.array_equal(first["place"], [[0, 0], [0, 0]])
    assert np.array_equal(second["place"], [[2, 2], [3, 3]])
    assert first["__request__"] == {"seed": 7, "episode": 4, "chunk": 0}
    assert second["__request__"] == {"seed": 7, "episode": 4, "chunk": 1}


def test_episodes_are_counted(fake, connect):
    server = fake()
    client = connect(server)
    client.select_action({"place": [0, 0]})
    client.reset(steps=4)
    client.select_action({"place": [0, 0]})
    assert [asked["__request__"] for asked in server.asked] == [
        {"episode": 0, "chunk": 0},
        {"steps": 4, "episode": 1, "chunk": 0},
    ]


def test_what_is_refused_is_not_kept(fake, connect):
    server = fake(lambda connection, number: number == 2 and (connection.send("not so") or True))
    client = connect(server)
    for wrong, sentence in [
        ({}, "place is missing"),
        ({"place": [0, 0, 0]}, r"shape \[3\], expected \[2\]"),
        ({"place": [0, np.inf]}, "NaN or infinity"),
    ]:
        with pytest.raises(RequestRefused, match=sentence):
            client.select_action(wrong)
    for step in range(3):
        client.select_action({"place": [step, step]})
    with pytest.raises(RequestRefused, match=r"^not so$"):
        client.select_action({"place": [8, 8]})
    client.select_action({"place": [9, 9]})
    assert np.array_equal(server.asked[-1]["place"], [[2, 2], [9, 9]])
    assert server.asked[-1]["__request__"]["chunk"] == 1
    with pytest.raises(RequestRefused, match="numbers only"):
        client.infer({"place": np.array(["a"])})
    with pytest.raises(RequestRefused, match="cannot be sent"):
        client.infer({"place": object()})


def test_a_connection_lost_in_a_request_is_made_again(fake, connect):
    server = fake(lambda connection, number: number <= 2 and hang_up(connection))
    assert np.array_equal(connect(server).infer({"place": [0, 0]})["actions"], CHUNK)
    assert (len(server.asked), server.connections) == (3, 3)


def test_a_server_that_comes_back_is_found(fake, connect):
    server = fake()
    client = connect(server, patience=10.0)
    server.stop()
    back = threading.Timer(0.4, lambda: fake(port=server.port))
    back.start()
    assert np.array_equal(client.infer({"place": [0, 0]})["actions"], CHUNK)
    back.join()


def test_a_server_that_stays_away_is_given_up_in_time(fake, connect):
    server = fake()
    client = connect(server, patience=0.3)
    server.stop()
    begun = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"no policy server at ws://.* for 0.3 s"):
        client.infer({"place": [0, 0]})
    assert 0.25 < time.monotonic() - begun < 1.5
    with pytest.raises(ServerUnavailable):
        ShortcutClient(server.url, patience=0.0)


def test_a_late_answer_is_not_waited_for_and_never_taken_for_the_next(fake, connect):
    def late(connection, number):
        if number == 1:
            time.sleep(0.5)
            with contextlib.suppress(Exception):
                connection.send(pack({"actions": CHUNK + 100}))
        return number == 1

    client = connect(fake(late), timeout=0.2)
    begun = time.monotonic()
    with pytest.raises(ServerUnavailable, match=r"no answer in 0\.2 s"):
        client.infer({"place": [0, 0]})
    assert time.monotonic() - begun < 0.45
    time.sleep(0.5)
    assert np.array_equal(client.infer({"place": [0, 0]})["actions"], CHUNK)


def test_an_answer_in_parts_is_one_and_pings_are_answered(fake, connect):
    message, pongs = pack({"actions": CHUNK}), []

    def parts(connection, number):
        pongs.append(connection.ping())
        connection.send(iter([message[:9], message[9:20], message[20:]]))
        return True

    client = connect(fake(parts))
    for _ in range(2):
        assert np.array_equal(client.infer({"place": [0, 0]})["actions"], CHUNK)
    assert pongs[0].wait(5)


def test_a_farewell_behind_an_answer_leaves_the_answer(fake, connect):
    def last(connection, number):
        connection.send(pack({"actions": CHUNK}))
        connection.close()
        return True

    server = fake(last)
    client = connect(server)
    for _ in range(3):
        assert np.array_equal(client.infer({"place": [0, 0]})["actions"], CHUNK)
    assert server.connections == 3


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weights": "b"}, r"\(weights was a, is b\): stop the robot, and begin an episode with reset"),
        ({"n_obs_steps": 1}, "n_obs_steps was 2, is 1"),
        ({"obs": {"place": {"shape": [3]}}}, r"shape of place was \[2\], is \[3\]"),
        ({"obs": {"where": {"shape": [2]}}}, "observations was"),
    ],
)
def test_another_policy_does_not_go_on_with_an_episode(fake, connect, change, sentence):
    known = {**METADATA, "weights": "a"}
    server = fake(metadata=known)
    client = connect(server)
    client.select_action({"place": [0, 0]})
    server.stop()
    again = fake(metadata={**known, **change}, port=server.port)
    for _ in range(2):
        client.select_action({"place": [0, 0]})  # the rest of the chunk
    with pytest.raises(RequestRefused, match=sentence):
        client.select_action({"place": [0, 0]})
    if "weights" in change:
        with pytest.raises(RequestRefused, match=sentence):
            client.select_action({"place": [0, 0]})
        assert again.asked == []
        client.reset()
        assert np.array_equal(client.select_action({"place": [0, 0]}), CHUNK[0])


def test_a_server_of_another_protocol_is_told(fake, connect):
    with pytest.raises(ClientError, match="speaks protocol 2, and this client 1: install the client"):
        connect(fake(metadata={**METADATA, "protocol": 2}))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (np.full((2, 2, 3), 0.5), "numbers from 0.5 to 0.5, and the policy sees pixels"),
        (np.full((2, 2, 3), -1), "from -1 to -1, and"),
        (np.full((2, 2, 3), 256), "from 256 to 256, and"),
        (np.full((2, 2, 3), "a"), "is an array of <U1: give real numbers"),
        (np.full((2, 2, 3), 1e300), "NaN or infinity"),
    ],
)
def test_what_the_server_would_refuse_later_is_not_kept_in_a_chunk(fake, connect, wrong, sentence):
    picture = {"camera": {"shape": [2, 2, 3], "image": True}}
    server = fake(metadata={**METADATA, "obs": picture})
    client, good = connect(server), np.full((2, 2, 3), 9)
    client.select_action({"camera": good})
    with pytest.raises(RequestRefused, match=sentence):
        client.select_action({"camera": wrong})
    for _ in range(3):
        client.select_action({"camera": good > 0})
    assert server.asked[0]["camera"].dtype == np.uint8
    assert np.array_equal(server.asked[1]["camera"], np.full((2, 2, 2, 3), 255))


@pytest.mark.parametrize("obs", [None, np.zeros(2), {1: np.zeros(2)}])
def test_what_is_no_mapping_of_names_is_one_sentence(fake, connect, obs):
    client = connect(fake())
    for call in (client.infer, client.select_action):
        with pytest.raises(RequestRefused, match="observations must be a mapping of names to arrays, not"):
            call(obs)
    with pytest.raises(RequestRefused, match=r"1\.18e\+21 cannot be sent: give whole numbers of 64 bits"):
        client.infer({"place": [0, 0]}, seed=2**70)


@pytest.mark.parametrize("shape", [[0, 2**63], [-2, -2], ["2"], "22"])
def test_odd_shapes_are_one_sentence(shape):
    data = bytes(16) if shape == [-2, -2] else b""
    content = {b"__ndarray__": True, b"data": data, b"dtype": "<f4", b"shape": shape}
    with pytest.raises(ClientError, match="cannot be read"):
        unpack(msgpack.packb({"x": content}))


def test_an_interrupt_leaves_no_answer_behind(fake, connect, monkeypatch):
    server = fake()
    client = connect(server)
    socket_now = client._connection._socket

    def interrupted(deadline):
        raise KeyboardInterrupt

    monkeypatch.setattr(socket_now, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.infer({"place": [0, 0]})
    client.infer({"place": [1, 1]})
    assert server.connections == 2


def test_other_servers_are_told_apart(fake, connect):
    with pytest.raises(ClientError, match="no policy server"):
        connect(fake(metadata=[1]))
    garbage = fake(lambda connection, number: connection.send(b"\xc1") or True)
    with pytest.raises(ClientError, match="cannot be read"):
        connect(garbage).infer({"place": [0, 0]})
    empty = fake(lambda connection, number: connection.send(pack({})) or True)
    with pytest.raises(ClientError, match="no actions"):
        connect(empty).infer({"place": [0, 0]})


@pytest.mark.parametrize("array", [{"dtype": "|O", "shape": [1]}, {"dtype": "<f4", "shape": [9]}, {}])
def test_arrays_that_are_none_are_not_read(array):
    content = {b"__ndarray__": True, b"data": b"12345678", **{key.encode(): array[key] for key in array}}
    with pytest.raises(ClientError, match="cannot be read"):
        unpack(pack({"x": content}))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "http://127.0.0.1:8000", "ws://"])
def test_addresses_are_checked(url):
    with pytest.raises(ClientError, match="ws://host:port"):
        ShortcutClient(url, patience=0.0)


def test_a_context_of_tls_wants_an_address_of_tls():
    with pytest.raises(ClientError, match="wss://host:port"):
        ShortcutClient("ws://127.0.0.1:8000", ssl=ssl.create_default_context(), patience=0.0)


def test_masked_numbers_are_refused_before_anything_is_sent(fake, connect):
    server = fake()
    client, masked = connect(server), np.ma.masked_greater([0.0, 9.0], 5)
    for call in (client.infer, client.select_action):
        with pytest.raises(RequestRefused, match="masked"):
            call({"place": masked})
    assert server.asked == []
    client.infer({"place": np.ma.masked_greater([0.0, 9.0], 50)})
    np.testing.assert_array_equal(server.asked[0]["place"], [0, 9])


class Tensor:
    """As one of torch that has a gradient."""

    def __array__(self, *arguments, **settings):
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


@pytest.mark.parametrize("value", [Tensor(), [[1.0], [1.0, 2.0]]])
def test_what_is_no_array_is_one_sentence(fake, connect, value):
    with pytest.raises(RequestRefused, match=r"observation 'place' is no array .*: give a NumPy array"):
        connect(fake()).select_action({"place": value})
