"""Record demonstrations with a scripted expert: `scripts/collect.py expert=pusht episodes=200 output=...`."""

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from shortcut_policy.build import build
from shortcut_policy.data.robomimic_source import ENV_ARGS, HDF5_SUFFIXES
from shortcut_policy.data.robomimic_writer import RobomimicWriter, parts_folder, recorded_attributes
from shortcut_policy.data.source import expand
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_whole

#: A task that needs more tries for one episode has an expert that does not work.
MAX_TRIES = 100


class Expert(Protocol):
    """What `expert` in the configuration has to build."""

    attributes: Mapping[str, Any]
    """Kept with the demonstrations. Change a version in it whenever the expert acts differently."""

    def episode(self, random: np.random.Generator) -> dict[str, Any] | None:
        """One demonstration from a random start, key -> (T, ...), or None if it failed.

        For a robomimic file keys are paths such as ``obs/object``, and strings become attributes.

        Every draw comes from `random`, so that the same generator gives the same bytes.
        """
        ...


def run(config: DictConfig) -> None:
    """Write `config.episodes` demonstrations to `config.output`; continues one that is there.

    A name that ends in .hdf5 is a robomimic file, any other a zarr store.

    Raises:
        InputError: The store holds demonstrations of another expert or seed, or a number is out of range.
    """
    _check(config)
    expert: Expert = build(dict(config.expert))
    attributes = {**expert.attributes, "seed": config.seed}
    if ENV_ARGS in attributes and expand(config.output).suffix not in HDF5_SUFFIXES:
        raise InputError(
            f"output={config.output} would be a zarr store, but the demonstrations of this expert make a "
            "robomimic file; give output=<name>.hdf5"
        )
    _check_same(config.output, attributes)
    with _writer(config.output, attributes) as writer:
        first, rejected = writer.n_episodes, 0
        progress = tqdm(total=config.episodes, initial=min(first, config.episodes), unit="episode")
        for episode, failures in _episodes(config, first):
            writer.add_episode(episode)
            rejected += failures
            progress.set_postfix(steps=writer.n_steps, rejected=rejected)
            progress.update()
        progress.close()
        steps = writer.n_steps / max(writer.n_episodes, 1)
        print(
            f"{writer.path}: {writer.n_episodes} episodes of {steps:.1f} steps; "
            f"{max(config.episodes - first, 0)} new, {rejected} tries failed and were left out"
        )


def record(config: DictConfig, index: int) -> tuple[dict[str, Any], int]:
    """Demonstration `index` and its failed tries: a function of the expert, `config.seed` and `index`."""
    expert: Expert = build(dict(config.expert))
    for attempt in range(MAX_TRIES):
        random = np.random.default_rng(np.random.SeedSequence([config.seed, index, attempt]))
        episode = expert.episode(random)
        if episode is not None:
            return episode, attempt
    raise InputError(f"expert {config.expert._target_} failed {MAX_TRIES} times in a row at episode {index}")


def _writer(output: str, attributes: Mapping[str, Any]) -> EpisodeWriter | RobomimicWriter:
    if expand(output).suffix in HDF5_SUFFIXES:
        return RobomimicWriter(output, attributes)
    return EpisodeWriter(output, zarr_format=2, attributes=attributes)


def _episodes(config: DictConfig, first: int) -> Iterator[tuple[dict[str, Any], int]]:
    """The missing demonstrations in order, made in `config.workers` processes."""
    indices = range(first, config.episodes)
    if config.workers == 1:
        yield from (record(config, index) for index in indices)
        return
    with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(record, itertools.repeat(config), indices)


def _check(config: DictConfig) -> None:
    for key, lowest in (("episodes", 1), ("seed", 0), ("workers", 1)):
        check_whole(key, config[key], lowest)


def _check_same(output: str, attributes: Mapping[str, Any]) -> None:
    """Episodes of two experts or seeds in one store could not be made again."""
    path = expand(output)
    stored = recorded_attributes(path) if path.suffix in HDF5_SUFFIXES else _attributes_of_store(path)
    if stored is None:
        return
    missing = [key for key in attributes if key not in stored]
    if missing:
        raise InputError(
            f"{output} holds demonstrations that do not say with what {' and '.join(missing)} they were "
            "recorded, so they cannot be continued; choose another output"
        )
    written = [one for one in (path, parts_folder(path)) if one.exists()]
    for key, value in attributes.items():
        if stored[key] != value:
            raise InputError(
                f"{output} was recorded with {key}={stored[key]}, not {value}; "
                f"choose another output or delete {' and '.join(map(str, written))}"
            )


def _attributes_of_store(path: Path) -> dict[str, Any] | None:
    try:
        return ZarrSource(path).attributes
    except InputError:
        # Without a whole episode nobody is bound; whether the path can be used is for the writer to say.
        return None
