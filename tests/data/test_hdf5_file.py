"""HDF5 files on a disk that is full: an error, where HDF5 itself ends the process."""

import errno
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from shortcut_policy.data.hdf5_file import create_hdf5
from shortcut_policy.data.robomimic_writer import write_hdf5


def fill(file: h5py.File) -> None:
    for number in range(40):
        file.create_dataset(f"a/{number}", data=np.arange(3000.0) + number, compression="gzip")
        file[f"a/{number}"].attrs["text"] = "x" * 2000


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a system without /dev/full")
def test_a_full_disk_is_an_error():
    with pytest.raises(OSError) as raised, create_hdf5(Path("/dev/full")) as (file, check):
        fill(file)
        file.flush()
        with pytest.raises(OSError):
            check()
    assert raised.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_half_way_is_an_error(tmp_path, monkeypatch):
    def write(sink, data, real=None):
        if sink._at > 20_000:
            sink._error = sink._error or OSError(errno.ENOSPC, "No space left on device")
        return real(sink, data)

    from shortcut_policy.data import hdf5_file

    real = hdf5_file._Sink.write
    monkeypatch.setattr(hdf5_file._Sink, "write", lambda sink, data: write(sink, data, real))
    with pytest.raises(OSError, match="No space left"), create_hdf5(tmp_path / "a.hdf5") as (file, _):
        fill(file)
        # What could not be written is still what the library reads.
        assert file["a/39"][2] == 41 and file["a/3"].attrs["text"] == "x" * 2000


def test_otherwise_it_is_a_file_like_any_other(tmp_path):
    with create_hdf5(tmp_path / "a.hdf5", libver="v110") as (file, check):
        fill(file)
        check()
        assert file["a/7"][1] == 8
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert len(file["a"]) == 40 and file["a/39"][:].tolist() == (np.arange(3000.0) + 39).tolist()


def versions_of_messages(path: Path) -> dict[int, int]:
    """Kind -> newest version of messages in headers of objects: 3 is a type, 8 where an array's bytes are."""
    found: dict[int, int] = {}
    data = path.read_bytes()
    for start in (at.start() for at in re.finditer(rb"OHDR\x02", data)):
        flags, at = (
            data[start + 5],
            start + 6 + 16 * bool(data[start + 5] & 32) + 4 * bool(data[start + 5] & 16),
        )
        width = 1 << (flags & 3)
        end = at + width + int.from_bytes(data[at : at + width], "little")
        at += width
        while at + 4 <= end:
            kind, size = data[at], int.from_bytes(data[at + 1 : at + 3], "little")
            at += 6 if flags & 4 else 4
            version = data[at] >> 4 if kind == 3 else data[at]
            found[kind] = max(found.get(kind, 0), version)
            at += size
    return found


def test_demonstrations_are_written_as_older_hdf5_reads_them(tmp_path):
    """HDF5 1.14 reads types and layouts up to version 4; "latest" of HDF5 2.0 has version 5 of both."""
    arrays = {
        "actions": np.zeros((5, 2), np.float32),
        "obs/state": np.ones((5, 3)),
        "dones": np.ones(5, bool),
    }
    write_hdf5(
        tmp_path / "a.hdf5",
        [("demo_0", arrays)],
        {"data/@env_args": "{}", "mask/train": np.array([b"demo_0"])},
    )
    found = versions_of_messages(tmp_path / "a.hdf5")
    assert {3, 8} <= set(found) and found[3] <= 4 and found[8] <= 4
