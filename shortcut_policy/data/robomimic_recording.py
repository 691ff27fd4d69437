"""A robomimic file as a `Recording`, and back: every array, attribute and group."""

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.data.env_args import ENV_ARGS, EnvArgs
from shortcut_policy.data.hdf5_filters import missing_filter
from shortcut_policy.data.object_state import OBJECT
from shortcut_policy.data.recording import (
    OBS,
    SMALL,
    Large,
    Recording,
    check_note,
    check_noted,
    decode,
    encode,
    parse_note,
    plain_value,
)
from shortcut_policy.data.robomimic_files import FOREIGN, NOTE, import_h5py, open_hdf5
from shortcut_policy.data.robomimic_source import RobomimicSource
from shortcut_policy.data.robomimic_writer import write_hdf5
from shortcut_policy.data.source import episode_rows, expand
from shortcut_policy.errors import InputError

FORMAT = "robomimic"


def read_robomimic(path: Path) -> Recording:
    """All that a file holds.

    Observations keep their names in a store, other arrays get dots for slashes (``next_obs.object``).
    ``object`` is repaired as `RobomimicSource` does it, and so is what environments of this library give;
    ``obs.object`` is what the file holds, alone where that cannot be repaired.

    Raises:
        InputError: See `RobomimicSource`.
    """
    stored = RobomimicSource(path, objects="stored", poses=True)
    types = stored.dtypes.items()
    numeric = {key: dtype for key, dtype in types if dtype.kind in "biuf" and not _is_wide(dtype)}
    columns = {stored.dataset_of(key): key for key in stored.keys if key in numeric}
    held = {f"data/{demo}/{array}": numeric[key] for demo in stored.demos for array, key in columns.items()}
    with open_hdf5(stored.path) as file:
        walk = Walk(stored.path, held)
        walk.group(file, "")
        foreign, note = _foreign(file, stored.path)
    derived = {}
    repaired = None if note else _repaired(path, columns)
    if repaired is not None:
        derived[OBJECT] = lambda e: repaired.read(OBJECT, *episode_rows(repaired, e))
    recording = Recording(
        stored,
        FORMAT,
        columns,
        note.get("keys") or default_keys(columns),
        stored.demos,
        {FORMAT: walk.rest, **foreign},
        walk.unheld,
        derived,
    )
    return check_noted(recording, f"the group {FOREIGN} of {path}")


def write_robomimic(recording: Recording, output: Path, env_args: str | None = None) -> None:
    """Write a file: what was one becomes the same again, of anything else all is kept.

    Args:
        env_args: File of JSON, for what was never a robomimic file.

    Raises:
        InputError: It is missing or cannot be read.
    """
    own = recording.rest.get(FORMAT) or _describe(recording, env_args)
    write_hdf5(output, recording.episodes(), {**own, **_notes(recording)})


def default_keys(paths: Iterable[str]) -> dict[str, str]:
    """Path -> key in a store: observations by their bare names, ``object`` alone is the repaired one."""
    bare = {path: path.removeprefix(OBS) for path in paths}
    taken = {path for path, name in bare.items() if path == name} | {OBJECT}
    return {path: (path if name in taken else name).replace("/", ".") for path, name in bare.items()}


class Walk:
    """Collects what a file holds besides the rows of its steps.

    Args:
        path: Of the file.
        held: Path of each array that is rows -> type that they get; None if they are made up.

    Attributes:
        rest: See `Recording`.
        unheld: See there.
    """

    def __init__(self, path: str, held: Mapping[str, np.dtype | None]) -> None:
        self._path, self._held, self._h5py = path, held, import_h5py()
        self.rest: dict[str, Any] = {}
        self.unheld: list[str] = []
        self._above: list[Any] = []

    def group(self, group: Any, prefix: str) -> None:
        """A group and all in it."""
        self._attributes(group, prefix.rstrip("/"))
        self._above.append(group)
        for name in group:
            place = prefix + name
            try:
                item = group[name]
            except (KeyError, OSError):
                self.unheld.append(f"{place}, a link to nothing")
                continue
            if isinstance(item, self._h5py.Dataset):
                self._attributes(item, place)
                self._dataset(item, place)
            elif not isinstance(item, self._h5py.Group) or item in self._above:
                self.unheld.append(f"{place}, a type or a link to a group that it is in")
            elif place != FOREIGN:
                self.group(item, f"{place}/")
                if not len(item) and not len(item.attrs):
                    self.rest[f"{place}/"] = None
        self._above.pop()

    def _attributes(self, item: Any, place: str) -> None:
        for name in item.attrs:
            try:
                value = plain_value(item.attrs[name])
            except (TypeError, OSError):
                value = None
            if self._is_plain(value):
                self.rest[f"{place}/@{name}"] = value
            else:
                self.unheld.append(f"{place}/@{name}, of a type that only HDF5 has")

    def _dataset(self, item: Any, place: str) -> None:
        names = self._h5py.check_enum_dtype(item.dtype)
        if place in self._held:
            if names is not None:
                self.unheld.append(f"the names {', '.join(names)} of the numbers in {place}")
            becomes = self._held[place]
            known = becomes is not None and item.dtype.kind in "biuf"  # and not JPEG, which becomes pixels
            if known and item.dtype.newbyteorder("=") != becomes:
                self.unheld.append(f"the type {item.dtype} of {place}, which becomes {becomes}")
            return
        text = self._h5py.check_string_dtype(item.dtype)
        if item.shape is None or names is not None or _is_wide(item.dtype):
            self.unheld.append(f"{place}, of a type that only HDF5 has")
        elif (lost := missing_filter(item)) is not None:
            self.unheld.append(f"{place}, whose HDF5 filter {lost} is missing: pip install hdf5plugin")
        elif text is not None and text.length is None:
            self._text(item, place)
        elif item.dtype.kind not in "biufcS":
            self.unheld.append(f"{place}, of a type that only HDF5 has")
        elif item.nbytes > SMALL:
            self.rest[place] = Large(partial(_read, self._path, place))
        else:
            self.rest[place] = np.asarray(item[()])

    def _text(self, item: Any, place: str) -> None:
        try:
            self.rest[place] = item.asstr()[()]
        except UnicodeDecodeError:
            self.unheld.append(f"{place}, text that is not UTF-8")

    def _is_plain(self, value: Any) -> bool:
        if isinstance(value, np.ndarray) and value.dtype.kind == "O":
            return all(_is_text(one) for one in value.flat)
        if isinstance(value, np.ndarray | np.generic):
            return value.dtype.kind in "biufcS"
        return _is_text(value) if isinstance(value, str) else isinstance(value, bool | int | float)


