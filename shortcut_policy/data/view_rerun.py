"""A demonstration store as a file of the viewer Rerun, https://rerun.io."""

import errno
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from shortcut_policy.data.source import EpisodeSource, episode_rows, pieces, row_bytes
from shortcut_policy.data.view import PIECE_BYTES, Frames, small_keys, spread
from shortcut_policy.errors import InputError
from shortcut_policy.paths import atomic_path

#: The timeline of all episodes: each begins at step 0.
TIMELINE = "step"
FRAME_QUALITY = 90
#: How a whole file ends, but for the last four bytes.
END = b"RRF2FOOT"


def write_recording(
    source: EpisodeSource, episodes: Sequence[int], frames: Mapping[str, Frames], most_frames: int, path: Path
) -> None:
    """Write the episodes, each under an entity of its own: curves of the small keys, and pictures.

    Args:
        source: The store.
        episodes: Numbers of those that are in the file.
        frames: Camera -> how to see the rows, see `frames_of`.
        most_frames: Steps that have pictures, over all these episodes; evenly spread.
        path: ``.rrd`` file.

    Raises:
        InputError: Rerun is not installed.
        OSError: The file could not be written to its end.
    """
    rerun = _import_rerun()
    rows = [episode_rows(source, episode) for episode in episodes]
    every = spread(sum(stop - start for start, stop in rows), most_frames) if frames else 0
    with atomic_path(path, ".tmp.rrd") as part:
        # The same store gives the same name, under which the viewer keeps its layout.
        recording = rerun.RecordingStream("shortcut_policy", recording_id=Path(source.path).name)
        recording.save(part)
        for episode, (start, stop) in zip(tqdm(episodes, desc="episodes"), rows, strict=True):
            entity = f"episode_{episode:04d}"
            for key in small_keys(source):
                _send_numbers(rerun, recording, source, key, f"{entity}/{key}", start, stop)
            for name, see in frames.items():
                for row in range(start, stop, every) if every else ():
                    recording.set_time(TIMELINE, sequence=row - start)
                    recording.log(f"{entity}/{name}/picture", _picture(rerun, see(row, row + 1)[0]))
        recording.disconnect()  # writes what is left
        _check_end(part, path)


def _check_end(part: Path, path: Path) -> None:
    """Make sure that a file was written to its end: on a full disk rerun-sdk 0.41 says so in its log alone.

    Raises:
        OSError: It was not.
    """
    with part.open("rb") as file:
        file.seek(max(0, part.stat().st_size - len(END) - 4))
        if not file.read().startswith(END):
            raise OSError(errno.EIO, "Rerun has not written it to its end, see above", str(path))


def _import_rerun() -> Any:
    try:
        import rerun
    except ImportError as error:
        raise InputError(
            "format=rerun needs rerun-sdk, which is not installed: pip install 'shortcut-policy[rerun]', or "
            "take format=html, a page that needs nothing"
        ) from error
    return rerun


def _send_numbers(
    rerun: Any, recording: Any, source: EpisodeSource, key: str, entity: str, start: int, stop: int
) -> None:
    """All steps of a key, a curve for each number."""
    for part in pieces(start, stop, row_bytes(source, key), PIECE_BYTES):
        values = source.read(key, part.start, part.stop).reshape(len(part), -1).astype(np.float64)
        steps = rerun.TimeColumn(TIMELINE, sequence=np.arange(part.start, part.stop) - start)
        recording.send_columns(entity, indexes=[steps], columns=rerun.Scalars.columns(scalars=values))


def _picture(rerun: Any, frame: np.ndarray) -> Any:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=FRAME_QUALITY)
    return rerun.EncodedImage(contents=buffer.getvalue(), media_type="image/jpeg")
