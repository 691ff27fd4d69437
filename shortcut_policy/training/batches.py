"""Which windows an update sees, and which random numbers: both functions of (seed, step) alone.

Nothing has to be remembered to resume, and nothing depends on how many processes share a batch.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


def seeded_generator(device: torch.device | str, *key: int) -> torch.Generator:
    """A generator whose stream is a function of ``key``, well mixed (NumPy's SeedSequence)."""
    (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state))


class BatchStream:
    """Row numbers of a data set in an endless sequence of shuffled epochs, cut into batches.

    Args:
        n: Rows of the data set.
        batch_size: Rows of a batch over all processes.
        seed: Of the shuffling.
        rank: This process takes each ``world``-th row of a batch, from its ``rank`` on.
        world: Number of processes.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self._epoch = lru_cache(maxsize=2)(self._shuffle)

    def rows(self, step: int) -> Tensor:
        """Row numbers of this process's part of batch ``step``, int64 (batch_size / world,)."""
        first = step * self.batch_size
        positions = range(first + self.rank, first + self.batch_size, self.world)
        return torch.tensor([self._epoch(position // self.n)[position % self.n] for position in positions])

    def _shuffle(self, epoch: int) -> list[int]:
        generator = seeded_generator("cpu", self.seed, epoch)
        return torch.randperm(self.n, generator=generator).tolist()


class Dataset(Protocol):
    """What the trainer sees of demonstrations, or of images.

    Attributes:
        train: A row for each example to train on; their first axis is all that the trainer knows of them.
        val: The same for those held out; may be empty.
    """

    train: Tensor
    val: Tensor

    @property
    def in_memory(self) -> bool:
        """Whether `batch` gathers on the device alone, without waiting for anything."""
        ...

    def batch(self, rows: Tensor, /) -> Mapping[str, Any]:
        """The arguments of the model's ``forward`` for rows of ``train`` or ``val``."""
        ...

    def to(self, device: torch.device, /) -> "Dataset":
        """Move everything to where batches are to be made; returns self."""
        ...
