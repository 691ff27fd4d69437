"""What the processes of one training tell each other."""

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


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
