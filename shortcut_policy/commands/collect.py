"""The command that records demonstrations: ``scripts/collect.py expert=pusht episodes=200 output=...``."""

from dataclasses import dataclass

from omegaconf import DictConfig

from shortcut_policy.commands.configuration import read
from shortcut_policy.data.collect import collect
from shortcut_policy.settings import Count, Seed, Spec


@dataclass(frozen=True)
class CollectSettings:
    """``configs/collect.yaml``; see `collect`."""

    expert: Spec
    output: str
    episodes: Count = 200
    seed: Seed = 0
    workers: Count = 1


def run(config: DictConfig) -> None:
    """Write ``episodes`` demonstrations to ``output``; continues one that is there.

    Raises:
        InputError: A setting is wrong; or see `collect`.
    """
    settings = read(config, CollectSettings)
    collect(settings.expert, settings.output, settings.episodes, settings.seed, settings.workers)
