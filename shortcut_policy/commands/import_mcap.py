"""The command that makes a store of demonstrations from recordings in MCAP files."""

from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import DictConfig

from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.ending import tidied
from shortcut_policy.data.import_mcap import import_mcap
from shortcut_policy.data.mcap_reader import Recording
from shortcut_policy.data.source import expand
from shortcut_policy.errors import InputError, one_line
from shortcut_policy.settings import is_list, parse


@dataclass(frozen=True)
class ImportMcapSettings:
    """``configs/import_mcap.yaml``; see `import_mcap`.

    Attributes:
        recording: A file of YAML with the settings of `Recording`.
    """

    input: Any
    output: str
    recording: str


def run(config: DictConfig) -> None:
    """Write the episodes of ``input`` to ``output``.

    Raises:
        InputError: A setting is wrong; or see `import_mcap`.
    """
    settings = read(config, ImportMcapSettings)
    inputs = [str(path) for path in settings.input] if is_list(settings.input) else [str(settings.input)]
    recording = read_recording(settings.recording)
    with tidied():
        written = import_mcap(inputs, settings.output, recording)
    print(f"{written}: written")


def read_recording(path: str) -> Recording:
    """The settings in a file of YAML.

    Raises:
        InputError: It cannot be read, or a setting is wrong.
    """
    try:
        values = yaml.safe_load(expand(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = one_line(error)
        raise InputError(
            f"recording={path} cannot be read ({what}); give the name of a file of YAML"
        ) from error
    return parse(Recording, values, f"recording={path}")
