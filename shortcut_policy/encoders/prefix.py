"""Actions that will be executed anyway, as a part of what a policy is conditioned on.

While a chunk is inferred, the robot plays on. A policy that is told the actions which it will play until the
new chunk is there can continue them, so that the chunks meet (Black, Ren, Equi, Levine: "Training-Time Action
Conditioning for Efficient Real-Time Chunking", arXiv 2512.05964). Nothing guides the sampler: one step is
enough.

The paper puts the given actions into the noisy chunk, at a noise level of their own, and leaves them out of
the loss. Here they are numbers of the condition, so that every objective and every backbone takes them as
they are. And they stay in the loss: several sampling steps never meet places of the chunk that were not
trained, and what the network makes of the given actions says by how much it is off (`CommittedPrefix.kept`).
"""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from shortcut_policy.arrays import as_numbers
from shortcut_policy.encoders.crops import RowDraws
from shortcut_policy.errors import InputError

#: Share of the training rows that are given no action: a policy whose rows were given 0 to K evenly succeeded
#: less than one without a prefix, with no prefix given to either (26 against 54 of 100 starts of Push-T, one
#: training each), perhaps because what a robot does now tells so much of what it will do.
WITHOUT = 0.5
#: Actions behind the given ones that are corrected, see `CommittedPrefix.kept`. On Push-T two take half of
#: the error from the first one. Correcting all the rest made errors on demonstrations smaller still and the
#: robot smoother, and fewer starts succeeded (20 against 31 of 100, one training).
CORRECTED = 2


class CommittedPrefix:
    """Draws, encodes and keeps the first actions of chunks.

    Args:
        steps: K, the most actions that can be given; 0 for a policy that takes none.
        first: Position in the chunk (B, T, A) of the first of them, that of the last observed step.
        action_dim: A, numbers of an action.

    Attributes:
        steps: K.
        width: Numbers that the condition gets, K (A + 1): the actions, and for each whether it is given.
    """

    def __init__(self, steps: int, first: int, action_dim: int) -> None:
        self.steps, self._first, self._action_dim = steps, first, action_dim
        self.width = steps * (action_dim + 1)

    def draw(self, x_1: Tensor, draws: RowDraws) -> Tensor:
        """`condition` of so many first actions of ``x_1`` (B, T, A), normalised, as are drawn for each row.

        None for the share `WITHOUT` of the rows, and 1..K evenly for the others.
        """
        told = (draws.uniform(len(x_1)) - WITHOUT) / (1 - WITHOUT)
        length = torch.floor(told * self.steps) + 1
        given = torch.arange(self.steps, device=x_1.device) < length[:, None]
        actions = x_1[:, self._first : self._first + self.steps]
        return self._masked(actions, given)

    def condition(self, prefix: Tensor) -> Tensor:
        """What the condition gets of normalised actions (B, k, A), k <= K: (B, K, A + 1), with their mask."""
        padded = F.pad(prefix, (0, 0, 0, self.steps - prefix.shape[1]))
        given = torch.arange(self.steps, device=prefix.device) < prefix.shape[1]
        return self._masked(padded, given.expand(len(prefix), -1))

    def added(self, cond: Tensor, condition: Tensor | None) -> Tensor:
        """The condition (B, C) of the encoder with that of the prefix behind it; zeros if there is none."""
        if not self.steps:
            return cond
        if condition is None:
            return F.pad(cond, (0, self.width))
        return torch.cat([cond, rearrange(condition, "b k a -> b (k a)").to(cond.dtype)], dim=1)

    def check(self, prefix: object, rows: int, device: torch.device) -> Tensor | None:
        """What `Policy.act` was given, as float32 (B, k, A) on ``device``; None if it holds no action.

        Raises:
            InputError: It is no array, has another shape or more actions than were trained, or holds NaN.
        """
        if prefix is None:
            return None
        actions = as_numbers("prefix", prefix).to(device, torch.float32)
        if actions.ndim != 3 or (actions.shape[0], actions.shape[2]) != (rows, self._action_dim):
            raise InputError(
                f"prefix has shape {tuple(actions.shape)}, expected ({rows}, k, {self._action_dim}): batch, "
                "actions from the last observed step on, numbers of an action"
            )
        if actions.shape[1] > self.steps:
            raise InputError(
                f"prefix holds {actions.shape[1]} actions, and this policy was trained with up to "
                f"{self.steps}: give fewer, or train one with a larger prefix_steps"
            )
        if not actions.isfinite().all():
            raise InputError("prefix holds NaN or infinity, from which no action can go on")
        return actions if actions.shape[1] else None

    def kept(self, chunk: Tensor, prefix: Tensor | None) -> Tensor:
        """A chunk (B, T, A) that begins with the given actions (B, k, A) and goes on from the last of them.

        The network has an answer for the given actions, too. By how much it is off at the last of them, it is
        off at the next ones as well: `CORRECTED` of them are shifted by that, less and less.
        """
        if prefix is None:
            return chunk
        last = self._first + prefix.shape[1]
        missed = prefix[:, -1:] - chunk[:, last - 1 : last]
        behind = torch.arange(1, chunk.shape[1] - last + 1, device=chunk.device)
        share = (1 - behind / (CORRECTED + 1)).clamp(min=0)[:, None]
        return torch.cat([chunk[:, : self._first], prefix, chunk[:, last:] + share * missed], dim=1)

    def _masked(self, actions: Tensor, given: Tensor) -> Tensor:
        shown = torch.where(given[..., None], actions, 0.0)
        return torch.cat([shown, given[..., None].to(shown.dtype)], dim=-1)
