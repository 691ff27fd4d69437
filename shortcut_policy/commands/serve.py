"""The command that serves a policy: ``scripts/serve.py checkpoint=...``."""

import gc
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM

from omegaconf import DictConfig

from shortcut_policy.commands.configuration import read
from shortcut_policy.policy import load_policy
from shortcut_policy.serving.server import PolicyServer, ServerSettings


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ServerSettings):
    """``configs/serve.yaml``.

    Attributes:
        checkpoint: See `load_policy`,
        device: as well,
        trust: as well.
    """

    checkpoint: str
    device: str = "cpu"
    trust: str | Sequence[str] | None = None


def run(config: DictConfig) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Raises:
        InputError: A setting is wrong, or see `load_policy` and `PolicyServer`.
    """
    settings = read(config, ServeConfig)
    policy = load_policy(settings.checkpoint, settings.device, settings.trust)
    # What is there now stays to the end: looking through it for garbage would only make some client wait.
    gc.collect()
    gc.freeze()
    with PolicyServer(policy, settings) as server, _ending() as ended:
        print(f"{settings.checkpoint} is served at {server.url}", flush=True)
        # By the second, because a signal that another thread gets does not wake this one.
        while not ended.wait(1.0):
            pass


@contextmanager
def _ending() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, in place of ending the process."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (SIGINT, SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
