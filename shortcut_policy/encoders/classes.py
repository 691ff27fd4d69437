"""Encoder of class labels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClassEncoder(nn.Module):
    """One channel for each class: times the network's first matrix, the usual table of learned embeddings.

    Args:
        n_classes: C.

    Attributes:
        cond_dim: C, width of the condition.
    """

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.cond_dim = n_classes

    def forward(self, labels: Tensor) -> Tensor:
        """Classes, int64 (B,), to (B, C)."""
        return F.one_hot(labels, self.cond_dim).to(torch.get_default_dtype())
