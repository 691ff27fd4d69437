"""The benchmark command."""

import os
import re
import sys
from dataclasses import fields
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from shortcut_policy.benchmark.config import BenchmarkConfig
from shortcut_policy.benchmark.harness import compare
from shortcut_policy.benchmark.methods import parse_methods
from shortcut_policy.commands.configuration import to_plain
from shortcut_policy.commands.trainings import trainings
from shortcut_policy.commands.workers import launcher
from shortcut_policy.settings import parse


def run(config: DictConfig) -> None:
    """Compare methods as ``configs/benchmark.yaml`` describes.

    Raises:
        InputError: See `compare`; or a setting cannot be used.
    """
    settings = read_benchmark(config)
    launch = launcher(config, partial(work, os.getcwd()), settings.output) if settings.workers else None
    compare(settings, trainings(), launch)


def work(folder: str, config: DictConfig) -> None:
    """Be a worker of a benchmark, as a job of one of Hydra's launchers.

    Args:
        folder: In which the command was given.
        config: Of the worker.

    Raises:
        InputError: See `compare`.
    """
    if os.path.isdir(folder):  # if it is not there, the output that is below it is missed and named
        os.chdir(folder)
    sys.path.append(os.getcwd())  # as the command does
    compare(read_benchmark(config), trainings())


def read_benchmark(config: DictConfig) -> BenchmarkConfig:
    """The settings of a benchmark.

    Raises:
        InputError: One of them cannot be used.
    """
    plain = _without_names(config)
    plain["entries"] = parse_methods(plain.get("entries"))
    return parse(BenchmarkConfig, plain, "the configuration")


def _without_names(config: DictConfig) -> dict[str, Any]:
    """The plain configuration without keys that serve its own interpolations alone, like ``${robomimic}``."""
    names = set(re.findall(r"\$\{(\w+)", OmegaConf.to_yaml(config)))
    known = {setting.name for setting in fields(BenchmarkConfig)}
    return {key: value for key, value in to_plain(config).items() if key in known or key not in names}
