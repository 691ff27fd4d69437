"""What a server says of its policy before the first request."""

from collections.abc import Mapping
from typing import Any

from shortcut_policy.adaptive import DOUBLINGS, Steps
from shortcut_policy.control import agreed_rate
from shortcut_policy.data.fields import ACTION
from shortcut_policy.errors import InputError
from shortcut_policy.fingerprint import weights_hash
from shortcut_policy.objectives.base import allowed_steps
from shortcut_policy.policy import Policy
from shortcut_policy.serving.protocol import OPTIONS, REQUEST

#: Of the messages; it changes when an old client could not read them any more.
PROTOCOL = 1


def server_metadata(
    policy: Policy, steps: Steps, largest_steps: int, rate: float | None, units: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that a client has to know, in plain containers.

    ``obs`` holds for each observation its ``shape`` of one step, ``units``, ``image`` (bytes in 0..255), and,
    if it is scaled by its limits, the ``low`` and ``high`` of each element in the training data: compare a
    live observation with them before the robot moves. ``action`` has the same. ``weights`` tells the policy
    from others.

    Args:
        policy: The policy.
        steps: Sampling steps of requests that name none.
        largest_steps: The most that a request may name.
        rate: Control steps a second; those of the data if None, where the checkpoint knows them.
        units: Observation or ``action`` -> its units, in words.

    Raises:
        InputError: ``units`` name something that the policy does not know.
    """
    fields = {name: {"shape": list(shape)} for name, shape in policy.obs_shapes.items()}
    fields[ACTION] = {"shape": [policy.action_dim]}
    if unknown := sorted(set(units) - set(fields)):
        raise InputError(f"units.{unknown[0]} names nothing that this policy has: {', '.join(fields)}")
    described = {name: _described(policy, name, field, units.get(name)) for name, field in fields.items()}
    allowed: list[Steps] = [c for c in allowed_steps(policy.objective, DOUBLINGS) if c <= largest_steps]
    allowed += ["auto"] * policy.objective.step_conditioned
    if policy.runtime is not None:
        allowed = [policy.runtime.steps]
    return {
        "server": "shortcut_policy",
        "protocol": PROTOCOL,
        "task": policy.metadata.get("task", {}).get("name"),
        "method": policy.metadata.get("method"),
        "weights": weights_hash(policy),
        "action": described.pop(ACTION),
        "obs": described,
        "horizon": policy.horizon,
        "n_obs_steps": policy.n_obs_steps,
        "n_action_steps": policy.n_action_steps,
        "rate_hz": agreed_rate(policy.metadata, rate),
        "steps": steps,
        "steps_allowed": allowed,
        "request": {"key": REQUEST, "options": list(OPTIONS)},
    }


def _described(policy: Policy, name: str, field: dict[str, Any], units: str | None) -> dict[str, Any]:
    image = name in policy.cameras
    told = units or ("pixels in 0..255" if image else "those of the training data")
    field |= {"units": told, "image": image}
    spec = policy.spec.get("obs", {}).get(name) if name != ACTION else policy.spec.get(ACTION)
    if spec is not None and spec.get("normalize", "limits") == "limits" and not spec.get("unscaled"):
        middle = policy.normalizer.get_buffer(f"{name}_offset")
        reach = policy.normalizer.get_buffer(f"{name}_scale").abs()
        field |= {"low": (middle - reach).tolist(), "high": (middle + reach).tolist()}
    return field
