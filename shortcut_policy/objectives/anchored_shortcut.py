"""Shortcut models whose steps are anchored on data before they are made consistent with each other."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import LossContext, Metrics
from shortcut_policy.objectives.shortcut import Shortcut
from shortcut_policy.objectives.soflow import Rows, SoFlow
from shortcut_policy.objectives.step_map import StepMap
from shortcut_policy.settings import check_number


class AnchoredShortcut(Shortcut):
    """The flow and steps of all sizes from data; in the last part of a run, large steps from small ones too.

    The rows of the batch are `SoFlow`'s: flow matching, and steps of random sizes whose targets begin with
    the velocity of the row's own data point (Luo, Yuan, Liu 2026, equation 11). From ``bootstrap_from`` on,
    rows of self-consistency are added, as in `Shortcut` (Frans et al. 2025, equation 5): a large step has the
    target that four smaller ones of the averaged network make.

    So large steps need no flow that has settled first. Steps of every size are known from data when
    self-consistency begins, and it has only to take from the large ones what their long way from the data has
    left. What it adds to the loss is a fixed part of the loss of the data (``consistency_share``), however
    well these are fitted: in a short training it cannot outweigh them, and in a long one it does not fade,
    where its errors fall faster than those of the flow, which have a floor.

    Args:
        anchors: What the rows of the batch learn. Its ``consistency_share`` is the part of these rows that
            are steps.
        bootstrap_every: k; for one row of the batch in k, one of self-consistency is added.
        max_steps: M, a power of two: the most steps that can be sampled.
        level_weights: Shares of the sizes d = 1, 1/2, ... among the rows of self-consistency.
        target_steps: Smaller steps that a target is made of, a power of two.
        bootstrap_from: Part of the training, in [0, 1), before which there is no self-consistency.
        consistency_share: What self-consistency adds to the loss of a batch, as a part of the loss of the
            other rows.
        target_weights: Make its targets with the averaged weights (``ema``) or the current ones (``online``).
    """

    def __init__(
        self,
        anchors: SoFlow | None = None,
        bootstrap_every: float = 2,
        max_steps: int = 128,
        level_weights: Sequence[float] = (2, 1),
        target_steps: int = 4,
        bootstrap_from: float = 0.6,
        consistency_share: float = 0.15,
        target_weights: Literal["ema", "online"] = "ema",
    ) -> None:
        if not isinstance(anchors, SoFlow | None):
            raise InputError(
                f"objective.anchors={anchors} must be a mapping with _target_, "
                "shortcut_policy.objectives.SoFlow"
            )
        check_number("objective.consistency_share", consistency_share, lambda share: share > 0, "above 0")
        super().__init__(
            bootstrap_every=bootstrap_every,
            bootstrap_rows="added",
            max_steps=max_steps,
            level_weights=level_weights,
            target_steps=target_steps,
            bootstrap_from=bootstrap_from,
            consistency_share=consistency_share,
            target_weights=target_weights,
        )
        self.anchors = anchors or SoFlow()
        self.consistency_weight = math.inf  # the share decides
        self.loss_changes = sorted({*self.anchors.loss_changes, *self.loss_changes})
        # Targets are made of small steps as they are. Samples take the flow for steps that are smaller still.
        self.smallest_step /= target_steps

    def _left_out(self, level_weights: Sequence[float]) -> set[float]:
        """None: the anchors train steps of every size."""
        return set()

    def taught_from(self, steps: int) -> float:
        """From the beginning: the anchors train steps of every size."""
        return 0.0

    def missed(self, batch_size: int, updates: int) -> str | None:
        """What the anchors miss: they train steps of every size."""
        return self.anchors.missed(batch_size, updates, key="objective.anchors")

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Of each row of the batch, (B,), with the self-consistency that was added to the first ones."""
        if context.progress < self.bootstrap_from:
            return self.anchors.loss(net, x_1, cond, context)
        draws, rows = context.draws, len(x_1)
        anchored = self.anchors.rows(net, x_1, cond, context)
        d = self.draw_step_sizes(draws.stratified(rows, round(rows * draws.world / self.bootstrap_every)))
        n = len(d)
        x_0, u = draws.normal_like(x_1), draws.uniform(rows)
        teacher, teacher_cond = self._teacher(net, cond, context)
        x, start, target = self._large_steps(teacher, x_0[:n], x_1[:n], u[:n], d, teacher_cond)
        # One pass for all rows.
        added = Rows(x, start, d, target, cond[:n])
        every = Rows(*map(torch.cat, zip(added, anchored, strict=True)))
        errors = self.error(net(every.x_t, every.t, every.d, every.cond), every.target)
        losses = self.anchors.weighted(errors[n:], anchored.d, context.progress)
        losses = self.anchors.by_row(losses, rows)
        metrics = self.anchors.metrics(errors[n:], rows, draws)
        if n:
            metrics["loss_consistency"] = errors[:n].detach().mean()
        # Asked by every process, also by one without such a row: it sums over all.
        weight = self._weight(errors[:n], losses, draws.world)
        return losses + F.pad(weight * errors[:n], (0, rows - n)), metrics
