"""The command that serves a policy: ``scripts/serve.py checkpoint=...``."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig

from shortcut_policy.adaptive import say_untaught
from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.ending import ending
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
    with PolicyServer(policy, settings) as server, ending() as ended:
        say_untaught(policy.objective, policy.metadata, settings.steps)
        print(f"{settings.checkpoint} is served at {server.url}", flush=True)
        # By the second, because a signal that another thread gets does not wake this one.
        while not ended.wait(1.0):
            pass
