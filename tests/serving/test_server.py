"""The server as clients meet it: answers, refusals, lost connections, restarts."""

import asyncio
import importlib.util
import json
import socket
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect as raw_connect

import shortcut_policy.serving
from shortcut_client import RequestRefused, ServerUnavailable, ShortcutClient
from shortcut_policy.errors import InputError
from shortcut_policy.serving.protocol import REQUEST, pack, unpack
from shortcut_policy.serving.server import PolicyServer, ServerSettings, largest_message
from tests.serving.conftest import history, observation


def get(server, path, **headers):
    address = server.url.replace("ws://", "http://") + path
    with urlopen(Request(address, headers=headers), timeout=5) as answer:
        return answer.read().decode(), answer.headers["Content-Type"]


def slowed(server, seconds):
    """Let each batch take so long more, in the thread of slow batches."""
    infer, server._batcher._quick = server._batcher._infer, False

    def slow(questions):
        time.sleep(seconds)
        return infer(questions)

    server._batcher._infer = slow


def test_select_action_is_that_of_the_policy_in_process(serve, connect, tiny_policy):
    client = connect(serve())
    for episode in (3, 4):
        tiny_policy.reset(steps=2, seed=1, episode=episode)
        client.reset(steps=2, seed=1, episode=episode)
        for step in range(2 * tiny_policy.n_action_steps + 1):
            expected = tiny_policy.select_action(observation(step))
            found = client.select_action(observation(step))
            assert found.dtype == np.float32 and np.array_equal(found, expected), (episode, step)


def test_metadata_say_what_to_send(serve, connect, tiny_policy):
    metadata = connect(serve(rate=10, units={"agent_pos": "pixels"})).metadata
    assert metadata["obs"]["keypoint"]["shape"] == [9, 2]
    assert metadata["obs"]["agent_pos"]["units"] == "pixels"
    assert metadata["action"]["shape"] == [2]
    low, high = (np.array(metadata["action"][name]) for name in ("low", "high"))
    assert (low < high).all() and low.shape == (2,)
    sizes = [metadata[name] for name in ("horizon", "n_obs_steps", "n_action_steps", "rate_hz")]
    assert sizes == [tiny_policy.horizon, 2, tiny_policy.n_action_steps, 10]
    assert metadata["steps"] == 1 and metadata["steps_allowed"][:2] == [1, 2]
    json.dumps(metadata)
    tiny_policy.metadata["rate_hz"] = 20.0
    assert connect(serve()).metadata["rate_hz"] == 20, "the rate of the data, if nobody says another one"


def test_answers_hold_one_array_of_the_length_of_the_chunk(serve, connect, tiny_policy):
    """Because openpi's ActionChunkBroker cuts every array at the step."""
    answer = connect(serve()).infer(history(0), steps="auto")
    arrays = {name: value for name, value in answer.items() if isinstance(value, np.ndarray)}
    assert {name: value.shape for name, value in arrays.items()} == {"actions": (8, 2)}
    assert answer["evaluations"] >= 3 and answer["gap"] >= 0
    assert answer["server_timing"]["total_ms"] >= answer["server_timing"]["infer_ms"] > 0


def test_options_decide_steps_and_noise(serve, connect):
    client = connect(serve())

    def actions(**options):
        return client.infer(history(0), **options)["actions"]

    same = {"seed": 1, "episode": 2, "chunk": 3}
    assert np.array_equal(actions(**same), actions(**same))
    for other in ({"seed": 0}, {"episode": 0}, {"chunk": 0}, {"steps": 4}):
        assert not np.array_equal(actions(**same), actions(**{**same, **other}))


def test_many_clients_get_what_each_gets_alone(serve, connect):
    server = serve(batch_size=4)

    def episode(number):
        with ShortcutClient(server.url) as client:
            client.reset(episode=number)
            return [client.select_action(observation(100 * number + step)) for step in range(20)]

    alone = [episode(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(episode, range(8)))
    assert np.array_equal(alone, together)
    rows = [line for line in get(server, "/metrics")[0].splitlines() if "batch_requests" in line]
    batches = next(float(line.split()[1]) for line in rows if "_count" in line)
    requests = next(float(line.split()[1]) for line in rows if "_sum" in line)
    assert requests == 2 * 8 * 3 and batches < requests


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        ({"keypoint": np.zeros((9, 2))}, "agent_pos is missing"),
        ({**observation(0), "agent_pos": np.zeros(3)}, "has shape [3], expected [2]"),
        ({**observation(0), "agent_pos": np.array([np.nan, 0])}, "holds NaN"),
        ({**observation(0), REQUEST: {"steps": 3}}, "steps=3"),
        ({name: value * 1e34 for name, value in observation(0).items()}, "no finite action"),
        ([1], "a map of names"),
    ],
)
def test_a_wrong_request_is_answered_in_one_sentence_and_the_next_one_counts(serve, sent, sentence):
    server = serve()
    with raw_connect(server.url) as connection:
        connection.recv()
        connection.send(pack(sent))
        refusal = connection.recv(timeout=5)
        assert isinstance(refusal, str) and sentence in refusal and "\n" not in refusal
        connection.send("text")
        assert "message of bytes" in connection.recv(timeout=5)
        connection.send(pack(observation(0)))
        assert unpack(connection.recv(timeout=5))["actions"].shape == (8, 2)
    assert 'outcome="refused"} 2.0' in get(server, "/metrics")[0]


