"""Files of decoded rows: made once, used again, finished after an interruption; or removed at the end."""

import gc
import os
import pickle
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from shortcut_policy.data.frame_file import FrameFile, Rows, frame_file
from shortcut_policy.data.robomimic_source import RobomimicSource
from shortcut_policy.data.source import pieces, whole_chunks
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError
from tests.data.own_source import OwnSource, SourceWithFiles

VALUES = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
ROWS = Rows("values of key 'x'", 50, (3, 2), np.dtype(np.float32), "above the limit")
Disk = namedtuple("Disk", "total used free")


@pytest.fixture
def source() -> SourceWithFiles:
    return SourceWithFiles({"x": VALUES}, [20, 50])


def blocks_of(source: OwnSource, fail_at: int | None = None) -> Callable[[int], Iterator[np.ndarray]]:
    """Blocks of eight rows; a key press at row ``fail_at``."""

    def blocks(done: int) -> Iterator[np.ndarray]:
        for part in pieces(done, 50, 1, 8):
            if fail_at is not None and part.stop > fail_at:
                raise KeyboardInterrupt
            yield source.read("x", part.start, part.stop)

    return blocks


def make(source: OwnSource, folder: Path, fail_at: int | None = None, made_of: str = "") -> FrameFile:
    return frame_file(ROWS, source, ["x", made_of], blocks_of(source, fail_at), folder)


def test_rows_are_those_of_the_source_alone_in_windows_and_in_threads(tmp_path: Path, source) -> None:
    file = make(source, tmp_path)
    np.testing.assert_array_equal(file.read(3, 50), VALUES[3:])
    assert file.read(7, 7).shape == (0, 3, 2)
    steps = np.array([[0, 0, 1, 2], [46, 47, 48, 49], [17, 18, 19, 19]])
    np.testing.assert_array_equal(file.gather(steps), VALUES[steps])
    assert file.gather(steps[:0]).shape == (0, 4, 3, 2)
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(file.gather, [steps] * 40):
            np.testing.assert_array_equal(found, VALUES[steps])
    copy = pickle.loads(pickle.dumps(file))
    np.testing.assert_array_equal(copy.gather(steps), VALUES[steps])


def test_made_once_and_used_again_while_the_source_is_the_same(
    tmp_path: Path, source, capsys: pytest.CaptureFixture
) -> None:
    first = make(source, tmp_path)
    assert (
        f"values of key 'x': 0.0 MB, above the limit: decoded once into {first.path}"
        in capsys.readouterr().err
    )
    source.reads.clear()
    assert make(source, tmp_path).path == first.path and not source.reads
    assert f"read from {first.path}, where they were decoded before" in capsys.readouterr().err
    assert make(source, tmp_path, made_of="columns").path != first.path
    source.version = 2
    assert make(source, tmp_path).path != first.path and source.reads
    assert {path.suffix for path in tmp_path.iterdir()} == {".rows"}


def test_an_interrupted_file_is_finished_and_the_rows_that_are_there_are_not_read_again(
    tmp_path: Path, source, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(source, tmp_path, fail_at=30)
    (partial,) = tmp_path.glob("*.partial")
    with partial.open("ab") as file:
        file.write(b"half a row")
    source.reads.clear()
    capsys.readouterr()
    np.testing.assert_array_equal(make(source, tmp_path).read(0, 50), VALUES)
    assert source.reads[0] == ("x", 24, 32)
    assert "where 24 of 50 rows are already" in capsys.readouterr().err


@pytest.mark.slow
def test_without_a_stamp_the_file_is_there_as_long_as_it_is_used(tmp_path: Path) -> None:
    class Cropping(SourceWithFiles):
        def read(self, key: str, start: int, stop: int) -> np.ndarray:
            return super().read(key, start, stop) * 2

    for source in (OwnSource({"x": VALUES}, [20, 50]), Cropping({"x": VALUES}, [20, 50])):
        file = make(source, tmp_path)
        path = file.path
        assert path.is_file() and path.name.startswith("temporary.")
        child = os.fork()  # a worker that ends first
        if child == 0:
            del file
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        np.testing.assert_array_equal(file.read(0, 50), source.read("x", 0, 50))
        del file
        gc.collect()
        assert not list(tmp_path.iterdir())
        with pytest.raises(KeyboardInterrupt):
            make(source, tmp_path, fail_at=30)
        assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path, source) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    prefix = f"temporary.{os.uname().nodename}"
    kept = [f"{prefix}.{os.getpid()}.9.rows", f"temporary.elsewhere.{dead.pid}.0.rows"]
    for name in (f"{prefix}.{dead.pid}.0.rows", f"{prefix}.{dead.pid}.1.partial", *kept):
        (tmp_path / name).touch()
    path = make(source, tmp_path).path
    assert {path.name for path in tmp_path.iterdir()} == {path.name, *kept}


