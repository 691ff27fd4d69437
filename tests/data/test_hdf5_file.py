"""HDF5 files on a disk that is full: an error, where HDF5 itself ends the process."""

import errno
from pathlib import Path

import h5py
import numpy as np
import pytest

from shortcut_policy.data.hdf5_file import create_hdf5


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
    with create_hdf5(tmp_path / "a.hdf5", libver="latest") as (file, check):
        fill(file)
        check()
        assert file["a/7"][1] == 8
    with h5py.File(tmp_path / "a.hdf5") as file:
        assert len(file["a"]) == 40 and file["a/39"][:].tolist() == (np.arange(3000.0) + 39).tolist()
