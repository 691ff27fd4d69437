"""The command that converts between robomimic's HDF5 files and zarr stores."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from shortcut_policy.commands.configuration import read
from shortcut_policy.data.convert import convert


@dataclass(frozen=True)
class ConvertSettings:
    """``configs/convert.yaml``; see `convert`.

    Attributes:
        env_args: A file, of whose name `convert` says what it has to be.
    """

    input: str
    output: str
    env_args: Any = None
    actions: str = "action"


def run(config: DictConfig) -> None:
    """Convert ``input`` to ``output``.

    Raises:
        InputError: A setting is wrong; or see `convert`.
    """
    settings = read(config, ConvertSettings)
    written = convert(settings.input, settings.output, settings.env_args, settings.actions)
    print(f"{written}: written")
