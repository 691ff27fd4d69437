"""Draws the images of demonstrations of states, with the renderer of their own simulator."""

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from shortcut_policy.build import build
from shortcut_policy.data.collect import attributes_of_store, pool_of
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.source import EpisodeSource, episode_rows, expand
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.errors import InputError
from shortcut_policy.provenance import code_hash, library_versions, short_hash

#: Attribute of a store with images: how they were drawn, and a hash of what from.
RENDERED = "rendered"
#: Axes of a step of a key that holds images.
IMAGE_AXES = 3


class Renderer(Protocol):
    """What draws episodes."""

    keys: tuple[str, ...]
    """Of the images."""

    def prepare(self, source: EpisodeSource) -> dict[str, Any]:
        """Find out that all episodes can be drawn, before the first one is.

        Returns:
            Attributes of the store with the images, JSON values.

        Raises:
            InputError: They cannot.
        """
        ...

    def images(self, source: EpisodeSource, episode: int) -> dict[str, np.ndarray]:
        """Key -> (T, H, W, 3) uint8, of each step of one episode."""
        ...


def render(
    source: EpisodeSource, renderer_spec: Mapping[str, Any], output: str | Path, workers: int = 1
) -> Path:
    """Write a store with all that ``source`` holds and the images of its steps, or continue one.

    Keys keep their names, with dots for slashes (``next_obs.object``).

    Args:
        source: The episodes.
        renderer_spec: Specification of a `Renderer`, see `build`.
        output: A zarr store; whole episodes that are there stay as they are.
        workers: Processes; they do not change the result.

    Returns:
        Where it was written.

    Raises:
        InputError: The episodes cannot be drawn; or the store is of other ones, or was drawn in another way.
    """
    path = expand(output)
    if path.suffix in HDF5_SUFFIXES:
        raise InputError(f"output={output} must be a zarr store, such as {path.with_suffix('.zarr')}")
    renderer: Renderer = build(renderer_spec)
    there = sorted(set(renderer.keys) & set(source.keys))
    if there:
        raise InputError(
            f"{source.path} holds {', '.join(there)} already: choose other cameras, or train on it"
        )
    attributes = renderer.prepare(source)
    attributes[RENDERED] = {**_plain(renderer_spec), "of": digest(source, renderer_spec)}
    _check_same(path, attributes[RENDERED])
    with EpisodeWriter(path, attributes=attributes) as writer:
        missing = range(writer.n_episodes, len(source.episode_ends))
        rows, seldom = int(source.episode_ends[-1]), 0.2 if sys.stderr.isatty() else 15.0
        with tqdm(total=rows, initial=writer.n_steps, unit=" frames", mininterval=seldom) as progress:
            for episode, images in zip(missing, _drawn(source, renderer_spec, missing, workers), strict=True):
                writer.add_episode({**_stored(source, episode), **images})
                progress.update(writer.n_steps - progress.n)
        print(f"{path}: {writer.n_episodes} episodes with images, {len(missing)} of them new")
    return path


def images_of(source: EpisodeSource, renderer_spec: Mapping[str, Any], episode: int) -> dict[str, np.ndarray]:
    """See `Renderer.images`."""
    renderer: Renderer = build(renderer_spec)
    return renderer.images(source, episode)


def digest(source: EpisodeSource, renderer_spec: Mapping[str, Any]) -> str:
    """Hash of all that decides a store with images: what is stored, the renderer, its code and libraries."""
    found = hashlib.blake2b(source.episode_ends.tobytes(), digest_size=16)
    for key in source.keys:
        if len(source.shapes[key]) < IMAGE_AXES:
            found.update(key.encode())
            found.update(source.read(key, 0, int(source.episode_ends[-1])).tobytes())
    package = str(renderer_spec["_target_"]).rsplit(".", 2)[0]
    versions = library_versions("mujoco", "robosuite", "pillow", "shapely")
    return short_hash(found.hexdigest(), _plain(renderer_spec), code_hash(package), versions)


def _drawn(
    source: EpisodeSource, renderer_spec: Mapping[str, Any], episodes: Sequence[int], workers: int
) -> Iterator[dict[str, np.ndarray]]:
    """Images of the episodes in order, drawn in so many processes."""
    draw = partial(images_of, source, renderer_spec)
    if workers == 1:
        yield from map(draw, episodes)
        return
    with pool_of(workers) as pool:
        yield from pool.map(draw, episodes)


def _stored(source: EpisodeSource, episode: int) -> dict[str, np.ndarray]:
    numeric = [key for key in source.keys if source.dtypes[key].kind in "biuf"]
    return {key.replace("/", "."): source.read(key, *episode_rows(source, episode)) for key in numeric}


def _check_same(path: Path, rendered: Mapping[str, Any]) -> None:
    """Episodes of two files or of two sizes in one store would be no set of demonstrations."""
    stored = attributes_of_store(path)
    if stored is not None and stored.get(RENDERED) != rendered:
        raise InputError(
            f"{path} holds other demonstrations, or images that were drawn in another way (cameras, size, "
            "code or libraries): choose another output, or delete it"
        )


def _plain(spec: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(dict(spec)))
    return plain
