"""MCAP files to a store of demonstrations."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from shortcut_policy.data.in_one_step import check_absent, in_one_step
from shortcut_policy.data.mcap_file import recordings_without_mcap
from shortcut_policy.data.mcap_labels import Labels
from shortcut_policy.data.mcap_reader import Recording, check_file, read_episodes
from shortcut_policy.data.source import expand
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.errors import InputError

#: Attribute of a store: the files that it was made of, and what was taken out of them.
MCAP = "mcap"


def import_mcap(inputs: Sequence[str], output: str, recording: Recording) -> Path:
    """Write the episodes of MCAP files, in this order, as a zarr store.

    Args:
        inputs: Files, or folders of files, which are taken in the order of their names.
        output: The store; must not be there yet.
        recording: What to take out of the files.

    Returns:
        Where it was written.

    Raises:
        InputError: The output is there already, no file is given; or see `read_episodes`.
    """
    target = expand(output)
    check_absent(target)
    files = [file for path in inputs for file in _files(expand(path))]
    if not files:
        raise InputError("input names no file; give an MCAP file, a folder of them, or a list")
    for file in files:  # before the first is gone through, which may take long
        check_file(file, recording)
    labels: dict[str, Labels] = {}
    about = {"files": [file.name for file in files], "recording": asdict(recording)}
    with (
        in_one_step(target) as temporary,
        EpisodeWriter(temporary, attributes={MCAP: about}) as writer,
    ):
        for file in tqdm(files, unit="file"):
            for episode in read_episodes(file, recording, labels):
                try:
                    writer.add_episode(episode)
                except InputError as error:
                    raise InputError(f"{file}: {error}") from error
    return target


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.mcap"))
    if not files:
        raise InputError(f"{path} is a folder without MCAP files (.mcap){recordings_without_mcap(path)}")
    return files
