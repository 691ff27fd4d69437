"""Batches that are read from files while the updates before them are computed."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from shortcut_policy.training.batches import BatchStream, Dataset

#: Batches that are read ahead, each by a thread of its own.
AHEAD = 2


class Prefetch:
    """The batches of a training, by step; those of the next steps are gathered in the background.

    Which rows they hold is a function of the step alone (`BatchStream`), so that nothing depends on what was
    read ahead. A data set in memory is asked when its batch is needed, as there is nothing to wait for.

    Args:
        dataset: Where the batches come from.
        stream: Their rows.
        last: Number of steps of the training.
    """

    def __init__(self, dataset: Dataset, stream: BatchStream, last: int) -> None:
        self.dataset, self.stream, self.last = dataset, stream, last
        self._waiting: dict[int, Future[Mapping[str, Any]]] = {}
        self._threads: ThreadPoolExecutor | None = None

    def batch(self, step: int, rows: Tensor) -> Mapping[str, Any]:
        """The batch of a step, on the data set's device.

        Args:
            step: Number of the update.
            rows: What the stream says of it, on any device.

        Raises:
            InputError: What the data set raised when it gathered this batch.
        """
        if self.dataset.in_memory:
            return self._gather(rows)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(AHEAD, thread_name_prefix="prefetch")
        for number in range(step, min(step + 1 + AHEAD, self.last)):
            if number not in self._waiting:
                self._waiting[number] = self._threads.submit(self._gather, self.stream.rows(number))
        return self._waiting.pop(step).result()

    def _gather(self, rows: Tensor) -> Mapping[str, Any]:
        train = self.dataset.train
        return self.dataset.batch(train[rows.to(train.device)])
