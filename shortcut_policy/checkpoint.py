"""Checkpoints: a folder with ``policy.safetensors`` and ``policy.json``, loadable with torch alone.

A run keeps them as ``<run>/checkpoints/step_00014000``; the newest one also holds ``training_state.pt``, with
which training goes on. A checkpoint appears under its name only when it is complete.
"""

import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from shortcut_policy.device import usable_device
from shortcut_policy.errors import InputError, TrainingError, first_line, one_line
from shortcut_policy.hub import download, is_remote
from shortcut_policy.model import Model, build_model
from shortcut_policy.no_checkpoint import DESCRIPTION as DESCRIPTION
from shortcut_policy.no_checkpoint import check_path, check_whole, no_checkpoint
from shortcut_policy.paths import atomic_path_alone, named, write_atomic, written_out
from shortcut_policy.plain import plain_json
from shortcut_policy.renamed import rename
from shortcut_policy.trust import check_trust, trusted_modules

WEIGHTS, TRAINING_STATE = "policy.safetensors", "training_state.pt"
#: Beside the description in an export, see `runtimes.export`.
MANIFEST = "manifest.json"
FORMAT = 1


def load_model(
    path: str | Path, device: str | torch.device = "cpu", trust: str | Sequence[str] | None = ()
) -> Model:
    """Load whatever was trained, a policy or a generator of images.

    Args:
        path: See `find_checkpoint`.
        device: Where to put it.
        trust: Modules of yours whose classes the checkpoint may name, such as ``["my_module"]``; the classes
            of this library, ``torch.nn`` and gymnasium's environments need none.

    Raises:
        InputError: There is no checkpoint or no such device, or its files are damaged or do not fit each
            other; or it names code that is not trusted, and then none of that has run.
    """
    folder, device = find_checkpoint(path), usable_device(device)
    if (folder / MANIFEST).is_file() and not (folder / WEIGHTS).is_file():
        raise InputError(
            f"{folder} is an export, which acts and has no weights: give the checkpoint that it was made of"
        )
    description = read_description(folder, trust)
    with building(folder / DESCRIPTION):
        model = build_model(description["policy"])
    model.metadata = description["metadata"]
    try:
        model.load_state_dict(_read_weights(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = one_line(error)
        raise InputError(
            f"the weights {folder / WEIGHTS} cannot be loaded ({reason:.200}); "
            "take another checkpoint or copy this one again"
        ) from error
    if not model.normalizer.fitted:
        raise InputError(f"{folder / WEIGHTS} lacks the normaliser's statistics; take another checkpoint")
    return model.to(device).eval()


@contextmanager
def building(file: Path) -> Iterator[None]:
    """Whatever goes wrong while what ``file`` describes is built becomes a sentence that names it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{file} describes no model that can be built: {error}") from error
    except Exception as error:  # whatever a class says of arguments that it cannot use
        raise InputError(
            f"{file} describes no model that can be built ({type(error).__name__}: {first_line(error)}); "
            "take another checkpoint"
        ) from error


def save_model(model: Model, folder: str | Path) -> None:
    """Write weights, statistics, specification and metadata of a policy or other model into a folder.

    Each file replaces the one that is there in one step. Parameters that share their storage (tied weights)
    are stored once, and share it again in whatever class ties them when it is built.

    Raises:
        InputError: The policy has no specification, so that it could not be loaded again, or this or the
            metadata hold what JSON cannot; or it has no weights.
    """
    check_weights(model, "saved")
    description = describe_model(model)
    folder = written_out(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path_alone(folder / WEIGHTS) as temporary:
        write_weights(model, str(temporary))
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=2))


def check_weights(model: Model, to_be: str) -> None:
    """Raise `InputError` if a runtime has the weights of a policy, which are ``to_be`` saved or the like."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(
            f"this policy is an export or was compiled, and has no weights that could be {to_be}: take the "
            "checkpoint, or the policy, that it was made of"
        )


def write_weights(model: Model, path: str) -> None:
    """Each of a model's tensors once; the file's metadata name the others that are the same one.

    Not ``safetensors.torch.save_model``, which refuses a weight that is a part of a larger one, such as those
    of a recurrent network on a GPU, and of two that overlap keeps one.
    """
    kept: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[Any, str] = {}
    whole: set[int] = set()
    for name, tensor in sorted(model.state_dict().items()):
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in first:
            tied[name] = first[place]
            continue
        first[place] = name
        storage = tensor.untyped_storage()
        alone = tensor.is_contiguous() and storage.nbytes() == tensor.nbytes
        alone = alone and storage.data_ptr() not in whole  # another shape of the same one
        whole.add(storage.data_ptr())
        kept[name] = tensor if alone else tensor.clone(memory_format=torch.contiguous_format)
    save_file(kept, path, metadata=tied or None)


def write_description(model: Model, path: Path) -> None:
    """The JSON part of a checkpoint alone.

    Raises:
        InputError: See `save_model`.
    """
    write_atomic(path, json.dumps(describe_model(model), indent=2))


def describe_model(model: Model) -> dict[str, Any]:
    """The JSON part of a checkpoint.

    Raises:
        InputError: See `save_model`.
    """
    if not model.spec:
        raise InputError(
            "this policy has no specification, without which it could not be loaded again: build it with "
            "Policy.from_spec"
        )
    spec, metadata = plain_json(model.spec), plain_json(model.metadata, "metadata")
    return {"format": FORMAT, "policy": spec, "metadata": metadata, "versions": package_versions()}


def package_versions(*more: str) -> dict[str, str]:
    """Versions of the packages that decide what a checkpoint is, and of ``more``."""
    return {name: _version(name) for name in ("shortcut-policy", "torch", "numpy", "diffusers", *more)}


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that a path means: itself, the newest one of a run, or a copy of the hub's.

    Args:
        path: A checkpoint folder, a run folder or its ``checkpoints``, or ``hf://user/name[@revision]``.

    Raises:
        InputError: There is no checkpoint, or the newest of a run is not whole.
    """
    check_path(path)
    if is_remote(path):
        return download(path, (DESCRIPTION, WEIGHTS))
    folder = written_out(path)
    if (folder / DESCRIPTION).is_file():
        return folder
    checkpoints = list_checkpoints(folder if folder.name != "checkpoints" else folder.parent)
    if not checkpoints:
        raise no_checkpoint(folder)
    check_whole(checkpoints[-1])
    return checkpoints[-1]


def list_checkpoints(run: str | Path) -> list[Path]:
    """Complete checkpoints of a run, oldest first."""
    found = (Path(run) / "checkpoints").glob(f"step_*/{DESCRIPTION}")
    whole = (file.parent for file in found if re.fullmatch(r"step_\d+", file.parent.name))
    return sorted(whole, key=checkpoint_step)


def checkpoint_step(folder: str | Path) -> int:
    """The number of updates in the name of a run's checkpoint."""
    return int(Path(folder).name.removeprefix("step_"))


def has_reached(run: Path, step: int) -> bool:
    """Whether a run folder holds a checkpoint of update ``step`` or a later one."""
    checkpoints = list_checkpoints(run)
    return bool(checkpoints) and checkpoint_step(checkpoints[-1]) >= step


def read_description(folder: str | Path, trust: str | Sequence[str] | None = ()) -> dict[str, Any]:
    """The JSON part of a checkpoint, to build from: ``policy`` (specification), ``metadata``, ``versions``.

    Raises:
        InputError: It cannot be read, or names code that is neither ours nor of the modules ``trust``.
    """
    description = _read_json(folder)
    check_trust(Path(folder) / DESCRIPTION, description, trusted_modules(trust))
    return description


def read_metadata(folder: str | Path) -> dict[str, Any]:
    """What a checkpoint says of itself, to read and not to build from: no code needs to be trusted.

    Raises:
        InputError: It cannot be read.
    """
    metadata: dict[str, Any] = _read_json(folder)["metadata"]
    return metadata


def _read_json(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / DESCRIPTION
    try:
        description: Any = rename(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}); take another checkpoint") from error
    parts = [description.get(key) for key in ("policy", "metadata")] if isinstance(description, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise InputError(f"{path} describes no policy; take another checkpoint")
    if "format" not in description:
        raise InputError(f"{path} does not say its format, which is {FORMAT}; take another checkpoint")
    if description["format"] != FORMAT:
        raise InputError(
            f"{path} has checkpoint format {description['format']}, this version reads {FORMAT}; "
            "update shortcut-policy"
        )
    read: dict[str, Any] = description
    return read


def save_checkpoint(policy: Model, run: Path, step: int, training_state: Mapping[str, Any]) -> Path:
    """Write a checkpoint of a run that is either complete or not there; older training states are removed.

    Raises:
        TrainingError: It cannot be written. Those before it are whole.
    """
    folder = run / "checkpoints" / f"step_{step:08d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    if not run.is_dir():
        raise TrainingError(
            f"the run folder {run} has gone, so that the checkpoint of update {step} cannot be written: put "
            "it back, and go on from its last checkpoint with resume=true"
        )
    try:
        with named(folder):
            remove_folder(temporary)
            save_model(policy, temporary)
            torch.save(dict(training_state), temporary / TRAINING_STATE)
            for file in temporary.iterdir():
                with file.open("rb") as handle:
                    os.fsync(handle.fileno())
            replace_folder(temporary, folder)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch tells a full disk by a RuntimeError
        shutil.rmtree(temporary, ignore_errors=True)
        raise TrainingError(
            f"the checkpoint of update {step} cannot be written to {folder.parent}{_free(run)} "
            f"({first_line(error)}): make room, and go on from the one before with resume=true"
        ) from error
    drop_older_states(run)
    return folder


def drop_older_states(run: Path) -> None:
    """Remove the training states of all checkpoints but the newest, and what a killed process has left."""
    for path in leftovers(run):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def leftovers(run: Path) -> list[Path]:
    """What a training would have removed if it had not been killed."""
    states = [state for older in list_checkpoints(run)[:-1] if (state := older / TRAINING_STATE).exists()]
    hidden = (run / "checkpoints").glob(".step_*")
    return states + [path for path in hidden if re.fullmatch(r"\.step_\d+\.(tmp|deleted)", path.name)]


def load_training_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """What `save_checkpoint` stored beside the policy, for training to go on."""
    path = folder / TRAINING_STATE
    if not path.is_file():
        raise InputError(
            f"{path} is missing, as when a run is copied while it trains, so that this run cannot go on: "
            f"copy it again, or begin another from its policy with init_from={folder} and a new output"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise InputError(
            f"{path} is damaged ({first_line(error)}), so that this run cannot go on; copy it "
            f"again, or begin another from its policy with init_from={folder} and a new output"
        ) from error
    return state


def remove_folder(folder: Path) -> None:
    """Delete a folder so that it is never seen half deleted under its name, and one that was half deleted."""
    hidden = _hidden(folder)
    shutil.rmtree(hidden, ignore_errors=True)
    if folder.exists():
        folder.rename(hidden)
        shutil.rmtree(hidden)


def replace_folder(new: Path, folder: Path) -> None:
    """Give a finished folder its name; one that has it is deleted only when the new one is in its place."""
    hidden = _hidden(folder)
    if not folder.exists():
        new.rename(folder)
        shutil.rmtree(hidden, ignore_errors=True)
        return
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    try:
        new.rename(folder)
    except OSError:
        hidden.rename(folder)
        raise
    shutil.rmtree(hidden, ignore_errors=True)


def _hidden(folder: Path) -> Path:
    return folder.with_name(f".{folder.name.lstrip('.')}.deleted")


def _free(folder: Path) -> str:
    """How much room there is, for a sentence; nothing of a folder that has gone."""
    try:
        return f", where {shutil.disk_usage(folder).free / 2**20:.0f} MiB are free"
    except OSError:
        return ""


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Every name of a ``state_dict``: of tied weights the file holds one, and says for what else.

    Not ``safetensors.torch.load_model``, which refuses files that hold a tied weight under each of its names.
    """
    weights = load_file(path)
    with safe_open(path, "pt") as file:
        tied = file.metadata() or {}
    return weights | {name: weights[kept] for name, kept in tied.items() if kept in weights}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


if not TYPE_CHECKING:  # a type checker is to find them missing

    def __getattr__(name: str) -> Any:
        """Say where a function went that stood here once."""
        if name in ("load_policy", "save_policy"):
            raise ImportError(f"{name} has moved: from shortcut_policy import {name}")
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
