"""What a model makes of examples that it was not trained on."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shortcut_policy.model import Model
from shortcut_policy.objectives import Draws
from shortcut_policy.objectives.base import allowed_steps


@torch.no_grad()
def validate(
    model: Model,
    batch: Mapping[str, Any],
    steps: Sequence[int],
    generator: torch.Generator,
    progress: float = 0.0,
    teacher: Model | None = None,
) -> dict[str, float]:
    """Loss and errors of samples on a batch.

    Args:
        model: To be measured.
        batch: Of examples that are held out.
        steps: Step counts to measure; those that the objective cannot take are left out.
        generator: Source of all noise; every step count meets the same.
        progress: Part of the training done, as the loss depends on it.
        teacher: The one of the training, if it has one.

    Returns:
        ``loss``, and for each step count what `Model.validation_errors` says.
    """
    losses, _ = model(**batch, ema=model, draws=Draws(generator), progress=progress, teacher=teacher)
    values = {"loss": losses.mean().item()}
    noise = generator.get_state()
    for count in allowed_steps(model.objective, steps):
        generator.set_state(noise)
        values |= model.validation_errors(batch, count, generator)
    return values
