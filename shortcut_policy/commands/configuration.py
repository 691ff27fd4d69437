"""From Hydra's configuration to typed settings: the one place where the two meet."""

from collections.abc import Collection
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

from shortcut_policy.settings import parse

Settings = TypeVar("Settings")
MISSING = "???"


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain containers, interpolated, settings without a value left out."""
    plain = _given(OmegaConf.to_container(config, resolve=True))
    return {str(key): value for key, value in plain.items()}


def read(
    config: DictConfig,
    kind: type[Settings],
    owner: str = "the configuration",
    elsewhere: Collection[str] = (),
) -> Settings:
    """The configuration as a dataclass of settings, see `settings.parse`.

    Raises:
        InputError: A setting is not known, has no value, or not one that it can have.
    """
    return parse(kind, to_plain(config), owner, elsewhere)


def _given(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _given(one) for key, one in value.items() if one != MISSING}
    return [_given(one) for one in value] if isinstance(value, list) else value
