"""Trainings that another command runs first, from overrides of ``configs/train.yaml``."""

from collections.abc import Sequence

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException

from shortcut_policy.benchmark.training_runs import Trainings
from shortcut_policy.commands import train
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.training.config import TrainingConfig


def trainings() -> Trainings:
    """What a benchmark is handed to train with."""
    return Trainings(compose_training, train.train)


def compose_training(overrides: Sequence[str]) -> TrainingConfig:
    """``configs/train.yaml`` with ``overrides``, as ``scripts/train.py`` would compose it.

    What ``--config-dir`` of this command holds is there for it, too.

    Raises:
        InputError: Hydra cannot do that.
    """
    # The command line's own Hydra is done composing; its global state only stands in the way.
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            return train.read_training(compose("train", overrides=[*_own_configs(), *overrides]))
    except HydraException as error:
        raise InputError(f"the overrides {list(overrides)} are not of a training: {error}") from error


def _own_configs() -> list[str]:
    """The override that adds the folder of the command's ``--config-dir``, if it was given one."""
    if not HydraConfig.initialized():
        return []
    sources = HydraConfig.get().runtime.config_sources
    folders = [f"file://{one.path}" for one in sources if one.provider == "command-line"]
    return [f"hydra.searchpath=[{','.join(folders)}]"] if folders else []
