"""Whether a graph acts like the policy that it was made of."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from shortcut_policy.data.fields import ACTION
from shortcut_policy.errors import InputError
from shortcut_policy.runtimes.formats import Call
from shortcut_policy.runtimes.graph import ActGraph, Acting, example_inputs

#: Largest difference of an action that is let pass, as a part of half its range in the training data.
TOLERANCES = {"fp32": 1e-4, "bf16": 3e-2, "int8": 3e-2}
BATCHES = (1, 3, 50)


def check_parity(
    policy: Acting, graph: ActGraph, call: Call, observations: Mapping[str, Tensor] | None, tolerance: float
) -> dict[str, Any]:
    """Compare actions of a runtime with those of the policy in batches of 1, 3 and 50 rows.

    Args:
        policy: Whose graph it is.
        graph: What the policy computes, in PyTorch.
        call: The runtime.
        observations: name -> (N, n_obs_steps, *shape), taken in turns; drawn in the range of the training
            data if None.
        tolerance: See `TOLERANCES`.

    Returns:
        ``tolerance``, and for each batch size the largest difference in units of the action and as a part of
        half its range.

    Raises:
        InputError: It is larger than ``tolerance``, or not a number.
    """
    scale = policy.normalizer.get_buffer(f"{ACTION}_scale").abs()
    found: dict[str, Any] = {"tolerance": tolerance, "batches": {}}
    for rows in BATCHES:
        obs, noise = example_inputs(policy, rows, seed=rows)
        if observations is not None:
            chosen = torch.arange(rows) % len(next(iter(observations.values())))
            obs = {name: observations[name][chosen].contiguous() for name in policy.obs_shapes}
        with torch.no_grad():
            expected = graph(obs, noise)
        actual = call(obs, noise)
        error = torch.cat([(a - e).abs().flatten(0, 1) for a, e in zip(actual, expected, strict=True)])
        share = torch.where(scale > 0, error / scale, error).max().item()
        if not share <= tolerance:
            raise InputError(
                f"in a batch of {rows} the graph's actions are {share:.2g} of half their range away from "
                f"the policy's, {error.max().item():.3g} in their units, and tolerance={tolerance:g}: "
                "nothing was written; take another format or precision, or state a larger tolerance"
            )
        found["batches"][str(rows)] = {"largest": error.max().item(), "of_half_range": share}
    return found
