"""The settings of ``configs/``, for Python without Hydra: defaults stand there and nowhere else."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.settings import check_choice


def recipe(group: str, name: str, **changes: Any) -> dict[str, Any]:
    """What ``group=name`` means on the command line: a specification, see `shortcut_policy.build`.

    Args:
        group: Folder of ``configs/``: ``objective``, ``backbone`` or ``encoder``.
        name: File in it, without ``.yaml``.
        changes: Settings to replace.

    Raises:
        InputError: There is no such file, or it has no such setting.

    Example:
        >>> recipe("objective", "shortcut", consistency_share=0.05)
        {'_target_': 'shortcut_policy.objectives.Shortcut', 'bootstrap_every': 1, ...}
    """
    check_choice(group, name, recipe_names(group))
    found = _read(CONFIG_DIR / group / f"{name}.yaml")
    for key in changes:
        if key not in found:
            raise InputError(f"{group}={name} has no setting '{key}'; it has {', '.join(found)}")
    return {**found, **changes}


def recipe_names(group: str) -> list[str]:
    """All that ``group`` can be."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def training_default(name: str) -> Any:
    """A setting of ``configs/train.yaml`` itself, such as ``precondition``."""
    return _read(CONFIG_DIR / "train.yaml")[name]


def specification(group: str, given: str | Mapping[str, Any]) -> Mapping[str, Any]:
    """A part of a policy as its user gave it: a specification, or the name of a `recipe`."""
    return recipe(group, given) if isinstance(given, str) else given


def _read(path: Path) -> dict[str, Any]:
    """A file of settings over those of the files of its folder that it begins from."""
    own: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    base: dict[str, Any] = {}
    for name in own.pop("defaults", ()):
        if isinstance(name, str) and name != "_self_":
            base |= _read(path.with_name(f"{name}.yaml"))
    return base | own
