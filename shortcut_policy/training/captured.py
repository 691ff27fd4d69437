"""A computation on a GPU that is launched as a whole."""

from collections.abc import Callable

import torch
from torch import Tensor

from shortcut_policy.errors import InputError

#: Runs before the capture, in which libraries choose their kernels and allocate their workspaces.
WARM_UP = 3

Compute = Callable[[Tensor, torch.Generator], dict[str, Tensor]]


class Captured:
    """A function of the rows of a batch and a generator, recorded once as a CUDA graph and replayed.

    A small network spends most of an update launching kernels, one by one and from Python. A graph launches
    all of them at once; the results are the same bits.

    Args:
        compute: What is recorded, with all that it writes elsewhere, such as gradients. It must run the same
            kernels whatever the values, and not wait for any of them.
        rows: Those of some batch, int64 (B,); later ones have the same shape.
        device: A CUDA device.

    Raises:
        InputError: Something in it cannot be recorded.
    """

    def __init__(self, compute: Compute, rows: Tensor, device: torch.device) -> None:
        self.rows = rows.to(device, copy=True)
        self.generator = torch.Generator(device)
        current, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                compute(self.rows, self.generator)
        current.wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        self.graph.register_generator_state(self.generator)
        try:
            with torch.cuda.graph(self.graph):
                self.results = compute(self.rows, self.generator)
        except RuntimeError as error:
            raise InputError(
                f"an update cannot be recorded as a CUDA graph ({str(error).splitlines()[0]}); give "
                "trainer.cuda_graph=false"
            ) from error

    def __call__(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """The results for other rows and the seed of another generator, from its beginning."""
        self.rows.copy_(rows)
        self.generator.manual_seed(generator.initial_seed())
        self.graph.replay()
        return {name: result.clone() for name, result in self.results.items()}
