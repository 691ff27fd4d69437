"""Classifier-free guidance of a step map: how strongly the condition is followed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.step_map import StepMap, expand_like


class Guidance:
    """A flow that is trained with and without its condition, and followed beyond the former.

    The velocity of scale w is ``v(x, t) + w (v(x, t | cond) - v(x, t))`` (Ho and Salimans 2022): 1 is the
    flow under the condition, more follows it further. Shortcuts are made from this velocity, so that one step
    of the network is guided already and sampling costs nothing more (Frans et al. 2025, section 4.3).

    The condition gets channels of its own: whether it is present, as all-zero observations exist, and, if
    the scale is a range, ``w - 1``: then it is drawn for each row, and chosen when sampling (Meng et al.
    2023).

    Args:
        dropout: Share of the flow rows without their condition.
        scale: w, or the range [low, high] from which it is drawn.
    """

    def __init__(self, dropout: float = 0.1, scale: float | Sequence[float] = 1.5) -> None:
        if not 0 < dropout < 1:
            raise InputError(
                f"objective.guidance.dropout={dropout} must lie between 0 and 1: the flow without a "
                "condition has to be learned beside the one with it"
            )
        self.dropout = dropout
        self.is_range = isinstance(scale, Sequence)
        bounds = list(scale) if isinstance(scale, Sequence) else [scale, scale]
        if len(bounds) != 2 or not 0 <= bounds[0] <= bounds[1]:
            raise InputError(
                f"objective.guidance.scale={scale} must be a number from 0 on, or two of them, [low, high]"
            )
        self.low, self.high = bounds
        self.extra_cond_dim = 2 if self.is_range else 1

    def scales(self, u: Tensor) -> Tensor:
        """A scale for each of the numbers ``u`` (B,) in [0, 1)."""
        return self.low + (self.high - self.low) * u

    def condition(self, cond: Tensor, present: Tensor, scale: Tensor) -> Tensor:
        """What the network is given as condition, (B, C + extra_cond_dim).

        Args:
            cond: (B, C).
            present: Whether a row has its condition, (B,).
            scale: (B,); 1 for a velocity that is not guided.
        """
        channels = [torch.where(present[:, None], cond, 0), present[:, None].to(cond.dtype)]
        if self.is_range:
            channels.append(scale[:, None].to(cond.dtype) - 1)
        return torch.cat(channels, dim=1)

    def guided(self, net: StepMap, scale: Tensor) -> StepMap:
        """The step map that follows the guided flow, of conditions (B, C) without the channels of guidance.

        At d = 0, where ``net`` knows the two velocities, it is asked for both; at larger d its answer is
        guided already.

        Args:
            net: The step map that is trained.
            scale: Of each row, (B,).
        """

        def step_map(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
            present, unguided = torch.ones_like(d, dtype=torch.bool), torch.ones_like(scale)
            answer = net(x, t, d, self.condition(cond, present, torch.where(d > 0, scale, unguided)))
            zero = d == 0
            if zero.any():
                nothing = self.condition(cond[zero], ~present[zero], unguided[zero])
                without = net(x[zero], t[zero], d[zero], nothing)
                weight = expand_like(scale[zero], without).to(without.dtype)
                answer = answer.index_put((zero,), without + weight * (answer[zero] - without))
            return answer

        return step_map

    def sampling_cond(self, cond: Tensor, scale: float | None) -> Tensor:
        """The condition for samples of this scale, (B, C + extra_cond_dim); the lowest if None.

        Raises:
            InputError: The network does not know this scale.
        """
        if scale is not None and not self.low <= scale <= self.high:
            known = f"{self.low} to {self.high}" if self.is_range else f"{self.low} alone"
            raise InputError(
                f"guidance={scale} cannot be sampled: the policy was trained with scales of {known}; choose "
                "one of those, or train with another objective.guidance.scale"
            )
        rows = torch.ones(cond.shape[0], dtype=torch.bool, device=cond.device)
        scales = torch.full_like(rows, self.low if scale is None else scale, dtype=cond.dtype)
        return self.condition(cond, rows, scales)
