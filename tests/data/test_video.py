"""Frames of video files by their number, and files that are none."""

import sys
from pathlib import Path

import av
import numpy as np
import pytest

from shortcut_policy.data.video import find_frames, read_frames
from shortcut_policy.errors import InputError
from tests.data.lerobot_folders import FPS, pictures, write_video


@pytest.mark.parametrize("options", [{"g": "250", "bf": "3"}, {"g": "2"}, {"g": "7", "bf": "0"}], ids=str)
def test_any_frames_are_those_of_the_whole_file(options: dict[str, str], tmp_path: Path) -> None:
    given = pictures(40, 0)
    write_video(tmp_path / "a.mp4", given, **options)
    video = find_frames(tmp_path / "a.mp4")
    assert video.size == (32, 32) and video.fps == pytest.approx(FPS) and len(video.ticks) == 40
    np.testing.assert_allclose(video.times, np.arange(40) / FPS)
    whole = read_frames(video, 0, 40)
    assert abs(whole.astype(int) - given).mean() < 4
    for start, stop in ((0, 1), (5, 9), (13, 14), (37, 40)):
        np.testing.assert_array_equal(read_frames(video, start, stop), whole[start:stop])
    grey = read_frames(video, 3, 5, channels=1)
    assert grey.shape == (2, 32, 32, 1)


def test_what_is_no_video_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a.mp4 does not exist; copy or fetch"):
        find_frames(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(InputError, match=r"a.mp4 cannot be read as a video \(.*restore it from a copy"):
        find_frames(tmp_path / "a.mp4")


def test_a_damaged_frame_is_named(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", pictures(30, 0), g="1")
    video = find_frames(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    position, size = packets[20]
    content[position : position + size] = b"\0" * size
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"a.mp4(: frame \d+ cannot be decoded| cannot be read as a video)"):
        read_frames(video, 0, 30)


def test_an_old_decoder_and_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "__version__", "16.1.0")
    with pytest.raises(InputError, match=r"PyAV 16.1.0 is installed, .* version 17 is needed: pip install"):
        find_frames(tmp_path / "a.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        InputError, match=r"PyAV, which is not installed: pip install 'shortcut-policy\[lerobot\]'"
    ):
        find_frames(tmp_path / "a.mp4")
