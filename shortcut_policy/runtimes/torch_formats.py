"""PyTorch's own formats: their files hold Python objects or code of the processor, which loading runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from shortcut_policy.errors import InputError, compiler_line
from shortcut_policy.runtimes.formats import Call, Format, Programs, loading, quiet

FILE = "policy.pt2"
#: Batches of one row, which are what a robot asks for, have a library of their own.
FILES = {1: "policy_1.pt2", None: "policy_any.pt2"}
#: Weights become constants.
FROZEN: dict[str, Any] = {"freezing": True}
#: For one row they are packed for the product that is fastest for these shapes on this processor, too.
TUNED = {
    **FROZEN,
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP,ATEN",
    "autotune_num_choices_displayed": 0,
}


class TorchExportFormat(Format):
    """``policy.pt2``, a graph of ``torch.export``: as slow as the policy, for PyTorch's other tools."""

    native = True

    def write(self, programs: Programs, folder: Path, precision: str) -> None:
        """For batches of any size."""
        torch.export.save(programs.make(None), folder / FILE)

    def load(self, folder: Path, names: tuple[str, ...], precision: str, threads: int) -> Call:
        """As a module of PyTorch."""
        module = _loaded(folder / FILE, torch.export.load).module()
        return _call(lambda rows: module, names)

    @staticmethod
    def example() -> str:
        """With PyTorch."""
        return (
            "import torch\n"
            f'graph = torch.export.load("{FILE}").module()\n'
            "inputs = {name: torch.from_numpy(value) for name, value in obs.items()}\n"
            "action, chunk = graph(inputs, torch.from_numpy(noise))\n"
        )


class InductorFormat(TorchExportFormat):
    """The graph of ``torch.export``, compiled by ``torch.compile`` when it is loaded."""

    precisions = ("fp32", "bf16")

    def write(self, programs: Programs, folder: Path, precision: str) -> None:
        """As graphs of ``torch.export``."""
        for rows, file in FILES.items():
            torch.export.save(with_precision(programs.make(rows), precision), folder / file)

    def load(self, folder: Path, names: tuple[str, ...], precision: str, threads: int) -> Call:
        """Compiled when first called, for a minute or two."""
        compiled = {
            rows: torch.compile(
                _loaded(folder / file, torch.export.load).module(), options=TUNED if rows else FROZEN
            )
            for rows, file in FILES.items()
        }
        call = _call(lambda rows: compiled[rows], names)

        def first_compiled(obs: Mapping[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
            try:
                return call(obs, noise)
            except RuntimeError as error:
                if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                    raise
                raise _not_compiled("torch.compile", error) from error

        return first_compiled


class AotInductorFormat(Format):
    """``policy_1.pt2`` and ``policy_any.pt2``: libraries of code for this kind of processor (AOTInductor)."""

    precisions = ("fp32", "bf16")
    native = True

    def write(self, programs: Programs, folder: Path, precision: str) -> None:
        """Needs a C++ compiler, and some minutes to try the ways to multiply."""
        for rows, file in FILES.items():
            program = with_precision(programs.make(rows), precision)
            try:
                with quiet():
                    torch._inductor.aoti_compile_and_package(
                        program, package_path=str(folder / file), inductor_configs=TUNED if rows else FROZEN
                    )
            except Exception as error:  # of the compiler, of whatever class
                raise _not_compiled("AOTInductor", error) from error

    def load(self, folder: Path, names: tuple[str, ...], precision: str, threads: int) -> Call:
        """The libraries."""
        loaded = {
            rows: _loaded(folder / file, torch._inductor.aoti_load_package) for rows, file in FILES.items()
        }
        return _call(lambda rows: loaded[rows], names)

    @staticmethod
    def example() -> str:
        """With PyTorch."""
        return (
            "import torch\n"
            f'graph = torch._inductor.aoti_load_package("{FILES[1]}")\n'
            "inputs = {name: torch.from_numpy(value) for name, value in obs.items()}\n"
            "action, chunk = graph(inputs, torch.from_numpy(noise))\n"
        )


def with_precision(program: ExportedProgram, precision: str) -> ExportedProgram:
    """The graph with its products of matrices in bfloat16 and all else in float32."""
    if precision == "fp32":
        return program
    aten = torch.ops.aten
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in (aten.linear.default, aten.matmul.default):
            continue
        with graph.inserting_before(node):
            node.args = tuple(
                graph.call_function(aten.to.dtype, (arg, torch.bfloat16))
                if isinstance(arg, torch.fx.Node)
                else arg
                for arg in node.args
            )
        with graph.inserting_after(node):
            wide = graph.call_function(aten.to.dtype, (node, torch.float32))
        node.replace_all_uses_with(wide, delete_user_cb=lambda user, wide=wide: user is not wide)
    program.graph_module.recompile()
    return program


def _not_compiled(who: str, error: Exception) -> InputError:
    return InputError(
        f"{who} cannot compile this policy ({type(error).__name__}: {compiler_line(error):.300}): it needs a "
        "C++ compiler (g++) and the headers of Python; onnx needs neither"
    )


def _call(graph_for: Any, names: tuple[str, ...]) -> Call:
    def call(obs: Mapping[str, Tensor], noise: Tensor) -> tuple[Tensor, Tensor]:
        graph = graph_for(1 if len(noise) == 1 else None)
        with torch.no_grad():
            found: tuple[Tensor, Tensor] = graph({name: obs[name] for name in names}, noise)
        return found

    return call


def _loaded(path: Path, load: Any) -> Any:
    with loading(path):
        return load(str(path))
