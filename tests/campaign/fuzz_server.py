"""Strange messages for a policy server: it answers each in one sentence and goes on.

    python tests/campaign/fuzz_server.py [--minutes 15] [--seed 0] [--checkpoint pretrained/pusht]

Three kinds of examples in turns. *Messages*: the decoder and the session of the server, and the decoder of
the client, in this process. *Requests*: the same in whole frames to a server in a process of its own.
*Streams*: bytes that are no frames, or half of one, or a frame of another length than it says.

After each example on the socket a client that behaves is answered as before, bit for bit. The last line is
``{"examples": ..., "failures": ..., "seconds": ..., "memory_mb": [before, after], ...}``; what failed stands
above it, as Python that repeats it. The exit status is 1 if anything did.
"""

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from shortcut_client import ClientError, ShortcutClient
from shortcut_client import messages as client_messages
from shortcut_policy import load_policy
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.serving.protocol import REQUEST, read_request
from shortcut_policy.serving.sessions import Session

ROOT = Path(__file__).resolve().parents[2]
#: Examples of one round of a kind; seconds in which one is over, computing aside; growth of memory, MiB.
ROUND, SECONDS, GROWTH_MB = 50, 20.0, 64
LONGEST_SENTENCE, LARGEST_STEPS = 600, 2

DTYPES = st.sampled_from(
    [
        "<f4",
        "<f8",
        "<i8",
        "|u1",
        "|b1",
        ">i2",
        "<f2",
        "|O",
        "<U9",
        "<c8",
        "|V4",
        "<M8",
        "f4,f4",
        "<f16",
        "f",
        "?",
    ]
)
SIZES = st.one_of(st.integers(0, 9), st.integers(-2, 2**63 - 1), st.sampled_from([0, 1, 2, 9, 2**31, 2**62]))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(),
    st.text(max_size=20),
    st.binary(max_size=40),
    st.sampled_from(["x" * 5000, b"\xff" * 5000, float("nan"), 1e300]),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=9)),
    st.builds(msgpack.Timestamp, st.integers(0, 2**34 - 1), st.integers(0, 999_999_999)),
)


def _array(dtype: Any, shape: Any, data: bytes, kind: bytes) -> dict[bytes, Any]:
    return {kind: True, b"data": data, b"dtype": dtype, b"shape": shape}


ARRAYS = st.builds(
    _array,
    st.one_of(DTYPES, LEAVES),
    st.one_of(st.lists(SIZES, max_size=10), LEAVES),
    st.one_of(st.integers(0, 200).map(bytes), LEAVES),
    st.sampled_from([b"__ndarray__", b"__npgeneric__"]),
)
VALUES = st.recursive(
    st.one_of(LEAVES, ARRAYS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6),
        st.dictionaries(st.text(max_size=8) | st.binary(max_size=8), inner, max_size=4),
    ),
    max_leaves=12,
)


@dataclass
class Found:
    """What came of all examples."""

    examples: int = 0
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    @contextlib.contextmanager
    def example(self, told: Callable[[], str]) -> Iterator[None]:
        """Count one, and keep it if it raises or takes too long; hypothesis goes on with the next."""
        self.examples += 1
        begun = time.monotonic()
        try:
            yield
            seconds = time.monotonic() - begun
            self.slowest_s = max(self.slowest_s, seconds)
            if seconds > SECONDS:
                raise AssertionError(f"it took {seconds:.1f} s")
        except Exception as error:
            self.failures.append(f"{told()}\n    {type(error).__name__}: {str(error)[:300]}")
            print(self.failures[-1], file=sys.stderr, flush=True)


