"""The command that fetches published demonstrations."""

from collections.abc import Mapping
from dataclasses import dataclass

from omegaconf import DictConfig

from shortcut_policy.commands.configuration import read
from shortcut_policy.data.download import Published, choose, put


@dataclass(frozen=True)
class DownloadSettings:
    """``configs/download.yaml``; see `choose`.

    Attributes:
        data: Folder that the paths of the sources begin with,
        hugging_face: and what their addresses begin with,
        stanford: or this.
    """

    sources: Mapping[str, Published]
    dataset: str | None = None
    url: str | None = None
    output: str | None = None
    sha256: str | None = None
    data: str = "data"
    hugging_face: str | None = None
    stanford: str | None = None


def run(config: DictConfig) -> None:
    """Fetch what the settings name.

    Raises:
        InputError: A setting is wrong; or see `choose` and `put`.
    """
    settings = read(config, DownloadSettings)
    put(choose(settings.sources, settings.dataset, settings.url, settings.output, settings.sha256))
