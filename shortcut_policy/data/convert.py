"""Between robomimic's HDF5 files and zarr stores, without loss in either direction."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.env_args import ENV_ARGS, EnvArgs
from shortcut_policy.data.object_state import OBJECT
from shortcut_policy.data.robomimic_source import HDF5_SUFFIXES, RobomimicSource
from shortcut_policy.data.robomimic_writer import write_hdf5
from shortcut_policy.data.source import episode_rows, expand
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError

#: Attribute of a store that was a robomimic file: what arrays cannot hold.
ROBOMIMIC = "robomimic"


def convert(source: str | Path, output: str | Path, env_args: Any = None, actions: str = "action") -> Path:
    """Convert a robomimic file to a zarr store or a store to a file, as their names say.

    Args:
        source: What is converted; a robomimic file has a name that ends in .hdf5.
        output: What it becomes; must not be there yet.
        env_args: See `zarr_to_hdf5`.
        actions: See there.

    Returns:
        Where it was written.

    Raises:
        InputError: The input cannot be read, the output is there already, or neither or both are HDF5 files.
    """
    source, output = expand(source), expand(output)
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
        zarr_to_hdf5(source, output, env_args, actions)
    return output


def hdf5_to_zarr(path: Path, output: Path) -> None:
    """Observations keep their names, other arrays get dots for slashes (``next_obs.object``).

    ``object`` is repaired as `RobomimicSource` does it, and so is what environments of this library give;
    ``obs.object`` is what the file holds, alone where that cannot be repaired. Masks and attributes become
    the attribute ``robomimic``.
    """
    stored = RobomimicSource(path, objects="stored", poses=True)
    for why in stored.lacking.values():
        print(f"left out: {why}")
    names = {key: _array_name(key, stored.dataset_of(key)) for key in stored.keys}
    about = {
        "attributes": stored.attributes(),
        "demos": [[name, stored.attributes(name)] for name in stored.demos],
        "masks": stored.masks(),
        "datasets": {names[key]: stored.dataset_of(key) for key in stored.keys},
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    # In one step: a store that lacks the last demonstrations looks like a whole one.
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        temporary = Path(folder, output.name)
        with EpisodeWriter(temporary, attributes={ROBOMIMIC: about}) as writer:
            _write_episodes(writer, stored, names, _repaired(path))
        temporary.rename(output)


def zarr_to_hdf5(path: Path, output: Path, env_args: str | None, actions: str) -> None:
    """A store that was a robomimic file becomes that file again; of any other, all keys are observations.

    Args:
        env_args: File of JSON, for stores that were never a robomimic file.
        actions: Their key of the actions.
    """
    source = ZarrSource(path)
    about = source.attributes.get(ROBOMIMIC) or _describe(source, env_args, actions)
    _check_unchanged(source, about)
    write_hdf5(output, about["attributes"], _episodes(source, about), about["masks"])


def _repaired(path: Path) -> RobomimicSource | None:
    """The file with ``object`` repaired; None, with a line that says why, if that cannot be."""
    source = RobomimicSource(path, poses=True)
    if OBJECT not in source.lacking:
        return source
    print(
        f"only 'obs.{OBJECT}', as the file holds it, and no '{OBJECT}' is written: {source.lacking[OBJECT]}"
    )
    return None


def _write_episodes(
    writer: EpisodeWriter, stored: RobomimicSource, names: Mapping[str, str], repaired: RobomimicSource | None
) -> None:
    for number, demo in enumerate(tqdm(stored.demos, unit="episode")):
        rows = episode_rows(stored, number)
        episode = {names[key]: stored.read(key, *rows) for key in stored.keys}
        if repaired is not None and OBJECT in repaired.keys:
            episode[OBJECT] = repaired.read(OBJECT, *rows)
        try:
            writer.add_episode(episode)
        except InputError as error:
            raise InputError(f"{demo} of {stored.path} cannot be converted: {error}") from error


def _check_unchanged(source: ZarrSource, about: Mapping[str, Any]) -> None:
    """Episodes and keys that came later are in no list of what the file held: they would be left out."""
    held = [attributes["num_samples"] for _, attributes in about["demos"]]
    holds = np.diff(source.episode_ends, prepend=0).tolist()
    added = set(source.keys) - set(about["datasets"]) - {OBJECT}
    if holds != held or added:
        more = f" and the keys {', '.join(sorted(added))}" if added else ""
        raise InputError(
            f"{source.path} has changed since it was converted from a robomimic file of {len(held)} "
            f"demonstrations and {sum(held)} steps: it holds {len(holds)} episodes, {sum(holds)} steps"
            f"{more}; convert that file again, or remove the attribute '{ROBOMIMIC}' to convert the store "
            "like any other"
        )


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
            f"{source.path} was not converted from a robomimic file: say with env_args=<file of JSON> what "
            "it was recorded in, as robomimic does"
        )
    try:
        text = expand(str(env_args)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"env_args={env_args} cannot be read ({error}); give the name of a file of JSON with env_name, "
            "env_version and env_kwargs"
        ) from error
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


def _array_name(key: str, dataset: str) -> str:
    """Keys of the source, but ``object`` itself is the repaired one."""
    return (dataset if key == OBJECT else key).replace("/", ".")
