"""Constants that must not be rounded when a network is cast to fewer bits."""

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn


class Float32Buffers(nn.Module):
    """A module whose own buffers have at least 32 bits, whatever it, or what it is part of, is cast to.

    ``policy.to(torch.bfloat16)`` casts all of a module, but the range of an observation or a frequency of an
    embedding has more digits than bfloat16 holds: 511 pixels would become 512.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # What `to`, `half`, `cuda` and so on of a module are made of; there is no public place for it.
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = self.get_buffer(name)
            if after.is_floating_point() and torch.finfo(after.dtype).bits < 32:
                setattr(self, name, buffer.to(after.device, torch.float32))
        return self