def test_no_room_is_said_before_anything_is_read(
    tmp_path: Path, source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(2000, 1000, 1000))
    wanted = (
        r"values of key 'x' need 0\.0 MB in .* when decoded, and 0\.0 MB are free there; .*data\.cache.*=1 if"
    )
    with pytest.raises(InputError, match=wanted):
        make(source, tmp_path)
    assert not source.reads


def test_a_folder_that_cannot_be_written_and_a_source_that_cannot_be_read_are_told_apart(
    tmp_path: Path, source, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        InputError, match=r"cannot be decoded into .*file/frames \(.+\); choose another folder"
    ):
        make(source, tmp_path / "file" / "frames")

    def gone(*arguments: object) -> np.ndarray:
        raise OSError("the camera's disk is gone")

    monkeypatch.setattr(source, "read", gone)
    with pytest.raises(OSError, match="the camera's disk is gone"):
        make(source, tmp_path)


def test_a_damaged_file_gets_a_sentence(tmp_path: Path, source) -> None:
    file = make(source, tmp_path)
    os.truncate(file.path, 100)
    with pytest.raises(
        InputError, match=r"in .*\.rows cannot be read \(it is shorter than it was\); delete that"
    ):
        file.read(0, 50)
    with pytest.raises(InputError, match=r"has not the 1200 bytes of its 50 rows"):
        make(source, tmp_path)
    file.path.unlink()
    with pytest.raises(InputError, match=r"cannot be read \(No such file"):
        pickle.loads(pickle.dumps(file))


def test_stamps_change_with_files_and_choices(tmp_path: Path) -> None:
    zarr, robomimic = object.__new__(ZarrSource), object.__new__(RobomimicSource)
    zarr.path, zarr.prefix = str(tmp_path / "a.zarr"), "data/"
    chunk = tmp_path / "a.zarr/data/img/0.0"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"1")
    before = zarr.stamp("img")
    (tmp_path / "a.zarr/data/other").touch()
    assert zarr.stamp("img") == before
    os.utime(chunk, ns=(0, 0))
    assert zarr.stamp("img") != before
    robomimic.path, robomimic.demos, robomimic._object_state = str(chunk), ["demo_1"], None
    before = robomimic.stamp("x")
    robomimic.demos = ["demo_2"]
    assert robomimic.stamp("x") != before


def test_parts_end_where_chunks_do() -> None:
    source = OwnSource({"x": np.zeros((50, 4), np.uint8)}, [50])
    source.chunk_rows = {"x": 6}
    parts = [(part.start, part.stop) for part in whole_chunks(source, "x", 0, 50, most=60)]
    assert parts == [(0, 12), (12, 24), (24, 36), (36, 48), (48, 50)]
    assert [part.start for part in whole_chunks(source, "x", 8, 50, most=60)] == [8, 12, 24, 36, 48]
    assert [*whole_chunks(source, "x", 49, 50, most=1)] == [range(49, 50)]
