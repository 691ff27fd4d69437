"""A zarr store as files: opened from a folder or a zip, and which arrays it holds, readable or not."""

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import zarr
from zarr.storage import LocalStore, ZipStore

from shortcut_policy.data.archive import check_members
from shortcut_policy.data.lfs import refuse_pointer
from shortcut_policy.data.packed import other_kind
from shortcut_policy.errors import InputError, first_line

#: Where episodes end.
ENDS = "meta/episode_ends"
#: What every zip begins with; the list of what is in it stands at its end.
ZIP = b"PK\x03\x04"
LAYOUT = "a demonstration store is a zarr group with data/<key> arrays and meta/episode_ends"
#: Files of metadata of format 2 and 3.
ARRAY_2, GROUP_2, NODE_3 = ".zarray", ".zgroup", "zarr.json"


def open_store(path: str) -> zarr.Group:
    """Open the root group for reading; `InputError` if there is no zarr store at ``path``."""
    for file in (Path(path), Path(path, GROUP_2), Path(path, NODE_3)):
        refuse_pointer(file)
    try:
        if Path(path).is_dir():
            return zarr.open_group(LocalStore(path, read_only=True), mode="r", use_consolidated=False)
        if zipfile.is_zipfile(path):
            return zarr.open_group(
                ZipStore(path, mode="r"), mode="r", path=_root_in_zip(path), use_consolidated=False
            )
        if Path(path).is_file():
            with open(path, "rb") as opened:
                begins = opened.read(len(ZIP))
            if begins == ZIP:
                raise InputError(
                    f"{path} is a zip without its end: it was cut short; copy or download it again"
                )
            if (what := other_kind(path)) is not None:
                raise InputError(f"{path} {what}")
    except InputError:
        raise
    except Exception as error:  # zarr raises many kinds
        inside = sorted(str(folder) for folder in Path(path).glob("*.zarr"))
        hint = f"did you mean {inside[0]}?" if inside else LAYOUT
        raise InputError(f"{path} is not a zarr store ({first_line(error)}); {hint}") from error
    if not Path(path).exists():
        raise InputError(
            f"{path} does not exist; give the path of a zarr directory or .zip of demonstrations"
        )
    raise InputError(f"{path} is neither a zarr directory nor a zip of one; {LAYOUT}")


def list_nodes(path: str) -> tuple[list[str], list[str]]:
    """Paths of all arrays of a store, and of its groups, whose metadata may be damaged."""
    nodes = dict(_in_folder(Path(path), "") if Path(path).is_dir() else _in_zip(path))
    arrays, groups = ([name for name in sorted(nodes) if nodes[name] is kind] for kind in (True, False))
    return arrays, groups


def _in_folder(root: Path, below: str) -> Iterator[tuple[str, bool]]:
    """Path of each node, and whether it is an array."""
    folder = root / below
    node = folder / NODE_3
    if below and ((folder / ARRAY_2).is_file() or (node.is_file() and not _is_group(node.read_bytes()))):
        yield below, True  # what lies in it are chunks, which may be many
        return
    if below and (node.is_file() or (folder / GROUP_2).is_file()):
        yield below, False
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    for name in names:
        yield from _in_folder(root, f"{below}/{name}" if below else name)


def _in_zip(path: str) -> Iterator[tuple[str, bool]]:
    root = PurePosixPath(_root_in_zip(path)).parts
    with zipfile.ZipFile(path) as file:
        for name in file.namelist():
            *folder, last = PurePosixPath(name).parts or ("",)
            below = folder[len(root) :]
            if below and tuple(folder[: len(root)]) == root and last in (ARRAY_2, GROUP_2, NODE_3):
                is_array = last == ARRAY_2 or (last == NODE_3 and not _is_group(file.read(name)))
                yield "/".join(below), is_array


def _is_group(metadata: bytes) -> bool:
    """Whether a zarr.json is that of a group; what cannot be read is taken for an array's."""
    try:
        return bool(json.loads(metadata).get("node_type") == "group")
    except (ValueError, AttributeError):
        return False


def _root_in_zip(path: str) -> str:
    """Folder of the store inside a zip: people zip the folder as often as what is in it."""
    with zipfile.ZipFile(path) as file:
        members = [PurePosixPath(member.filename) for member in check_members(file, path)]
    parts = (str(member).partition(f"{ENDS}/") for member in members)
    roots = {folder.rstrip("/") for folder, found, rest in parts if found and rest in (ARRAY_2, NODE_3)}
    # A store may hold others; of several side by side none is the one that was meant.
    roots = {
        root
        for root in roots
        if not any(root.startswith(f"{other}/" if other else "") for other in roots - {root})
    }
    if len(roots) > 1:
        named = ", ".join(sorted(roots)[:3]) + ("" if len(roots) <= 3 else " and others")
        raise InputError(
            f"{path} holds {len(roots)} stores, {named}, and a training reads one: unpack it, and give one "
            "of them, or join them with scripts/convert.py input=[...]"
        )
    if roots:
        return roots.pop()
    # With episodes that end elsewhere: the uppermost group.
    groups = [member.parent for member in members if member.name in (GROUP_2, NODE_3)]
    return "/".join(min(groups, key=lambda folder: len(folder.parts)).parts) if groups else ""