def requests(policy: Policy) -> st.SearchStrategy[bytes]:
    """Messages: values of all kinds, requests that are strange in part, and bytes that are cut or joined."""
    steps, shapes = policy.n_obs_steps, policy.obs_shapes
    good = {
        name: st.just(client_array(np.zeros((steps, *shape), np.float32))) for name, shape in shapes.items()
    }
    listed = {name: st.just(np.zeros(shape).tolist()) for name, shape in shapes.items()}
    any_obs = {name: st.one_of(good[name], listed[name], VALUES, ARRAYS) for name in shapes}
    names = st.sampled_from(
        ["steps", "seed", "episode", "chunk", "reset", "consecutive", "guidance", "stpes"]
    )
    small = st.one_of(st.integers(-1, 2), st.just("auto"), st.booleans())
    options = st.dictionaries(names | st.text(max_size=5), st.one_of(small, VALUES), max_size=4)
    whole = st.one_of(
        VALUES,
        st.fixed_dictionaries(any_obs),
        st.builds(lambda obs, given: {**obs, REQUEST: given}, st.fixed_dictionaries(good), options),
        st.builds(lambda obs, given: {**obs, REQUEST: given}, st.fixed_dictionaries(any_obs), VALUES),
    ).map(lambda value: msgpack.packb(value))
    heads = st.sampled_from([b"\xdd", b"\xdf", b"\xc6", b"\xdb", b"\xc9"])  # of lengths in 32 bits
    return st.one_of(
        whole,
        st.binary(max_size=200),
        st.builds(lambda message, cut: message[: len(message) * cut // 100], whole, st.integers(0, 99)),
        st.builds(lambda first, second: first + second, whole, whole | st.binary(max_size=20)),
        st.builds(
            lambda head, size, tail: head + size.to_bytes(4, "big") + tail, heads, SIZES32, st.binary()
        ),
        st.builds(lambda head, depth: head * depth, st.sampled_from([b"\x91", b"\x81", b"\x81\x01"]), DEPTHS),
        st.builds(
            lambda text, count: msgpack.packb({next(iter(shapes)): [text * 200_000] + [1] * count}), *LONG
        ),
    )


SIZES32 = st.one_of(st.integers(0, 2**32 - 1), st.just(2**32 - 1))
DEPTHS = st.sampled_from([10, 500, 1023, 1024, 1025, 100_000, 1_000_000])
LONG = (st.sampled_from(["a", "é"]), st.integers(0, 60_000))


def client_array(array: np.ndarray) -> Any:
    """An array as messages hold it, in plain containers."""
    return msgpack.unpackb(client_messages.pack(array), strict_map_key=False)


def frame(payload: bytes, head: int, said: int | None, masked: bool) -> bytes:
    """A frame of the protocol, which may say another length than it has."""
    length = len(payload) if said is None else said
    flag = 128 if masked else 0
    if length < 126:
        size = bytes([flag | length])
    elif length < 65536:
        size = bytes([flag | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([flag | 127]) + (length % 2**64).to_bytes(8, "big")
    return bytes([head]) + size + (bytes(4) if masked else b"") + payload


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def streams(message: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """What is sent over a bare socket."""
    lengths = st.one_of(st.none(), st.integers(0, 200), st.sampled_from([2**16, 2**31, 2**63, 2**64 - 1]))
    frames = st.builds(
        frame, message.filter(lambda m: len(m) < 5000), st.integers(0, 255), lengths, st.booleans()
    )
    after = st.lists(st.one_of(frames, st.binary(max_size=100)), max_size=6).map(b"".join)
    broken = st.builds(
        lambda cut, tail: HANDSHAKE[:cut] + tail, st.integers(0, len(HANDSHAKE)), st.binary(max_size=300)
    )
    headers = st.builds(
        lambda count: HANDSHAKE[:-2] + b"X: y\r\n" * count + b"\r\n", st.sampled_from([1, 200, 5000])
    )
    return st.one_of(
        st.builds(lambda tail: HANDSHAKE + tail, after), broken, headers, st.binary(max_size=300)
    )


class Server:
    """``scripts/serve.py`` in a process of its own, and a client that behaves."""

    def __init__(self, checkpoint: str, policy: Policy) -> None:
        command = [sys.executable, str(ROOT / "scripts" / "serve.py"), f"checkpoint={checkpoint}", "port=0"]
        self._process = subprocess.Popen(
            [*command, f"max_steps={LARGEST_STEPS}"], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().split()[-1]
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        self._obs = {
            name: np.zeros((policy.n_obs_steps, *shape)) for name, shape in policy.obs_shapes.items()
        }
        self._client = ShortcutClient(self.url, timeout=60.0, patience=5.0)
        self._expected = self._ask()

    def check(self) -> None:
        """Raise unless it is there and answers as at first."""
        if self._process.poll() is not None:
            raise AssertionError(f"the server ended with {self._process.returncode}")
        if not np.array_equal(self._ask(), self._expected):
            raise AssertionError("another client got other actions")

    def state(self) -> tuple[int, int]:
        """Memory in MiB and open files."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        (line,) = (line for line in lines if line.startswith("VmRSS"))
        return int(line.split()[1]) // 1024, len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def stop(self) -> int:
        """Its exit status after SIGTERM."""
        self._client.close()
        self._process.terminate()
        return self._process.wait(30)

    def _ask(self) -> np.ndarray:
        actions: np.ndarray = self._client.infer(self._obs, seed=0, episode=0, chunk=0)["actions"]
        return actions


def check_sentence(text: Any) -> None:
    """Raise unless it is one line of a length that a person reads."""
    if not isinstance(text, str) or not text.strip() or "\n" in text or len(text) > LONGEST_SENTENCE:
        raise AssertionError(f"no sentence: {text!r:.200}")


def in_process(policy: Policy, message: bytes) -> None:
    """The server's decoder and session, and the client's decoder."""
    try:
        Session(policy, 1, LARGEST_STEPS, 0).ask(*read_request(message))
    except InputError as error:
        if not str(error).strip():
            raise AssertionError("an error without words") from error
    with contextlib.suppress(ClientError):
        client_messages.unpack(message)


def as_request(server: Server, message: bytes) -> None:
    """One whole frame, and its answer."""
    with connect(server.url, compression=None, max_size=None) as connection:
        connection.recv(timeout=SECONDS)
        with contextlib.suppress(ConnectionClosed):  # what is too large
            connection.send(message)
            answer = connection.recv(timeout=SECONDS)
            if isinstance(answer, str):
                check_sentence(answer)
            elif not isinstance(client_messages.unpack(answer)["actions"], np.ndarray):
                raise AssertionError("an answer without actions")
    server.check()


def as_stream(server: Server, data: bytes) -> None:
    """Bytes on a bare socket; the server may hang up, or wait for more until we do."""
    with contextlib.suppress(OSError), socket.create_connection(server.address, 5) as bare:
        bare.sendall(data)
        bare.settimeout(0.05)
        with contextlib.suppress(TimeoutError):
            while bare.recv(65536):
                pass
    server.check()


Kind = tuple[Callable[[bytes], None], st.SearchStrategy[bytes]]


def draw_all(kinds: list[Kind], found: Found, seed: int, end: float) -> None:
    """Rounds of examples of each kind in turns, until the time is over."""
    for number in itertools.count():
        use, strategy = kinds[number % len(kinds)]
        if time.monotonic() > end:
            return

        @seeded(seed + number)
        @settings(
            max_examples=ROUND,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def draw(drawn: bytes, use: Callable[[bytes], None] = use, kind: int = number % len(kinds)) -> None:
            if time.monotonic() < end:
                with found.example(lambda: f"kind {kind}: {drawn[:2000]!r} ({len(drawn)} bytes)"):
                    use(drawn)

        draw()


def main() -> None:
    """Draw examples until the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", default=str(ROOT / "pretrained" / "pusht"))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the server ends too
    policy, found = load_policy(arguments.checkpoint), Found()
    server, begun = Server(arguments.checkpoint, policy), time.monotonic()
    message = requests(policy)
    kinds: list[Kind] = [
        (lambda drawn: in_process(policy, drawn), message),
        (lambda drawn: as_request(server, drawn), message),
        (lambda drawn: as_stream(server, drawn), streams(message)),
    ]
    before = server.state()
    try:
        draw_all(kinds, found, arguments.seed, begun + 60 * arguments.minutes)
        time.sleep(1)
        server.check()
        after = server.state()
    finally:
        status = server.stop()
    if after[0] > before[0] + GROWTH_MB or after[1] > before[1] + 2:
        found.failures.append(f"memory and files went from {before} to {after}")
    if status:
        found.failures.append(f"the server ended with {status}")
    summary = {
        "examples": found.examples,
        "failures": len(found.failures),
        "seconds": round(time.monotonic() - begun, 1),
        "slowest_s": round(found.slowest_s, 2),
        "memory_mb": [before[0], after[0]],
        "open_files": [before[1], after[1]],
        "seed": arguments.seed,
    }
    print(json.dumps(summary))
    sys.exit(bool(found.failures))


if __name__ == "__main__":
    main()
