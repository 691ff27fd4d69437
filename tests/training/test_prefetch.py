"""Batches read ahead are the batches of their steps, and their errors come with them."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shortcut_policy.commands.train import make_dataset, read_training
from shortcut_policy.errors import InputError
from shortcut_policy.training.batches import BatchStream
from shortcut_policy.training.parts import make_model
from shortcut_policy.training.prefetch import AHEAD, Prefetch
from shortcut_policy.training.trainer import Trainer
from tests.conftest import Compose


class Slow:
    """A data set of which each batch is let go by the test."""

    def __init__(self, in_memory: bool = False, bad: int | None = None) -> None:
        self.train, self.val = torch.arange(100, 120), torch.empty(0)
        self.in_memory, self.bad = in_memory, bad
        self.asked: list[list[int]] = []
        self.threads: set[str] = set()
        self.arrived = threading.Semaphore(0)

    def batch(self, rows: Tensor) -> dict[str, Tensor]:
        self.threads.add(threading.current_thread().name)
        self.asked.append(rows.tolist())
        self.arrived.release()
        if self.bad is not None and self.bad in rows:
            raise InputError("a row cannot be read")
        return {"x": rows}

    def to(self, device: torch.device) -> "Slow":
        return self


@pytest.fixture
def stream() -> Iterator[BatchStream]:
    return BatchStream(20, 4, seed=3)


def test_batches_are_those_of_their_steps_and_the_next_are_read_meanwhile(stream: BatchStream) -> None:
    dataset = Slow()
    prefetch = Prefetch(dataset, stream, 9)
    for step in range(2, 9):  # as a run that goes on from its second step
        batch = prefetch.batch(step, stream.rows(step))
        assert torch.equal(batch["x"], dataset.train[stream.rows(step)])
        if step == 2:
            for _ in range(1 + AHEAD):
                assert dataset.arrived.acquire(timeout=10)
    assert sorted(dataset.asked) == sorted(dataset.train[stream.rows(step)].tolist() for step in range(2, 9))
    assert threading.current_thread().name not in dataset.threads


def test_an_error_comes_out_at_the_step_that_needs_the_batch(stream: BatchStream) -> None:
    prefetch = Prefetch(Slow(bad=100 + int(stream.rows(3)[0])), stream, 20)
    for step in range(3):
        prefetch.batch(step, stream.rows(step))
    with pytest.raises(InputError, match=r"^a row cannot be read$"):
        prefetch.batch(3, stream.rows(3))


def test_what_is_in_memory_is_gathered_when_it_is_needed(stream: BatchStream) -> None:
    dataset = Slow(in_memory=True)
    prefetch = Prefetch(dataset, stream, 9)
    rows = torch.tensor([5, 1])
    assert torch.equal(prefetch.batch(0, rows)["x"], torch.tensor([105, 101]))
    assert dataset.asked == [[105, 101]] and dataset.threads == {threading.current_thread().name}


@pytest.mark.slow
def test_a_training_from_files_learns_the_same_and_says_what_cannot_be_read(
    compose_config: Compose, tmp_path: Path
) -> None:
    config = read_training(compose_config("data.memory_limit_mb=0", f"data.cache={tmp_path / 'cache'}"))
    weights = []
    for limit in (0, 1024):
        dataset = make_dataset(replace(config, data=replace(config.data, memory_limit_mb=limit)))
        assert dataset.in_memory == (limit > 0)
        model = Trainer(make_model(config, dataset), dataset, config.trainer, tmp_path / str(limit)).fit()
        weights.append(model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    dataset = make_dataset(config)
    trainer = Trainer(make_model(config, dataset), dataset, config.trainer, tmp_path / "damaged")
    for file in (tmp_path / "cache").rglob("*.rows"):
        os.truncate(file, 100)
    with pytest.raises(InputError, match=r"\.rows cannot be read \(it is shorter than it was\)"):
        trainer.fit()
