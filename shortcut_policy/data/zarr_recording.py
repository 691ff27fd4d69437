"""A zarr store as a `Recording`, and back: every array and attribute."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Zstd  # type: ignore[import-untyped]
from zarr.storage import LocalStore

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.object_state import OBJECT
from shortcut_policy.data.recording import (
    NOT_SEEN,
    OBS,
    SMALL,
    STORE,
    Large,
    Recording,
    decode,
    encode,
    is_root,
)
from shortcut_policy.data.writer import WRITE_ALL_CHUNKS, EpisodeWriter
from shortcut_policy.data.zarr_files import ENDS
from shortcut_policy.data.zarr_source import RECORDING, ROBOMIMIC, AbsentChunks, ZarrSource, is_origin
from shortcut_policy.errors import InputError

FORMAT = STORE
#: Attributes of a store that was something else, and folders in it: what arrays of steps cannot hold.
ORIGINS = (ROBOMIMIC, "minari", "lerobot")


def read_zarr(
    path: Path,
    actions: str = "action",
    episode_ends: str | None = None,
    absent_chunks: AbsentChunks | None = None,
) -> Recording:
    """All that a store holds.

    A store that was something else has the paths that it had there. Of any other, all keys are observations
    but for the actions and what is `NOT_SEEN`. Keys that lie elsewhere than in ``data/``, and ends of another
    name, get the places that `EpisodeWriter` gives them.

    Args:
        actions: Key of the actions.
        episode_ends: See `ZarrSource`,
        absent_chunks: as well.

    Raises:
        InputError: See `ZarrSource`; or it is still written to, or has changed since it was converted.
    """
    source = ZarrSource(path, episode_ends, absent_chunks)
    if source.attributes.get(RECORDING) is True:
        raise InputError(
            f"{path} is being written, or its recording was stopped: end it, or open and close the store "
            "with EpisodeWriter to keep the whole episodes"
        )
    origins = {name: _origin(source.attributes[name]) for name in _origins(source)}
    named = next((name for name, about in origins.items() if "datasets" in about), None)
    numeric = [key for key in source.keys if source.dtypes[key].kind in "biuf"]
    if named is None:
        columns = _columns(source, numeric, actions)
        names = [f"demo_{number}" for number in range(len(source.episode_ends))]
    else:
        about = origins[named]
        _check_unchanged(source, named, about)
        columns = {place: key for key, place in about["datasets"].items()}
        names = about["names"]
    rest = {name: {**about["rest"], **_large(source, name, about)} for name, about in origins.items()}
    own, unheld = _own(source, numeric)
    return Recording(
        source, FORMAT, columns, columns, names, {FORMAT: own, **rest}, unheld, origin=named or ""
    )


def lost_in_zarr(recording: Recording) -> list[str]:
    """What a store cannot hold, in words: all but one of what would get one name (a.b and a/b)."""
    names = {recording.keys[path]: path for path in recording.columns}
    lost = [path for path in recording.columns if path not in names.values()]
    own = recording.rest.get(FORMAT, {})
    taken = [name for name in recording.rest if name != FORMAT and f"/@{name}" in own]
    return [
        *(f"array {path}, which {recording.keys[path]} would be the key of, as of another" for path in lost),
        *(f"attribute /@{name}, in place of which stands what only {name} holds" for name in taken),
        *(["attribute /@recording, with which a writer marks a store"] if f"/@{RECORDING}" in own else []),
    ]


def write_zarr(recording: Recording, output: Path) -> None:
    """Write a store; what is no row of a step goes into attributes and folders of the format that it is "
    "of."""
    attributes = {
        place[2:]: value
        for place, value in recording.rest.get(FORMAT, {}).items()
        if is_root(place) and place != f"/@{RECORDING}"
    }
    arrays: dict[str, Any] = {}
    for name, rest in recording.rest.items():
        if name == FORMAT:
            continue
        small, large = encode(rest)
        attributes[name] = {"rest": small, "large": sorted(large)}
        if name == (recording.origin or recording.format):
            attributes[name] |= {
                "names": list(recording.names),
                "lengths": recording.lengths,
                "datasets": {recording.keys[place]: place for place in recording.columns},
            }
        arrays |= {f"{name}/{place}": value for place, value in large.items()}
    # What a key holds is checked when it is trained; one that nobody trains may hold NaN.
    with EpisodeWriter(output, attributes=attributes, groups=True, finite=False) as writer:
        for number, (_, rows) in enumerate(recording.episodes()):
            episode = {recording.keys[place]: values for place, values in rows.items()}
            episode |= {key: derive(number) for key, derive in recording.derived.items()}
            try:
                writer.add_episode(episode)
            except InputError as error:
                raise InputError(f"{recording.called(number)} cannot be converted: {error}") from error
    _write_others(output, {**arrays, **_below_root(recording.rest.get(FORMAT, {}))})


def _below_root(rest: Mapping[str, Any]) -> dict[str, Any]:
    return {place: value for place, value in rest.items() if not is_root(place)}


