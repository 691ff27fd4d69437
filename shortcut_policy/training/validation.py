"""What a policy makes of windows that it was not trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from shortcut_policy.data import DemonstrationDataset
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws
from shortcut_policy.policy import Policy


@torch.no_grad()
def validate(
    policy: Policy,
    dataset: DemonstrationDataset,
    windows: Tensor,
    steps: Sequence[int],
    generator: torch.Generator,
    progress: float = 0.0,
    teacher: Policy | None = None,
) -> dict[str, float]:
    """Loss and action error on windows.

    Args:
        windows: (N, 3) rows of the data set's ``val`` table.
        steps: Step counts to measure; those that the objective cannot take are left out.
        generator: Source of all noise; every step count meets the same.
        progress: Part of the training done, as the loss depends on it.
        teacher: The one of the training, if it has one.

    Returns:
        ``loss``, and for each step count ``action_error_<steps>``: mean Euclidean distance between sampled
        and demonstrated actions of the executed part of the chunk, in environment units.
    """
    batch = dataset.batch(windows)
    losses, _ = policy(batch["obs"], batch["action"], policy, Draws(generator), progress, teacher)
    values = {"loss": losses.mean().item()}
    first = policy.n_obs_steps - 1
    demonstrated = batch["action"][:, first : first + policy.n_action_steps]
    noise = generator.get_state()
    for count in steps:
        try:
            policy.objective.check_steps(count)
        except InputError:
            continue
        generator.set_state(noise)
        sampled = policy.act(batch["obs"], count, generator)
        values[f"action_error_{count}"] = (sampled - demonstrated).norm(dim=-1).mean().item()
    return values
