"""The fields and sizes that a policy's specification holds, checked: it may come from a damaged file."""

from collections.abc import Mapping
from typing import Any

from shortcut_policy.build import build
from shortcut_policy.data.source import Field
from shortcut_policy.data.windows import check_sizes
from shortcut_policy.errors import InputError
from shortcut_policy.settings import check_keys, check_whole

#: What the action is called among the fields.
ACTION = "action"
SIZES = ("horizon", "n_obs_steps", "n_action_steps")
#: What every specification of a policy has.
REQUIRED = ("encoder", "backbone", "objective", "obs", ACTION, *SIZES)


def read_sizes(spec: Mapping[str, Any]) -> dict[str, Any]:
    """``horizon``, ``n_obs_steps``, ``n_action_steps`` and ``prefix_steps`` of a specification.

    Raises:
        InputError: One is no whole number from 1 on, or from 0 on for the prefix, they contradict each other,
            or the specification lacks something.
    """
    check_keys("the specification", {key: spec[key] for key in REQUIRED if key in spec}, REQUIRED)
    sizes = {name: spec[name] for name in SIZES}
    for name, size in sizes.items():
        check_whole(name, size, 1)
    check_sizes(**sizes)
    prefix_steps = spec.get("prefix_steps", 0)
    # One action at least is left to be chosen.
    check_whole("prefix_steps", prefix_steps, 0, sizes["horizon"] - sizes["n_obs_steps"])
    return sizes | {"prefix_steps": prefix_steps}


def read_fields(obs: Any, action: Any) -> tuple[dict[str, Field], Field]:
    """The fields of observations and action, made of their specifications where they are not built yet.

    Raises:
        InputError: There is no observation, one is called as the action is, or something is no field, or the
            action's shape is not one number.
    """
    if not isinstance(obs, Mapping) or not obs:
        raise InputError(f"obs={obs} must be a mapping of names to fields, of one observation at least")
    if ACTION in obs:
        raise InputError(
            f"an observation is called '{ACTION}', as what the policy chooses is: give it another name; its "
            "field's key may stay"
        )
    fields = {name: _field(f"obs.{name}", field) for name, field in obs.items()}
    made = _field(ACTION, action)
    if len(made.shape) != 1:
        raise InputError(f"{ACTION} has shape {list(made.shape)}, and must have (A,): numbers in one row")
    return fields, made


def _field(key: str, given: Any) -> Field:
    """A field, or what a specification of one builds."""
    try:
        made = build(given) if isinstance(given, Mapping) else given
    except InputError as error:
        raise InputError(f"{key} is no field: {error}") from error
    if not isinstance(made, Field):
        raise InputError(
            f'{key}={given} is no field: give shortcut_policy.Field(key, shape), or {{"_target_": '
            '"shortcut_policy.data.Field", "key": ..., "shape": [...]}'
        )
    return made