def _is_wide(dtype: np.dtype) -> bool:
    """Whether numbers have more digits than other formats hold: long doubles."""
    return dtype.kind == "f" and dtype.itemsize > 8


def _is_text(value: Any) -> bool:
    """Whether it is text that can be written again; h5py gives what is not UTF-8 with surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _read(path: str, place: str) -> np.ndarray:
    try:
        with open_hdf5(path) as file:
            return np.asarray(file[place][()])
    except InputError:
        raise
    except Exception as error:  # h5py raises many kinds, and a damaged shape asks for any amount of memory
        raise InputError(
            f"{place} of {path} cannot be read ({error}); the file is damaged: restore it from a copy"
        ) from error


def _foreign(file: Any, path: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What other formats held, and the note of how things are called in a store."""
    rest: dict[str, dict[str, Any]] = {}
    note: dict[str, Any] = {}
    for name, group in file.get(FOREIGN, {}).items():
        where = f"the attribute {NOTE} of {FOREIGN}/{name} in {path}"
        found = parse_note(group.attrs[NOTE], where)
        large = {place: Large(partial(_read, path, f"{FOREIGN}/{name}/{place}")) for place in found["large"]}
        rest[name] = {**decode(found["rest"]), **large}
        note = note or check_note(found.get("names", {}), where)
    return rest, note


def _notes(recording: Recording) -> dict[str, Any]:
    """What other formats hold, a group each; nothing of a store that was a robomimic file."""
    notes: dict[str, Any] = {}
    for name, rest in recording.rest.items():
        renamed = name == recording.format and recording.keys != default_keys(recording.columns)
        if name == FORMAT or not (rest or renamed):
            continue
        small, large = encode(rest)
        note = {"rest": small, "large": sorted(large), "names": recording.note() if renamed else {}}
        notes[f"{FOREIGN}/{name}/@{NOTE}"] = json.dumps(note)
        notes |= {f"{FOREIGN}/{name}/{place}": value for place, value in large.items()}
    return notes


def _repaired(path: Path, columns: Mapping[str, str]) -> RobomimicSource | None:
    """The file with ``object`` repaired; None, with a line that says why, if that cannot be."""
    if OBS + OBJECT not in columns:
        return None
    source = RobomimicSource(path, poses=True)
    if OBJECT not in source.lacking:
        return source
    print(
        f"only 'obs.{OBJECT}', as the file holds it, and no '{OBJECT}' is written: {source.lacking[OBJECT]}"
    )
    return None


def _describe(recording: Recording, env_args: str | None) -> dict[str, Any]:
    """What a robomimic file says of itself, for rows that were never in one."""
    if env_args is None:
        raise InputError(
            f"{recording.source.path} was not converted from a robomimic file: say with env_args=<file of "
            "JSON> what it was recorded in, as robomimic does"
        )
    try:
        text = expand(str(env_args)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"env_args={env_args} cannot be read ({error}); give the name of a file of JSON with env_name, "
            "env_version and env_kwargs"
        ) from error
    EnvArgs.parse(text, f"env_args={env_args}")
    lengths = recording.lengths
    samples = {f"data/{name}/@num_samples": n for name, n in zip(recording.names, lengths, strict=True)}
    return {
        f"data/@{ENV_ARGS}": json.dumps(json.loads(text), indent=4),
        "data/@total": sum(lengths),
        **samples,
    }
