"""The command that converts demonstrations from one file format to another."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.ending import tidied
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.lerobot_writer import LeRobotSettings
from shortcut_policy.data.zarr_source import AbsentChunks


@dataclass(frozen=True)
class ConvertSettings:
    """``configs/convert.yaml``; see `ConvertOptions` and `LeRobotSettings`.

    Attributes:
        input: A path, or a list of them, which are joined.
        env_args: A file, of whose name `convert` says what it has to be.
    """

    input: str | Sequence[str]
    output: str
    to: str | None = None
    lossy: bool = False
    env_args: Any = None
    actions: str = "action"
    episode_ends: str | None = None
    absent_chunks: AbsentChunks | None = None
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
    options = ConvertOptions(
        settings.to,
        settings.lossy,
        settings.env_args,
        settings.actions,
        settings.episode_ends,
        settings.absent_chunks,
        lerobot,
    )
    with tidied():
        written = convert(settings.input, settings.output, options)
    print(f"{written}: written")
