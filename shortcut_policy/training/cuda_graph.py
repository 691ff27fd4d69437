"""A computation on a GPU that is launched as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

from shortcut_policy.errors import InputError, first_line

#: Calls before the recording, in which libraries choose their kernels and optimizers make their state.
WARM_UP = 3

Compute = Callable[[Tensor, torch.Generator], dict[str, Tensor]]


class CudaGraph:
    """A function of the rows of a batch and a generator, recorded as a CUDA graph and replayed.

    A small network spends most of an update launching kernels, one by one and from Python. A graph launches
    all of them at once; the numbers are the same.

    Args:
        compute: What is recorded, with all that it writes elsewhere, such as weights. It must run the same
            kernels whatever the values, and not wait for any of them.
        rows: Those of some batch, int64 (B,); later ones have the same shape.
        device: A CUDA device.
    """

    def __init__(self, compute: Compute, rows: Tensor, device: torch.device) -> None:
        self.compute, self.device = compute, device
        self.rows, self.generator = rows.to(device, copy=True), torch.Generator(device)
        self.stream, self.graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        self.results: dict[str, Tensor] = {}
        self.calls = 0

    def __call__(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The results for other rows and the seed of another generator, from its beginning.

        Raises:
            InputError: Something in the computation cannot be recorded.
        """
        self.rows.copy_(rows)
        self.generator.manual_seed(generator.initial_seed())
        self.calls += 1
        if self.calls <= WARM_UP:
            current = torch.cuda.current_stream(self.device)
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                results = self.compute(self.rows, self.generator)
            current.wait_stream(self.stream)
            return results
        if not self.results:
            self._record()
        self.graph.replay()
        return {name: result.clone() for name, result in self.results.items()}

    def _record(self) -> None:
        try:
            with torch.cuda.graph(self.graph):
                self.results = self.compute(self.rows, self.generator)
        except RuntimeError as error:
            raise InputError(
                f"an update cannot be recorded as a CUDA graph ({first_line(error)}); give "
                "trainer.cuda_graph=false"
            ) from error
