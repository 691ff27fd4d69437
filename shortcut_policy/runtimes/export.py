"""The folder of an exported policy: the graph, ``manifest.json``, the policy's description, an example."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from shortcut_policy.checkpoint import (
    DESCRIPTION,
    MANIFEST,
    check_weights,
    package_versions,
    read_description,
    remove_folder,
    replace_folder,
    write_description,
)
from shortcut_policy.control import agreed_rate
from shortcut_policy.errors import InputError, first_line
from shortcut_policy.fingerprint import weights_hash
from shortcut_policy.hub import is_remote
from shortcut_policy.locks import writer_lock
from shortcut_policy.no_checkpoint import check_path
from shortcut_policy.paths import atomic_path_alone, named, write_atomic, written_out
from shortcut_policy.provenance import short_hash
from shortcut_policy.runtimes.example import example_script
from shortcut_policy.runtimes.formats import FORMATS, Call, Format, Programs, find_format
from shortcut_policy.runtimes.graph import NOISE, ActGraph, Acting, example_inputs, make_program
from shortcut_policy.runtimes.parity import TOLERANCES, check_parity
from shortcut_policy.settings import check_choice, check_number, check_whole
from shortcut_policy.trust import trusted_modules

EXAMPLE, STATISTICS = "example.py", "statistics.safetensors"
FORMAT_VERSION = 1
#: What ``trust`` has to name before code of the processor or Python objects of an export are loaded.
NATIVE = "native"


@dataclass(frozen=True)
class Runtime:
    """A loaded graph.

    Attributes:
        format: Its name.
        precision: What it computes in.
        steps: K, sampling steps, the only number that it takes.
        guidance: What it follows the observation with, see `Policy.act`.
        identity: Hash of what decides the actions.
        call: Observations and noise to executed actions and chunk.
    """

    format: str
    precision: str
    steps: int
    guidance: float | None
    identity: str
    call: Call

    def __copy__(self) -> Self:
        """Itself: a loaded graph is never changed."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        """Itself, see above."""
        return self

    def __reduce__(self) -> NoReturn:
        """Loaded graphs are of this process, and no runtime can pickle its own.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "this policy is an export or was compiled, and its graph cannot be pickled: pickle the policy "
            "that it was made of and compile it there, or write the export and load that there"
        )


def compile_graph(
    policy: Any, format: str, steps: int, precision: str | None, guidance: float | None
) -> Runtime:
    """The graph of a policy, loaded, its parity checked on observations in the range of the training data.

    Raises:
        InputError: See `write_export`.
    """
    with tempfile.TemporaryDirectory() as folder:
        runtime, _ = _make(policy, Path(folder), find_format(format), format, steps, precision, guidance)
    return runtime


