"""A Minari dataset as a `Recording`, and back."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.data.action_kind import ACTIONS
from shortcut_policy.data.hdf5_file import create_hdf5
from shortcut_policy.data.minari_source import EPISODE, MAIN, METADATA, OBSERVATIONS, MinariSource, is_minari
from shortcut_policy.data.recording import (
    OBS,
    SMALL,
    Large,
    Recording,
    check_note,
    check_noted,
    foreign,
    noted_attributes,
)
from shortcut_policy.data.robomimic_recording import Walk
from shortcut_policy.data.robomimic_writer import put
from shortcut_policy.paths import write_atomic

__all__ = ["FORMAT", "is_minari", "lost_in_minari", "read_minari", "write_minari"]

FORMAT = "minari"
#: The release whose layout is written.
VERSION = "0.5.4"
#: Key of metadata.json: the names of what is converted back.
NOTE = "converted"
#: What every episode has, with the type that Minari gives it.
NEEDED = {"rewards": np.float64, "terminations": np.bool_, "truncations": np.bool_}
#: Rows after the last action.
LAST = "last/"


def read_minari(path: Path) -> Recording:
    """All that a dataset holds.

    Raises:
        InputError: See `MinariSource`.
    """
    source = MinariSource(path)
    where = f"'{NOTE}' in {METADATA} of {path}"
    note = check_note(source.metadata.get(NOTE, {}), where)
    made = note.get("made", [])
    columns = {
        note.get("paths", {}).get(place, _path(place)): key
        for key in source.keys
        if (place := source.dataset_of(key)) not in made and source.dtypes[key].kind in "biuf"
    }
    types = {source.dataset_of(key): source.dtypes[key] for key in columns.values()}
    places: dict[str, np.dtype | None] = {**dict.fromkeys(made), **types}
    walk = Walk(source.path, {f"{name}/{at}": places[at] for name in source.episodes for at in places})
    walk.group(source.file(), "")
    rest: dict[str, Any] = {f"/@{METADATA}": {k: v for k, v in source.metadata.items() if k != NOTE}}
    if note:  # the metadata and last rows were made up
        rest = {}
    else:
        rest |= walk.rest
        for key in columns.values():
            after = source.last(key)
            if after is not None:
                rest[LAST + source.dataset_of(key)] = (
                    after if after.nbytes <= SMALL else Large(partial(_last, source, key))
                )
    keys = note.get("keys") or {place: key.replace("/", ".") for place, key in columns.items()}
    names = note.get("names") or [f"demo_{number}" for number in range(len(source.episodes))]
    unheld = [
        *walk.unheld,
        *(f"the last row of {key}, which only some episodes have" for key in source.uneven),
    ]
    held = {**({FORMAT: rest} if rest else {}), **noted_attributes(note)}
    return check_noted(Recording(source, FORMAT, columns, keys, names, held, unheld), where)


def lost_in_minari(recording: Recording) -> list[str]:
    """What a dataset cannot hold, in words."""
    places = _places(recording)
    twice = {place for place in places.values() if list(places.values()).count(place) > 1}
    return [*foreign(recording, FORMAT), *(f"two arrays for the place {place}" for place in sorted(twice))]


def write_minari(recording: Recording, output: Path) -> None:
    """Write a dataset that Minari loads; images as they are, without its JPEG.

    Minari wants an observation after the last action. Where none was recorded, the one before it is written
    twice. Rewards and ends that were not recorded are 0, false, and true where an episode was cut off.
    """
    own = dict(recording.rest.get(FORMAT, {}))
    metadata = own.pop(f"/@{METADATA}", None)
    last = {
        place.removeprefix(LAST): value.read() if isinstance(value, Large) else value
        for place, value in own.items()
        if place.startswith(LAST)
    }
    places = _places(recording)
    folder = output / "data"
    folder.mkdir(parents=True)
    with create_hdf5(folder / MAIN, track_order=True) as (file, check):
        for number, (_, arrays) in enumerate(recording.episodes()):
            rows = {places[path]: values for path, values in arrays.items()}
            length = len(rows[ACTIONS])
            for place, values in _ends(length).items():
                rows.setdefault(place, values)
            for place in rows:
                after = last[place][number : number + 1] if place in last else rows[place][-1:]
                if place in last or _is_observation(place):
                    rows[place] = np.concatenate([rows[place], after])
            group = file.create_group(f"{EPISODE}{number}")
            for place, values in rows.items():
                put(group, place, Large(values.copy))
            if OBSERVATIONS not in group:  # an episode of actions alone
                group.create_group(OBSERVATIONS)
            group.attrs.update({"id": number, "total_steps": length})
            file.flush()
            check()
        for place in sorted(own, key=lambda place: "/@" in place):
            if not place.startswith(LAST) and not re.fullmatch(r"[^/]*/@(id|total_steps)", place):
                put(file, place, own[place])
    size = round((folder / MAIN).stat().st_size / 1e6, 1)
    described = _describe(recording, output) if metadata is None else {**metadata, "jpeg_encoding": False}
    described.setdefault("dataset_id", _dataset_id(output))
    text = json.dumps({**described, "dataset_size": size} if metadata is None else described)
    write_atomic(folder / METADATA, text)


def _last(source: MinariSource, key: str) -> np.ndarray:
    rows = source.last(key)
    assert rows is not None
    return rows


def _path(place: str) -> str:
    """Path in a `Recording` of a place in an episode."""
    if place == OBSERVATIONS:
        return OBS + OBSERVATIONS
    return OBS + place.removeprefix(f"{OBSERVATIONS}/") if _is_observation(place) else place


def _places(recording: Recording) -> dict[str, str]:
    """Path -> place in an episode."""
    observed = [path for path in recording.columns if path.startswith(OBS)]
    places = {}
    for path in recording.columns:
        if observed == [OBS + OBSERVATIONS] and path in observed:
            places[path] = OBSERVATIONS
        elif path.startswith(OBS):
            places[path] = f"{OBSERVATIONS}/{path.removeprefix(OBS)}"
        elif path == ACTIONS or path.startswith("infos/") or _is_needed(recording, path):
            places[path] = path
        else:
            places[path] = f"infos/{path}"
    return places


def _is_needed(recording: Recording, path: str) -> bool:
    """Whether an array is one that every episode has, as Minari has it."""
    if path not in NEEDED or recording.shape(path) != ():
        return False
    kind = recording.dtype(path).kind
    return kind == "b" if NEEDED[path] is np.bool_ else kind in "iuf"


def _is_observation(place: str) -> bool:
    return place.split("/")[0] == OBSERVATIONS


def _ends(length: int) -> dict[str, np.ndarray]:
    """What every episode has, if nothing was recorded."""
    made: dict[str, np.ndarray] = {name: np.zeros(length, dtype) for name, dtype in NEEDED.items()}
    made["truncations"][-1] = True
    return made


def _describe(recording: Recording, output: Path) -> dict[str, Any]:
    places = _places(recording)
    paths = {place: path for path, place in places.items() if _path(place) != path}
    observed = {
        place.removeprefix(OBSERVATIONS).removeprefix("/"): path
        for path, place in places.items()
        if _is_observation(place)
    }
    made = [name for name in NEEDED if name not in places.values()]
    note = {**recording.note(), "paths": paths, "made": made}
    return {
        "total_episodes": len(recording.names),
        "total_steps": sum(recording.lengths),
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": json.dumps(_space(recording, observed)),
        "action_space": json.dumps(_box(recording, ACTIONS)),
        "minari_version": VERSION,
        NOTE: note,
    }


def _dataset_id(output: Path) -> str:
    name = output.name
    return name if re.fullmatch(r"[-\w]+-v\d+", name) else re.sub(r"\W", "_", name) + "-v0"


def _space(recording: Recording, observed: dict[str, str]) -> dict[str, Any]:
    """The space of the observations, which are keys with slashes for dictionaries in dictionaries."""
    if list(observed) == [""]:
        return _box(recording, observed[""])
    groups: dict[str, dict[str, str]] = {}
    for name, path in observed.items():
        first, _, rest = name.partition("/")
        groups.setdefault(first, {})[rest] = path
    spaces = {first: _space(recording, inside) for first, inside in groups.items()}
    if spaces and sorted(spaces) == sorted(f"_index_{number}" for number in range(len(spaces))):
        return {"type": "Tuple", "subspaces": [spaces[f"_index_{number}"] for number in range(len(spaces))]}
    return {"type": "Dict", "subspaces": spaces}


def _box(recording: Recording, path: str) -> dict[str, Any]:
    shape, dtype = recording.shape(path), recording.dtype(path)
    if dtype.kind == "b":
        return {"type": "MultiBinary", "n": list(shape) or 1}
    low, high = (-np.inf, np.inf) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    bounds = {"low": np.full(shape, low, dtype).tolist(), "high": np.full(shape, high, dtype).tolist()}
    return {"type": "Box", "dtype": dtype.name, "shape": list(shape), **bounds}
