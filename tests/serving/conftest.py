"""A server in this process, with a tiny policy of random weights."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from shortcut_client import ShortcutClient
from shortcut_policy.policy import Policy
from shortcut_policy.serving.server import PolicyServer, ServerSettings

Observation = dict[str, np.ndarray]


def observation(seed: int) -> Observation:
    """One step of Push-T with keypoints."""
    random = np.random.default_rng(seed)
    return {
        "keypoint": random.uniform(100, 400, (9, 2)).astype(np.float32),
        "agent_pos": random.uniform(100, 400, 2).astype(np.float32),
    }


def history(seed: int) -> Observation:
    """Two steps of it."""
    steps = [observation(2 * seed), observation(2 * seed + 1)]
    return {name: np.stack([step[name] for step in steps]) for name in steps[0]}


Serve = Callable[..., PolicyServer]


@pytest.fixture
def serve(tiny_policy: Policy) -> Iterator[Serve]:
    """Starts servers with settings of their own, and stops them."""
    started: list[PolicyServer] = []

    def start(policy: Policy = tiny_policy, **settings: object) -> PolicyServer:
        server = PolicyServer(policy, ServerSettings(**{"port": 0, **settings}))
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def connect() -> Iterator[Callable[..., ShortcutClient]]:
    """Connects clients with little patience, and hangs up."""
    opened: list[ShortcutClient] = []

    def open_client(server: PolicyServer, **settings: object) -> ShortcutClient:
        opened.append(ShortcutClient(server.url, **{"timeout": 5.0, "patience": 5.0, **settings}))
        return opened[-1]

    yield open_client
    for client in opened:
        client.close()
