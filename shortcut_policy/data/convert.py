"""Between robomimic's HDF5 files and zarr stores, without loss in either direction."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from shortcut_policy.data.object_state import OBJECT
from shortcut_policy.data.robomimic_source import (
    ACTIONS,
    ENV_ARGS,
    HDF5_SUFFIXES,
    EnvArgs,
    RobomimicSource,
)
from shortcut_policy.data.robomimic_writer import write_hdf5
from shortcut_policy.data.source import episode_rows, expand
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError

#: Attribute of a store that was a robomimic file: what arrays cannot hold.
ROBOMIMIC = "robomimic"


def run(config: DictConfig) -> None:
    """Convert ``config.input`` to ``config.output``, as their names say, see ``configs/convert.yaml``.

    Raises:
        InputError: The input cannot be read, the output is there already, or neither or both are HDF5 files.
    """
    source, output = expand(config.input), expand(config.output)
    if (source.suffix in HDF5_SUFFIXES) == (output.suffix in HDF5_SUFFIXES):
        raise InputError(
            f"one of input={source} and output={output} must be a robomimic file, with a name that ends in "
            ".hdf5, and the other a zarr store"
        )
    if output.exists():
        raise InputError(f"{output} is there already; delete it or choose another output")
    if source.suffix in HDF5_SUFFIXES:
        hdf5_to_zarr(source, output)
    else:
        zarr_to_hdf5(source, output, config.env_args, config.actions)
    print(f"{output}: written")


def hdf5_to_zarr(path: Path, output: Path) -> None:
    """Observations keep their names, other arrays get dots for slashes (``next_obs.object``).

    ``object`` is repaired as `RobomimicSource` does it, and so is what environments of this library give;
    ``obs.object`` is what the file holds. Masks and attributes become the attribute ``robomimic``.
    """
    stored, repaired = RobomimicSource(path, objects="stored"), RobomimicSource(path)
    names = {key: _array_name(stored.dataset_of(key)) for key in stored.keys}
    about = {
        "attributes": stored.attributes(),
        "demos": [[name, stored.attributes(name)] for name in stored.demos],
        "masks": stored.masks(),
        "datasets": {names[key]: stored.dataset_of(key) for key in stored.keys},
    }
    with EpisodeWriter(output, attributes={ROBOMIMIC: about}) as writer:
        for number in tqdm(range(len(stored.demos)), unit="episode"):
            start, stop = episode_rows(stored, number)
            episode = {names[key]: stored.read(key, start, stop) for key in stored.keys}
            if OBJECT in repaired.keys:
                episode[OBJECT] = repaired.read(OBJECT, start, stop)
            writer.add_episode(episode)


def zarr_to_hdf5(path: Path, output: Path, env_args: str | None, actions: str) -> None:
    """A store that was a robomimic file becomes that file again; of any other, all keys are observations.

    Args:
        env_args: JSON, or a file of it, for stores that were never a robomimic file.
        actions: Their key of the actions.
    """
    source = ZarrSource(path)
    about = source.attributes.get(ROBOMIMIC) or _describe(source, env_args, actions)
    write_hdf5(output, about["attributes"], _episodes(source, about), about["masks"])


def _episodes(
    source: ZarrSource, about: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, np.ndarray]]]:
    for number, (name, attributes) in enumerate(tqdm(about["demos"], unit="episode")):
        start, stop = episode_rows(source, number)
        arrays = {path: source.read(key, start, stop) for key, path in about["datasets"].items()}
        yield name, attributes, arrays


def _describe(source: ZarrSource, env_args: str | None, actions: str) -> dict[str, Any]:
    if env_args is None:
        raise InputError(
            f"{source.path} was not converted from a robomimic file: say with env_args=<JSON or a file of "
            "it> what it was recorded in, as robomimic does"
        )
    text = Path(env_args).read_text(encoding="utf-8") if Path(env_args).is_file() else env_args
    EnvArgs.parse(text, f"env_args={env_args}")
    if actions not in source.keys:
        raise InputError(
            f"{source.path} has no key '{actions}', given as actions=; it holds {', '.join(source.keys)}"
        )
    lengths = np.diff(source.episode_ends, prepend=0).tolist()
    return {
        "attributes": {ENV_ARGS: json.dumps(json.loads(text), indent=4), "total": sum(lengths)},
        "demos": [[f"demo_{i}", {"num_samples": length}] for i, length in enumerate(lengths)],
        "masks": {},
        "datasets": {key: ACTIONS if key == actions else f"obs/{key}" for key in source.keys},
    }


def _array_name(dataset: str) -> str:
    """Bare names are for observations; ``object`` itself is the repaired one."""
    bare = dataset.removeprefix("obs/")
    return (dataset if bare == OBJECT else bare).replace("/", ".")
