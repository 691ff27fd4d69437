"""What runtimes have in common: write a graph into a folder, load it, call it."""

import importlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor
from torch.export import ExportedProgram

from shortcut_policy.errors import InputError, one_line
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
        packages: Of which a manifest states the version, beside PyTorch.
        native: Whether its files hold code of the processor or Python objects, which run when they are
            loaded: then only files that you trust may be.
    """

    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    packages: ClassVar[tuple[str, ...]] = ()
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


#: Format of an export -> its module and class, imported when it is used.
FORMATS = {
    "onnx": ("shortcut_policy.runtimes.onnx_format", "OnnxFormat"),
    "openvino": ("shortcut_policy.runtimes.openvino_format", "OpenVinoFormat"),
    "torch_export": ("shortcut_policy.runtimes.torch_formats", "TorchExportFormat"),
    "aoti": ("shortcut_policy.runtimes.torch_formats", "AotInductorFormat"),
}
#: What `Policy.compile` takes: those, and one that cannot be kept.
RUNTIMES = {**FORMATS, "inductor": ("shortcut_policy.runtimes.torch_formats", "InductorFormat")}


def find_format(name: str, among: Mapping[str, tuple[str, str]] = RUNTIMES) -> Format:
    """A format by its name.

    Raises:
        InputError: There is none of that name.
    """
    if name not in among:
        raise InputError(f"{name!r} is no runtime: choose {one_of(tuple(among))}")
    module, attribute = among[name]
    found: Format = getattr(importlib.import_module(module), attribute)()
    return found


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """One sentence for whatever a runtime raises while it loads a file: their errors have no common class."""
    try:
        with quiet():
            yield
    except Exception as error:
        reason = one_line(error)
        raise InputError(f"{path} cannot be loaded ({reason:.200}): export it again") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of exporters and compilers, which are about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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