def test_a_fault_of_the_server_is_told_without_its_details(serve, connect, caplog):
    server = serve()
    server._batcher._infer = lambda questions: 1 / 0
    with pytest.raises(RequestRefused, match="its log says why"):
        connect(server).infer(observation(0))
    assert "ZeroDivisionError" in caplog.text
    assert 'outcome="failed"} 1.0' in get(server, "/metrics")[0]


def test_a_message_that_is_too_large_ends_its_connection_alone(serve, connect, tiny_policy):
    server, size = serve(), largest_message(tiny_policy)
    other = connect(server)
    large = {**observation(0), "image": np.zeros(size, np.uint8)}
    with pytest.raises(RequestRefused, match="larger than"):
        connect(server).infer(large)
    assert other.infer(observation(0))["actions"].shape == (8, 2)


def test_who_reads_no_answers_is_cut_off_and_disturbs_nobody(serve, connect):
    server = serve(send_timeout=0.3)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # before it connects, or it grows
    raw.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    raw.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    raw.settimeout(60)  # the buffers of the system take some megabytes of answers
    wrong = b"\x82\x81" + bytes(4) + b"x"  # a masked frame of one byte, which is no request
    other, deadline = connect(server), time.monotonic() + 60
    with pytest.raises(ConnectionError):
        while time.monotonic() < deadline:
            raw.sendall(1000 * wrong)
    begun = time.monotonic()
    assert other.infer(observation(0))["actions"].shape == (8, 2)
    assert time.monotonic() - begun < 1
    raw.close()


def test_a_client_that_hangs_up_in_a_chunk_costs_nothing(serve, connect):
    server, gate, asked = serve(), threading.Event(), []
    infer, server._batcher._quick = server._batcher._infer, False

    def waiting(questions):
        asked.append(len(questions))
        gate.wait(30)
        return infer(questions)

    server._batcher._infer = waiting
    gone = [raw_connect(server.url).__enter__() for _ in range(5)]
    for connection in gone:
        connection.recv()
        connection.send(pack(observation(0)))
    while not asked:
        time.sleep(0.01)
    for connection in gone:
        connection.socket.shutdown(socket.SHUT_RDWR)
        connection.close()
    time.sleep(1)  # for the server to see that they are gone, while the first question is being computed
    gate.set()
    connect(server).infer(observation(0))
    assert sum(asked) == 2, "the questions of those who are gone were computed"
    assert "shortcut_clients 1.0" in get(server, "/metrics")[0]


def test_no_more_clients_than_allowed(serve, connect):
    server = serve(max_clients=1)
    first = connect(server)
    with pytest.raises(ServerUnavailable, match="1 clients are connected"):
        connect(server, patience=0.2)
    first.close()
    assert connect(server).infer(observation(0))["actions"].shape == (8, 2)


def test_a_client_goes_on_with_a_server_that_was_started_again(serve, connect, tiny_policy):
    server = serve()
    client = connect(server)
    client.reset(episode=1)
    tiny_policy.reset(episode=1)
    port, found = int(server.url.rpartition(":")[2]), []
    for step in range(24):
        if step == 10:
            server.stop()
            threading.Timer(0.3, lambda: serve(port=port)).start()
        found.append(client.select_action(observation(step)))
    assert np.array_equal(found, [tiny_policy.select_action(observation(step)) for step in range(24)])


def test_a_server_with_other_weights_does_not_go_on_with_an_episode(serve, connect, tiny_policy):
    server = serve()
    client = connect(server)
    for step in range(tiny_policy.n_action_steps):
        client.select_action(observation(step))
    server.stop()
    with torch.no_grad():
        next(tiny_policy.backbone.parameters()).add_(1)
    serve(port=int(server.place.partition(":")[2]))
    with pytest.raises(RequestRefused, match=r"another policy than the one that began this episode \(w"):
        client.select_action(observation(0))
    client.reset()
    client.select_action(observation(0))


def test_stopping_takes_no_time_with_clients_and_questions(serve, connect):
    server = serve()
    slowed(server, 0.1)
    clients = [connect(server, patience=0.0) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(client.infer, observation(0)) for client in clients]
        time.sleep(0.05)
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 2.5
        for future in asked:
            future.exception(timeout=5)  # an answer or a sentence, and no waiting