def write_export(
    policy: Any,
    folder: str | Path,
    *,
    format: str = "onnx",
    steps: int = 1,
    precision: str | None = None,
    guidance: float | None = None,
    observations: Mapping[str, Tensor] | None = None,
    recorded: str | None = None,
    tolerance: float | None = None,
    rate_hz: float | None = None,
) -> dict[str, Any]:
    """Write a folder that `load_policy` and other programs load; nothing is there if parity is missed.

    Args:
        policy: A trained one, on the CPU in float32.
        folder: Must not hold anything yet, but for an earlier export, which is replaced.
        format: See `formats.FORMATS`.
        steps: K, sampling steps.
        precision: ``fp32``, or ``bf16`` or ``int8`` where the format has it.
        guidance: See `Policy.act`.
        observations: name -> (N, n_obs_steps, *shape), recorded ones, on which parity is checked; drawn in
            the range of the training data if None.
        recorded: Where they come from, for the manifest.
        tolerance: Largest difference between the actions of the graph and the policy's, as a part of the
            range that the network's actions are scaled to; by default that of the precision.
        rate_hz: Control steps a second, for the manifest; those of the data, if they said it, if None.

    Returns:
        The manifest.

    Raises:
        InputError: The policy cannot be exported so, the folder is in use, another program writes to it, or
            parity is missed, or ``observations`` are not the policy's.
    """
    folder, found = written_out(folder), find_format(format, FORMATS)
    _check_place(folder)
    started = time.perf_counter()
    with named(folder), writer_lock(folder), _beside(folder) as temporary:
        runtime, parity = _make(
            policy, temporary, found, format, steps, precision, guidance, observations, tolerance
        )
        manifest = {
            "format_version": FORMAT_VERSION,
            "format": format,
            "precision": runtime.precision,
            "steps": steps,
            "network_evaluations": policy.objective.network_evaluations(steps),
            "guidance": guidance,
            **_interface(policy, rate_hz),
            "task": policy.metadata.get("task", {}).get("name"),
            "weights": weights_hash(policy),
            "versions": package_versions(*found.packages),
            "parity": {"observations": recorded or "drawn in the range of the training data", **parity},
            "export_seconds": round(time.perf_counter() - started, 1),
        }
        write_description(policy, temporary / DESCRIPTION)
        with atomic_path_alone(temporary / STATISTICS) as part:
            save_file(policy.normalizer.state_dict(), part)
        write_atomic(temporary / EXAMPLE, example_script(manifest, found.example()))
        write_atomic(temporary / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        replace_folder(temporary, folder)
    return manifest


def is_export(path: str | Path) -> bool:
    """Whether a folder is what `write_export` has written."""
    check_path(path)
    return not is_remote(path) and written_out(path).joinpath(MANIFEST).is_file()


def read_export(path: str | Path, trust: Any = ()) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest and the description of the policy, before any of it is loaded.

    Raises:
        InputError: A file cannot be read, or the format is native and ``trust`` does not name it.
    """
    folder = written_out(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format_version"] != FORMAT_VERSION:
            raise InputError(
                f"{folder / MANIFEST} has format version {manifest['format_version']}, this version reads "
                f"{FORMAT_VERSION}: export it again"
            )
        found = find_format(manifest["format"], FORMATS)
        _check_manifest(folder / MANIFEST, manifest, found)
        native = found.native
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / MANIFEST} cannot be read ({error}): export it again") from error
    trusted = trusted_modules(trust)
    if native and NATIVE not in trusted:
        raise InputError(
            f"{folder} is of the format {manifest['format']}, whose files run code when they are loaded: say "
            f"trust=[{NATIVE}] if you know who made it, or export it as onnx or openvino, which are data"
        )
    return manifest, read_description(folder, [name for name in trusted if name != NATIVE])


def _check_manifest(file: Path, manifest: Mapping[str, Any], found: Format) -> None:
    """Raise `InputError` unless a manifest says all that `load_runtime` asks it."""
    for key in ("precision", "steps", "guidance", "weights", "versions"):
        if key not in manifest:
            raise InputError(f"{file} lacks {key}: export it again")
    check_choice(f"precision in {file}", manifest["precision"], found.precisions)
    check_whole(f"steps in {file}", manifest["steps"], 1)
    if manifest["guidance"] is not None:
        check_number(f"guidance in {file}", manifest["guidance"], lambda _: True, "a finite number, or null")


def load_runtime(path: str | Path, manifest: Mapping[str, Any], policy: Any) -> Runtime:
    """The graph of an export, for the policy that it was made of.

    Raises:
        InputError: It cannot be loaded, or takes or gives something else than the policy.
    """
    format, precision, steps, guidance = (
        manifest[key] for key in ("format", "precision", "steps", "guidance")
    )
    found = find_format(format, FORMATS)
    call = _load_graph(written_out(path), found, policy, precision)
    _check_call(call, policy, Path(path))
    made = [manifest["weights"], format, precision, steps, guidance, manifest["versions"]]
    identity = short_hash([*made, package_versions(*found.packages)])
    return Runtime(format, precision, steps, guidance, identity, call)


def read_statistics(path: str | Path) -> dict[str, Tensor]:
    """The normaliser's statistics of an export: its graph has them, too, and who asks for a range needs them.

    Raises:
        InputError: They cannot be read.
    """
    file = written_out(path) / STATISTICS
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({error}): export it again") from error


def _make(
    policy: Any,
    folder: Path,
    found: Format,
    format: str,
    steps: int,
    precision: str | None,
    guidance: float | None,
    observations: Mapping[str, Tensor] | None = None,
    tolerance: float | None = None,
) -> tuple[Runtime, dict[str, Any]]:
    """Write the graph, load it and compare: the loaded one, and what `check_parity` found."""
    precision = found.precisions[0] if precision is None else precision
    check_choice(f"precision of {format}", precision, found.precisions)
    check_weights(policy, "exported")
    if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in policy.parameters()):
        raise InputError("a policy is exported from float32 weights on the CPU: load it so, without casting")
    if observations is not None:
        observations = _as_graphs_take(policy, policy.check_histories(observations))
    with _inference(policy):
        names = tuple(policy.obs_shapes)
        programs = Programs(names, lambda rows: make_program(policy, steps, guidance, rows))
        found.write(programs, folder, precision)
        call = _load_graph(folder, found, policy, precision)
        tolerance = TOLERANCES[precision] if tolerance is None else tolerance
        parity = check_parity(policy, ActGraph(policy, steps, guidance), call, observations, tolerance)
    versions = package_versions(*found.packages)
    identity = short_hash([weights_hash(policy), format, precision, steps, guidance, versions])
    return Runtime(format, precision, steps, guidance, identity, call), parity


def _as_graphs_take(policy: Any, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Checked histories, with pictures as the bytes of a graph's input."""
    return {name: x.round().to(torch.uint8) if name in policy.cameras else x for name, x in obs.items()}


@contextmanager
def _inference(policy: Any) -> Iterator[None]:
    was = policy.training
    policy.eval()
    try:
        yield
    finally:
        policy.train(was)


def _load_graph(folder: Path, found: Format, policy: Acting, precision: str) -> Call:
    return found.load(folder, tuple(policy.obs_shapes), precision, torch.get_num_threads())


def _check_call(call: Call, policy: Acting, path: Path) -> None:
    """Raise `InputError` unless a graph takes the observations of a policy and gives its actions."""
    obs, noise = example_inputs(policy, rows=1)
    try:
        _, chunk = call(obs, noise)
        reason = "" if chunk.shape == noise.shape else f"a chunk of {list(chunk.shape[1:])}"
    except Exception as error:  # each runtime raises kinds of its own
        reason = first_line(error)
    if reason:
        raise InputError(
            f"the graph in {path} does not fit the policy that is described beside it ({reason}): export it "
            "again"
        )


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """An empty folder beside another; what a process that was killed has left of it goes, and so does it."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    remove_folder(temporary)
    temporary.mkdir(parents=True)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_place(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_export(folder))):
        raise InputError(f"output={folder} holds something else than an export: name a new folder")


def _interface(policy: Any, rate_hz: float | None) -> dict[str, Any]:
    """Names, shapes and meaning of what goes in and comes out."""
    inputs = [
        {
            "name": name,
            "shape": ["batch", policy.n_obs_steps, *shape],
            "dtype": "uint8" if name in policy.cameras else "float32",
            "units": "pixels in 0..255, red, green, blue" if name in policy.cameras else "the environment's",
        }
        for name, shape in policy.obs_shapes.items()
    ]
    inputs.append(
        {
            "name": NOISE,
            "shape": ["batch", policy.horizon, policy.action_dim],
            "dtype": "float32",
            "units": "standard normal, drawn anew for each call",
        }
    )
    units = {"dtype": "float32", "units": "the environment's"}
    return {
        "inputs": inputs,
        "outputs": [
            {"name": "action", "shape": ["batch", policy.n_action_steps, policy.action_dim], **units},
            {"name": "chunk", "shape": ["batch", policy.horizon, policy.action_dim], **units},
        ],
        "normalisation": "inside the graph",
        "horizon": policy.horizon,
        "n_obs_steps": policy.n_obs_steps,
        "n_action_steps": policy.n_action_steps,
        "first_action": policy.n_obs_steps - 1,
        "rate_hz": agreed_rate(policy.metadata, rate_hz),
    }