def _write_others(output: Path, arrays: Mapping[str, Any]) -> None:
    """Arrays and attributes below the root; arrays first."""
    group = zarr.open_group(LocalStore(output), mode="r+", use_consolidated=False)
    with zarr.config.set(WRITE_ALL_CHUNKS):
        for place in sorted(arrays, key=lambda place: "/@" in place):
            value = arrays[place]
            name, is_attribute, attribute = place.partition("/@")
            if is_attribute:
                (group[name] if name in group else group.create_group(name)).attrs[attribute] = value
            else:
                data = value.read() if isinstance(value, Large) else value
                rows = min(len(data), 2**20 // max(1, data[:1].nbytes)) if data.ndim else 1
                chunks = tuple(max(1, n) for n in (rows, *data.shape[1:])[: data.ndim])
                packing = [Zstd(level=9, checksum=True)]
                group.create_array(name, data=data, chunks=chunks, compressors=packing)


def _origins(source: ZarrSource) -> list[str]:
    """Formats of which an attribute of the store holds what arrays of steps cannot."""
    return [name for name in ORIGINS if is_origin(source.attributes.get(name))]


def _columns(source: ZarrSource, keys: list[str], actions: str) -> dict[str, str]:
    if actions not in keys and ACTIONS in keys and actions == "action":
        actions = ACTIONS
    if actions not in keys:
        raise InputError(
            f"{source.path} has no key '{actions}', given as actions=; it holds {', '.join(source.keys)}"
        )
    unseen = {key for key in NOT_SEEN.intersection(keys) if source.shapes[key] in ((), (1,))}
    return {ACTIONS if key == actions else key if key in unseen else OBS + key: key for key in keys}


def _own(source: ZarrSource, numeric: list[str]) -> tuple[dict[str, Any], list[str]]:
    """What the store holds besides its keys, and is of no other format; and what cannot be handed on."""
    origins = _origins(source)
    rest: dict[str, Any] = {
        f"/@{name}": value for name, value in source.attributes.items() if name not in origins
    }
    arrays, attributes, unheld = source.others()
    foreign = tuple(f"{name}/" for name in origins)
    for name in [*arrays, *(f"{source.prefix}{key}" for key in source.keys if key not in numeric)]:
        if foreign and name.startswith(foreign):
            continue
        try:
            array = source.read_whole(name)
        except InputError as error:  # it is no step's, and nothing else depends on it
            unheld.append(f"array {name}: {error}")
            continue
        if array.dtype.kind not in "biufcSU":
            unheld.append(f"array {name} of type {array.dtype}")
        else:
            # Read again when it is written: all of them at once may be more than fits into memory.
            small = array.nbytes <= SMALL
            rest[_place(source, name)] = array if small else Large(partial(source.read_whole, name))
    for name, values in attributes.items():
        if not foreign or not f"{name}/".startswith(foreign):
            place = _place(source, name)
            rest |= {f"{place}/@{attribute}": value for attribute, value in values.items()}
    return rest, unheld


def _place(source: ZarrSource, name: str) -> str:
    """Where an array or a group of a store lies in a store of `EpisodeWriter`."""
    if name == source.ends_name:
        return ENDS
    is_there = source.prefix or name.partition("/")[0] == "meta"
    return name if is_there else f"data/{name}"


def _large(source: ZarrSource, name: str, about: Mapping[str, Any]) -> dict[str, Large]:
    return {place: Large(partial(source.read_whole, f"{name}/{place}")) for place in about.get("large", ())}


def _origin(about: Any) -> dict[str, Any]:
    """What the attribute of an origin says; also as it was written before other formats were known."""
    if "attributes" not in about:
        return {**about, "rest": decode(about["rest"])}
    rest: dict[str, Any] = {f"data/@{name}": value for name, value in about["attributes"].items()}
    for name, attributes in about["demos"]:
        rest |= {f"data/{name}/@{attribute}": value for attribute, value in attributes.items()}
    masks = {f"mask/{key}": np.array(names, dtype="S") for key, names in about["masks"].items()}
    return {
        "rest": rest | masks,
        "names": [name for name, _ in about["demos"]],
        "lengths": [attributes["num_samples"] for _, attributes in about["demos"]],
        "datasets": about["datasets"],
    }


def _check_unchanged(source: ZarrSource, name: str, about: Mapping[str, Any]) -> None:
    """Episodes and keys that came later are in no list of what was held: they would be left out."""
    for key in set(about["datasets"]) & set(source.lacking):
        raise InputError(source.lacking[key])
    held, holds = about["lengths"], [int(n) for n in np.diff(source.episode_ends, prepend=0)]
    added = set(source.keys) - set(about["datasets"]) - {OBJECT}
    lost = set(about["datasets"]) - set(source.keys)
    if holds == held and not added and not lost:
        return
    more = f" and the keys {', '.join(sorted(added))}" if added else ""
    more += f", but not {', '.join(sorted(lost))}" if lost else ""
    what = "a robomimic file" if name == "robomimic" else f"a {name} dataset"
    raise InputError(
        f"{source.path} has changed since it was converted from {what} of {len(held)} demonstrations and "
        f"{sum(held)} steps: it holds {len(holds)} episodes, {sum(holds)} steps{more}; convert that file "
        f"again, or remove the attribute '{name}' to convert the store like any other"
    )
