"""The server in the hands of strangers: silent and greedy clients, and its end while all of them ask."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from websockets.sync.client import connect as raw_connect

from shortcut_client import ClientError, ServerUnavailable, ShortcutClient
from shortcut_policy.policy import save_policy
from shortcut_policy.serving.protocol import REQUEST, pack, unpack
from tests.serving.conftest import history, observation
from tests.serving.test_server import get

ROOT = Path(__file__).resolve().parents[2]


def address(server):
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def test_a_message_that_comes_alone_needs_no_task(serve, connect, monkeypatch):
    server = serve()
    server._batcher._quick = True  # which a busy machine may not have found

    async def never(*arguments):
        raise AssertionError("it went through the queue")

    monkeypatch.setattr(server, "_reply", never)
    client = connect(server)
    for number in range(3):
        assert client.infer(history(number), seed=0, episode=0, chunk=number)["actions"].shape == (8, 2)
    assert 'outcome="answered"} 3.0' in get(server, "/metrics")[0]


def test_at_once_and_through_the_queue_are_the_same_bits(serve, connect):
    server = serve()
    client, server._batcher._quick = connect(server), True
    at_once = client.infer(history(0), seed=0, episode=0, chunk=0)["actions"]
    server._batcher._quick = False
    assert np.array_equal(client.infer(history(0), seed=0, episode=0, chunk=0)["actions"], at_once)


def test_messages_in_one_write_are_answered_in_order_and_others_have_their_turn(serve, connect):
    """One client's thousand messages in one packet must not keep the loop for itself."""
    server, count = serve(), 40
    server._batcher._quick = True
    order, infer = [], server._batcher._infer

    def counted(questions):
        order.append(questions[0].noise.seed)
        if len(order) == 5:
            started.set()
            asked.wait(10)
        return infer(questions)

    started, asked = threading.Event(), threading.Event()
    server._batcher._infer = counted
    other = connect(server)
    with raw_connect(server.url, compression=None) as greedy, ThreadPoolExecutor(1) as pool:
        greedy.recv()
        for chunk in range(count):
            greedy.send(pack({**history(0), REQUEST: {"seed": 1, "episode": 0, "chunk": chunk}}))
        started.wait(10)
        socket_there, sent = other._connection._socket, threading.Event()
        send = socket_there._send
        socket_there._send = lambda: (send(), sent.set())
        found = pool.submit(other.infer, history(0), seed=2, episode=0, chunk=0)
        sent.wait(10)
        asked.set()
        answers = [unpack(greedy.recv(timeout=30))["actions"] for _ in range(count)]
        found.result(30)
    assert order.index(2) < count, "the other one was answered last"
    alone = [other.infer(history(0), seed=1, episode=0, chunk=chunk)["actions"] for chunk in range(count)]
    assert np.array_equal(answers, alone)


def test_who_says_nothing_is_in_nobodys_way(serve, connect):
    server = serve()
    silent = [socket.create_connection(address(server)) for _ in range(30)]
    half = socket.create_connection(address(server))
    half.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
    resting = raw_connect(server.url).__enter__()
    assert connect(server).infer(observation(0))["actions"].shape == (8, 2)
    server.stop()
    for one in (*silent, half, resting.socket):
        one.close()


def test_two_clients_of_the_same_episode_are_two_sessions(serve, connect):
    server = serve()
    first, second = connect(server), connect(server)
    consecutive = {"seed": 0, "episode": 4, "consecutive": True}
    first.infer(observation(0), **consecutive)
    lone = second.infer(observation(1), **consecutive, chunk=1)["actions"]
    going_on = first.infer(observation(1), **consecutive, chunk=1)["actions"]
    assert not np.array_equal(lone, going_on), "the second client has no observation before"
    assert np.array_equal(lone, first.infer(observation(1), seed=0, episode=4, chunk=1)["actions"])


@pytest.mark.parametrize(
    "sent",
    [
        {"x" * 150_000: 1},
        {**{f"name {number}": 1 for number in range(200)}},
        {**observation(0), REQUEST: {"steps": "a\nb" * 100_000}},
        {**observation(0), REQUEST: {"seed": [1] * 60_000}},
        {**observation(0), REQUEST: ["a"] * 60_000},
        {**observation(0), "agent_pos": ["a" * 200_000, *["b"] * 60_000]},
        {**observation(0), "agent_pos": np.zeros((1,) * 8)},
    ],
    ids=range(7),
)
def test_a_refusal_is_short_whatever_was_sent(serve, sent):
    with raw_connect(serve().url) as connection:
        connection.recv()
        connection.send(pack(sent))
        refusal = connection.recv(timeout=30)
        assert isinstance(refusal, str) and 20 < len(refusal) <= 600 and "\n" not in refusal


def test_connections_leave_nothing_behind(serve, connect):
    server = serve(max_clients=8)
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(200):
        if number % 2:
            ShortcutClient(server.url).close()
        else:
            with raw_connect(server.url) as connection:
                connection.recv()
                connection.send(pack(observation(0)))
                connection.socket.shutdown(socket.SHUT_RDWR)
    assert connect(server, patience=30.0).infer(observation(0))["actions"].shape == (8, 2)
    assert "shortcut_clients 1.0" in get(server, "/metrics")[0]
    assert len(os.listdir("/proc/self/fd")) <= files + 4
    assert threading.active_count() <= threads + 1


@pytest.mark.slow
def test_sigterm_with_fifty_clients_answers_or_tells_all_of_them(tiny_policy, tmp_path):
    save_policy(tiny_policy, tmp_path / "policy")
    command = [
        sys.executable,
        str(ROOT / "scripts" / "serve.py"),
        f"checkpoint={tmp_path / 'policy'}",
        "port=0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = re.search(r"ws://\S+", process.stdout.readline())[0]
        busy, ended = threading.Barrier(51), []

        def ask(number):
            with ShortcutClient(url, timeout=20.0, patience=0.2) as client:
                client.infer(observation(number))
                busy.wait(60)
                while True:
                    try:
                        assert client.infer(observation(number))["actions"].shape == (8, 2)
                    except ClientError as error:
                        ended.append(error)
                        return

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(50)]
        for client in clients:
            client.start()
        busy.wait(60)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(60)
        assert process.wait(30) == 0
        assert "Traceback" not in process.stderr.read()
    assert len(ended) == 50
    assert all(isinstance(error, ServerUnavailable) or "going down" in str(error) for error in ended)
