"""A robomimic file as a file: opened, and which arrays are in it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.data.packed import other_kind
from shortcut_policy.errors import InputError

if TYPE_CHECKING:
    import h5py

HDF5_SUFFIXES = (".hdf5", ".h5")
#: Group of a file for what formats other than this one hold, and the attribute with the small things.
FOREIGN, NOTE = "shortcut_policy", "note"
LAYOUT = "a robomimic file is an HDF5 file with the group data, and in it demo_0, demo_1, ..."


def open_hdf5(path: str) -> "h5py.File":
    """Open for reading; `InputError` if that cannot be."""
    if not Path(path).is_file():
        _refuse_parts(Path(path))
        _refuse_folder(Path(path))
        raise InputError(
            f"{path} does not exist; give the path of a robomimic HDF5 file (scripts/download.py fetches "
            "published ones)"
        )
    refuse_pointer(path)
    h5py = import_h5py()
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if h5py.is_hdf5(path):
            raise InputError(
                f"{path} is an HDF5 file that cannot be opened ({error}); it was cut short or is being "
                "written: copy it again"
            ) from error
        what = other_kind(path) or f"is not an HDF5 file; {LAYOUT}"
        raise InputError(f"{path} {what}") from error


def parts_folder(path: Path) -> Path:
    """Where `RobomimicWriter` keeps the episodes of ``path`` until it is finished."""
    return path.with_name(f"{path.name}.parts")


def _refuse_parts(path: Path) -> None:
    """Raise `InputError` if a file is not there yet because it is being recorded."""
    parts = parts_folder(path)
    if not parts.is_dir():
        return
    episodes = len(list(parts.glob("demo_*.hdf5")))
    if episodes == 0:
        raise InputError(f"{path} is a recording without an episode: record at least one")
    raise InputError(
        f"{path} is not completed: its recording runs or was stopped, and its {episodes} episodes are in "
        f"{parts}; run the command that recorded them again, and end it"
    )


def _refuse_folder(path: Path) -> None:
    """Raise `InputError` if a folder is given in place of a file in it."""
    if path.is_dir():
        files = sorted(str(file) for suffix in HDF5_SUFFIXES for file in path.glob(f"*{suffix}"))
        hint = f"did you mean {files[0]}?" if files else LAYOUT
        raise InputError(f"{path} is a folder and not an HDF5 file; {hint}")


def import_h5py() -> Any:
    """The module; `InputError` where the extra is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "robomimic files need h5py, which is not installed: pip install 'shortcut-policy[robomimic]'"
        ) from error
    return h5py


def plain_attributes(group: Any) -> dict[str, Any]:
    """Attributes of a group of an HDF5 file, as Python values."""
    return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in group.attrs.items()}


def data_group(file: Any, path: str) -> Any:
    """Where the demonstrations of an open file are; `InputError` if that is missing."""
    if "data" not in file or not is_group(file["data"]):
        raise InputError(f"{path} has no group 'data' (it holds {listed(file)}); {LAYOUT}")
    return file["data"]


def is_group(item: Any) -> bool:
    """Whether something in a file is a group: to look for a name in an array goes through all its rows."""
    return hasattr(item, "items")


def list_arrays(demo: Any) -> dict[str, Any]:
    """Path -> dataset with a row for each step, of a demonstration and the groups in it."""
    return {path: array for path, array in datasets(demo).items() if array.shape}


def datasets(group: Any) -> dict[str, Any]:
    """Path -> dataset, of a group and the groups in it."""
    found: dict[str, Any] = {}
    for name, item in group.items():
        if hasattr(item, "shape"):
            found[name] = item
        elif is_group(item):  # and not a link to nothing, or a type
            found |= {f"{name}/{path}": array for path, array in datasets(item).items()}
    return found


def listed(group: Any) -> str:
    """What is in a group, for messages."""
    return ", ".join(group) or "nothing"


def noted_origins(file: "h5py.File") -> dict[str, Any]:
    """Format -> what a file says of the data of that format that it was made of; nothing that is damaged.

    Whoever converts the file back reads the same notes, and refuses those that are damaged.
    """
    group = file.get(FOREIGN)
    notes = {}
    for name in group if is_group(group) else ():
        try:
            notes[name] = json.loads(group[name].attrs[NOTE])
        except (KeyError, OSError, TypeError, ValueError, RecursionError):
            continue
    return notes
