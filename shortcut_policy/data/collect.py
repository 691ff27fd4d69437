"""Record demonstrations with a scripted expert."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from shortcut_policy.build import build
from shortcut_policy.data.agreement import differences, opened
from shortcut_policy.data.env_args import ENV_ARGS
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES, parts_folder
from shortcut_policy.data.robomimic_writer import RobomimicWriter, recorded_attributes
from shortcut_policy.data.source import expand
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError

#: A task that needs more tries for one episode has an expert that does not work.
MAX_TRIES = 100


class Expert(Protocol):
    """What makes demonstrations."""

    attributes: Mapping[str, Any]
    """Kept with the demonstrations. Change a version in it whenever the expert acts differently."""

    def episode(self, random: np.random.Generator) -> dict[str, Any] | None:
        """One demonstration from a random start, key -> (T, ...), or None if it failed.

        For a robomimic file keys are paths such as ``obs/object``, and strings become attributes.

        Every draw comes from `random`, so that the same generator gives the same bytes.
        """
        ...


@runtime_checkable
class ManyExperts(Protocol):
    """An expert of several tasks, each of which has its share of the demonstrations."""

    def of_episode(self, index: int) -> Expert:
        """The expert that makes demonstration ``index``, however often it fails."""
        ...


def collect(
    expert_spec: Mapping[str, Any], output: str, episodes: int = 200, seed: int = 0, workers: int = 1
) -> None:
    """Write demonstrations to a store or continue one that is there, and say how many.

    Args:
        expert_spec: Specification of an `Expert`, see `build`.
        output: A robomimic file if the name ends in .hdf5, any other is a zarr store.
        episodes: Successful ones, in all.
        seed: Episode i is a function of this and i.
        workers: Processes; they do not change the result.

    Raises:
        InputError: The store holds demonstrations of another expert or seed, or the expert fails.
    """
    expert: Expert = build(expert_spec)
    attributes = {**expert.attributes, "seed": seed}
    check_same(output, attributes)
    with writer_of(output, attributes) as writer:
        first, rejected = writer.n_episodes, 0
        progress = tqdm(total=episodes, initial=min(first, episodes), unit="episode")
        for episode, failures in _episodes(expert_spec, seed, range(first, episodes), workers):
            writer.add_episode(episode)
            rejected += failures
            progress.set_postfix(steps=writer.n_steps, rejected=rejected)
            progress.update()
        progress.close()
        steps = writer.n_steps / max(writer.n_episodes, 1)
        print(
            f"{writer.path}: {writer.n_episodes} episodes of {steps:.1f} steps; "
            f"{max(episodes - first, 0)} new, {rejected} tries failed and were left out"
        )


def record(expert_spec: Mapping[str, Any], seed: int, index: int) -> tuple[dict[str, Any], int]:
    """Demonstration ``index`` and its failed tries: a function of the expert, ``seed`` and ``index``."""
    expert: Expert = build(expert_spec)
    if isinstance(expert, ManyExperts):
        expert = expert.of_episode(index)
    for attempt in range(MAX_TRIES):
        random = np.random.default_rng(np.random.SeedSequence([seed, index, attempt]))
        episode = expert.episode(random)
        if episode is not None:
            return episode, attempt
    raise InputError(f"expert {expert_spec['_target_']} failed {MAX_TRIES} times in a row at episode {index}")


def writer_of(output: str, attributes: Mapping[str, Any]) -> EpisodeWriter | RobomimicWriter:
    """What writes to a robomimic file if the name ends in .hdf5, and to a zarr store else.

    Raises:
        InputError: Their demonstrations make a robomimic file, and the name is not of one.
    """
    if ENV_ARGS in attributes and expand(output).suffix not in HDF5_SUFFIXES:
        raise InputError(
            f"output={output} would be a zarr store, but the demonstrations of this expert make a robomimic "
            "file; give output=<name>.hdf5"
        )
    if expand(output).suffix in HDF5_SUFFIXES:
        return RobomimicWriter(output, attributes)
    return EpisodeWriter(output, zarr_format=2, attributes=attributes)


def _episodes(
    expert_spec: Mapping[str, Any], seed: int, indices: Sequence[int], workers: int
) -> Iterator[tuple[dict[str, Any], int]]:
    """The missing demonstrations in order, made in so many processes."""
    if workers == 1:
        yield from (record(expert_spec, seed, index) for index in indices)
        return
    with pool_of(workers) as pool:
        yield from pool.map(partial(record, expert_spec, seed), indices)


def pool_of(workers: int) -> ProcessPoolExecutor:
    """So many processes, which end with this one, however it ends."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Without this a worker of a killed process would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def check_same(output: str, attributes: Mapping[str, Any]) -> None:
    """Raise `InputError` if a store was recorded with other attributes: its episodes would differ in kind."""
    path = expand(output)
    stored = recorded_attributes(path) if path.suffix in HDF5_SUFFIXES else attributes_of_store(path)
    if stored is None:
        return
    missing = [key for key in attributes if key not in stored]
    if missing:
        raise InputError(
            f"{output} holds demonstrations that do not say with what {' and '.join(missing)} they were "
            "recorded, so they cannot be continued; choose another output"
        )
    written = [one for one in (path, parts_folder(path)) if one.exists()]
    bound = {key: stored[key] for key in attributes}
    for key, was, would_be in differences(opened(bound), opened(attributes)):
        raise InputError(
            f"{output} was recorded with {key}={was}, not {would_be}; "
            f"choose another output or delete {' and '.join(map(str, written))}"
        )


def attributes_of_store(path: Path) -> dict[str, Any] | None:
    """Attributes of a zarr store with whole episodes; None of anything else."""
    try:
        return ZarrSource(path).attributes
    except InputError:
        # Without a whole episode nobody is bound; whether the path can be used is for the writer to say.
        return None
