"""The command that converts demonstrations from one file format to another."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.ending import tidied
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.lerobot_writer import LeRobotSettings


@dataclass(frozen=True)
class ConvertSettings:
    """``configs/convert.yaml``; see `ConvertOptions` and `LeRobotSettings`.

    Attributes:
        env_args: A file, of whose name `convert` says what it has to be.
    """

    input: str
    output: str
    to: str | None = None
    lossy: bool = False
    env_args: Any = None
    actions: str = "action"
    fps: float | None = None
    instruction: str | None = None
    videos: bool = False
    crf: int = 18


def run(config: DictConfig) -> None:
    """Convert ``input`` to ``output``.

    Raises:
        InputError: A setting is wrong; or see `convert`.
    """
    settings = read(config, ConvertSettings)
    lerobot = LeRobotSettings(settings.fps, settings.instruction, settings.videos, settings.crf)
    options = ConvertOptions(settings.to, settings.lossy, settings.env_args, settings.actions, lerobot)
    with tidied():
        written = convert(settings.input, settings.output, options)
    print(f"{written}: written")
