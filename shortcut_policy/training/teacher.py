"""A trained checkpoint in place of the first phase of an objective that distils a teacher."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shortcut_policy.build import build
from shortcut_policy.checkpoint import find_checkpoint, read_description
from shortcut_policy.errors import InputError


def taught_by(spec: Mapping[str, Any], checkpoint: str | Path, trust: Sequence[str] = ()) -> dict[str, Any]:
    """The specification of a policy whose run begins with the first distillation, from this teacher.

    A run without a first phase freezes its teacher before the first update: a policy that begins from the
    checkpoint's weights (see `initialise`) thus has it as teacher.

    Args:
        spec: Of the policy as configured, see `Policy.from_spec`.
        checkpoint: Checkpoint or run folder of the teacher.
        trust: Modules whose classes the checkpoint may name, see `load_policy`.

    Raises:
        InputError: The objective distils no teacher, the checkpoint cannot be read, or its network does not
            know the velocity.
    """
    objective = spec["objective"]
    if "first_phase" not in objective:
        raise InputError(
            f"teacher={checkpoint} has nobody to teach: {_name(objective)} distils no teacher; take another "
            "objective, or begin from those weights with init_from"
        )
    trained = read_description(find_checkpoint(checkpoint), trust)["policy"]["objective"]
    if not build(trained).velocity_at_zero:
        raise InputError(
            f"teacher={checkpoint} was trained with {_name(trained)}, whose network does not give the "
            "velocity at d = 0; take a checkpoint of flow matching or of a shortcut model"
        )
    return {**spec, "objective": {**objective, "first_phase": 0.0}}


def _name(objective: Mapping[str, Any]) -> str:
    return str(objective["_target_"]).rpartition(".")[2]