def test_health_and_metrics(serve, connect):
    server = serve()
    assert get(server, "/healthz")[0] == "OK\n"
    connect(server).infer(observation(0))
    text, kind = get(server, "/metrics")
    assert kind.startswith("text/plain; version=0.0.4")
    assert 'shortcut_requests_total{outcome="answered"} 1.0' in text
    assert "shortcut_inference_seconds_count 1.0" in text


def test_the_key_is_needed_for_all_but_health(serve, connect, tmp_path: Path):
    key = tmp_path / "key"
    key.write_text("secret\n")
    server = serve(api_key_file=key)
    assert connect(server, api_key="secret").infer(observation(0))["actions"].shape == (8, 2)
    for wrong in (None, "other", "sécret"):
        with pytest.raises(RequestRefused, match="give its api_key"):
            connect(server, api_key=wrong)
    twice = [("Authorization", "Api-Key secret"), ("Authorization", "Api-Key other")]
    with pytest.raises(InvalidStatus) as caught:
        raw_connect(server.url, additional_headers=twice).__enter__()
    assert caught.value.response.status_code == 401
    assert get(server, "/healthz")[0] == "OK\n"
    with pytest.raises(HTTPError, match="401"):
        get(server, "/metrics")
    assert "shortcut_turned_away" in get(server, "/metrics", Authorization="Api-Key secret")[0]


def test_pages_in_a_browser_are_turned_away(serve):
    with pytest.raises(InvalidStatus) as caught:
        raw_connect(serve().url, origin="http://evil.example").__enter__()
    assert caught.value.response.status_code == 403


@pytest.fixture(scope="session")
def certificate(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "cert.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    subprocess.run([*made, *names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def test_tls(serve, connect, certificate):
    server = serve(tls_cert=certificate[0], tls_key=certificate[1])
    assert server.url.startswith("wss://")
    trusting = ssl.create_default_context(cafile=certificate[0])
    assert connect(server, ssl=trusting).infer(observation(0))["actions"].shape == (8, 2)
    with pytest.raises(RequestRefused, match=r"certificate .* is not trusted"):
        connect(server)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"host": "0.0.0.0"}, "host=0.0.0.0 lets others on the network"),
        ({"host": "robot.local"}, "exposed=true"),
        ({"port": 70_000}, "port=70000"),
        ({"tls_cert": "a.pem"}, "belong together"),
        ({"tls_cert": "no.pem", "tls_key": "no.pem"}, "tls_cert=no.pem"),
        ({"api_key_file": "no_such_key"}, "api_key_file=no_such_key cannot be read"),
        ({"steps": 3}, "3"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"units": {"camera": "m"}}, "units.camera names nothing"),
        ({"rate": -1}, "rate=-1"),
    ],
)
def test_wrong_settings_are_one_sentence(tiny_policy, settings, sentence):
    with pytest.raises(InputError) as caught:
        PolicyServer(tiny_policy, ServerSettings(**settings))
    assert sentence in str(caught.value)


def test_an_empty_key_is_none_at_all(tiny_policy, tmp_path: Path):
    (tmp_path / "key").write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        PolicyServer(tiny_policy, ServerSettings(api_key_file=tmp_path / "key"))


def test_what_serving_needs_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", {"msgpack": 1}.get)
    with pytest.raises(InputError, match=r"prometheus_client, .* pip install 'shortcut-policy\[serve\]'"):
        importlib.reload(shortcut_policy.serving)


def test_an_address_in_use_is_one_sentence(serve, tiny_policy):
    port = int(serve().url.rpartition(":")[2])
    with pytest.raises(InputError, match=f"port={port} cannot be listened at"):
        serve(port=port)


def test_the_loop_answers_while_the_policy_computes(serve, connect):
    server = serve()
    slowed(server, 1.0)
    client = connect(server)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.infer, observation(0))
        time.sleep(0.1)
        begun = time.monotonic()
        assert get(server, "/healthz")[0] == "OK\n"
        assert time.monotonic() - begun < 0.5 and not asked.done()
        asked.result()


async def _storm(url: str, clients: int, requests: int) -> list[bytes | str]:
    async def one(number: int) -> list[bytes | str]:
        async with connect_async(url, compression=None, open_timeout=60) as connection:
            await connection.recv()
            answers = []
            for _ in range(requests):
                await connection.send(pack(observation(number)))
                answers.append(await connection.recv())
            return answers

    found = await asyncio.gather(*(one(number) for number in range(clients)))
    return [answer for answers in found for answer in answers]


def test_fifty_clients_are_all_answered(serve):
    answers = asyncio.run(_storm(serve().url, clients=50, requests=4))
    assert len(answers) == 200 and all(isinstance(answer, bytes) for answer in answers)


def test_a_lost_connection_raises_nothing_in_the_server(serve, caplog):
    server = serve()
    for _ in range(3):
        with raw_connect(server.url) as connection:
            connection.socket.shutdown(socket.SHUT_RDWR)
            with pytest.raises(ConnectionClosed):
                for _ in range(10):
                    connection.recv(timeout=1)
    server.stop()
    assert "Traceback" not in caplog.text
