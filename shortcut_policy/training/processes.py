"""What the processes of one training tell each other."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import Tensor, nn

from shortcut_policy.errors import InputError, TrainingError, compiler_line
from shortcut_policy.training.config import TrainerConfig


def make_accelerator(cpu: bool, config: TrainerConfig) -> Accelerator:
    """The processes of a training and their device.

    Args:
        cpu: Leave a GPU alone.
        config: Of the training.

    Raises:
        InputError: They cannot share a batch of this size, or there is no compiler for ``compile``.
    """
    batch_size = config.batch_size
    several = DistributedDataParallelKwargs(find_unused_parameters=config.find_unused_parameters)
    # Without a GPU accelerate would take the processes of torchrun for as many trainings.
    accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available(), kwargs_handlers=[several])
    if batch_size % accelerator.num_processes:
        raise InputError(
            f"trainer.batch_size={batch_size} is shared by {accelerator.num_processes} processes and must be "
            "a multiple of that"
        )
    if config.compile and accelerator.device.type == "cpu":
        wanted = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "c++"]
        if not any(map(shutil.which, wanted)):
            raise InputError(
                f"trainer.compile=true needs a C++ compiler, and {' or '.join(wanted)} is not there: install "
                "g++, or give trainer.compile=false"
            )
    return accelerator


@contextmanager
def compiling() -> Iterator[None]:
    """Say in a sentence that ``torch.compile`` cannot compile: a compiler that is there may lack much.

    Raises:
        TrainingError: In place of the error of torch.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        raise TrainingError(
            f"trainer.compile=true cannot compile the network ({compiler_line(error):.200}): repair the "
            "compiler, or give trainer.compile=false"
        ) from error


@contextmanager
def reaching_all(model: nn.Module) -> Iterator[None]:
    """Say in a sentence what several processes wait for in vain: gradients of weights without any.

    Raises:
        TrainingError: In place of the error of torch.
    """
    try:
        yield
    except RuntimeError as error:
        if "find_unused_parameters" not in str(error):
            raise
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        some = ", ".join(unused[:3]) + (", ..." if len(unused) > 3 else "")
        raise TrainingError(
            f"{len(unused)} weights do not reach the loss ({some}), and the processes of torchrun wait for "
            "their gradients: freeze them (requires_grad_(False)), or give "
            "trainer.find_unused_parameters=true, which looks for them in each update"
        ) from error


def any_process(accelerator: Accelerator, flag: bool) -> bool:
    """Whether the flag is up in any process: all of them must leave the loop at the same step."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device)).item())


def means(accelerator: Accelerator, records: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Means over the updates, in all processes, that have a value: some rows are not in every batch.

    Args:
        accelerator: Of the training.
        records: Named values of the updates of this process.
    """
    own = list(dict.fromkeys(name for record in records for name in record))
    names = list(dict.fromkeys(gather_object(own)))
    none = torch.zeros((), device=accelerator.device)
    found = [[record[name].float() for record in records if name in record] for name in names]
    sums = torch.stack([sum(values, none) for values in found])
    counts = torch.tensor([float(len(values)) for values in found], device=accelerator.device)
    sums, counts = accelerator.reduce(torch.stack([sums, counts]), reduction="sum")
    return dict(zip(names, (sums / counts).tolist(), strict=True))
