"""Names that older checkpoints and run folders use, and what they are called now."""

from collections.abc import Mapping
from typing import Any

#: Module or class -> its present name; what stands below a module moved along with it.
TARGETS = {
    "envs.pusht": "shortcut_envs.pusht.env",
    "envs.pusht_expert": "shortcut_envs.pusht.expert",
    "envs.robosuite_actions": "shortcut_envs.robosuite.actions",
    "envs.robosuite_env": "shortcut_envs.robosuite.env",
    "envs.robosuite_experts": "shortcut_envs.robosuite.experts",
    "shortcut_policy.toy": "shortcut_studies.toy",
}
#: Package before the colon of an environment's id -> its present name.
ENV_PACKAGES = {"envs": "shortcut_envs"}
#: Levels of mappings and lists in one another; the deepest specification of this library has ten.
DEEPEST = 50


def rename(value: Any, level: int = 0) -> Any:
    """A specification or configuration with the old names of targets and environments replaced.

    Raises:
        ValueError: It has more than `DEEPEST` levels: far more would end in a RecursionError of Python,
            here or wherever it is read later.
    """
    if level > DEEPEST:
        raise ValueError(f"more than {DEEPEST} levels of mappings and lists")
    if isinstance(value, Mapping):
        return {key: _renamed_entry(key, item, level + 1) for key, item in value.items()}
    return [rename(item, level + 1) for item in value] if isinstance(value, list) else value


def _renamed_entry(key: str, value: Any, level: int) -> Any:
    if key == "_target_" and isinstance(value, str):
        module, _, name = value.rpartition(".")
        return f"{TARGETS[module]}.{name}" if module in TARGETS else value
    if key == "id" and isinstance(value, str):
        package, colon, name = value.partition(":")
        return f"{ENV_PACKAGES.get(package, package)}{colon}{name}"
    return rename(value, level)
