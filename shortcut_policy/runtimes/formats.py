"""What runtimes have in common: write a graph into a folder, load it, call it."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torch.export import ExportedProgram

from shortcut_policy.errors import InputError
from shortcut_policy.settings import one_of

#: Observations by name and noise to the executed actions and the whole chunk, see `graph.ActGraph`.
Call = Callable[[Mapping[str, Tensor], Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Programs:
    """One policy as graphs.

    Attributes:
        names: Of the observations, in the order of the graph's inputs; the noise comes after them.
        make: Number of rows, None for any -> the graph.
    """

    names: tuple[str, ...]
    make: Callable[[int | None], ExportedProgram]


class Format(ABC):
    """One way to store and run a graph.

    Attributes:
        precisions: What it computes in, the default first.
        native: Whether its files hold code of the processor or Python objects, which run when they are
            loaded: then only files that you trust may be.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    native: ClassVar[bool] = False

    @abstractmethod
    def write(self, programs: Programs, folder: Path, precision: str) -> None:
        """Write the graph's files into ``folder``, which is there and empty of them."""

    @abstractmethod
    def load(self, folder: Path, names: tuple[str, ...], precision: str, threads: int) -> Call:
        """The graph, ready to be called with batches of any size.

        Raises:
            InputError: A file is missing or damaged.
        """

    @staticmethod
    @abstractmethod
    def example() -> str:
        """The lines of Python, after ``obs`` and ``noise`` are there, that run it without this library."""


#: Format -> its module and class, imported when it is used; and the extra that brings what it needs.
FORMATS = {
    "onnx": ("shortcut_policy.runtimes.onnx_format", "OnnxFormat"),
    "openvino": ("shortcut_policy.runtimes.openvino_format", "OpenVinoFormat"),
    "torch_export": ("shortcut_policy.runtimes.torch_formats", "TorchExportFormat"),
    "aoti": ("shortcut_policy.runtimes.torch_formats", "AotInductorFormat"),
}
#: What `Policy.compile` takes, and the format that does it.
RUNTIMES = {"onnx": "onnx", "openvino": "openvino", "aoti": "aoti", "inductor": "inductor"}


def find_format(name: str) -> Format:
    """A format by its name.

    Raises:
        InputError: There is none of that name.
    """
    homes = {**FORMATS, "inductor": ("shortcut_policy.runtimes.torch_formats", "InductorFormat")}
    if name not in homes:
        raise InputError(f"{name!r} is no runtime: choose {one_of(tuple(homes))}")
    module, attribute = homes[name]
    found: Format = getattr(importlib.import_module(module), attribute)()
    return found


def import_runtime(package: str) -> object:
    """A package of the extra ``export``.

    Raises:
        InputError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise InputError(
            f"{package} is not installed ({error}): pip install 'shortcut-policy[export]'"
        ) from error
