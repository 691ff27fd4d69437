"""Which fields stay in memory, what processes share, and what is said where there is no room."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from shortcut_policy.data import ZarrSource
from shortcut_policy.data.memory import kind_of
from shortcut_policy.errors import InputError
from tests.data.test_dataset import ROWS, assert_same, dataset, store

Disk = namedtuple("Disk", "total used free")


@pytest.fixture(scope="module")
def whole_store(tmp_path_factory: pytest.TempPathFactory) -> ZarrSource:
    return store(tmp_path_factory.mktemp("data"))


def test_the_memory_limit_is_of_all_fields_together_and_the_smallest_stay(
    whole_store: ZarrSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"agent": 2 * 4, "action": 2 * 4, "keypoint": 6 * 4, "image": 4 * 4 * 3}
    for kept in range(len(sizes) + 1):
        limit = sum(list(sizes.values())[:kept]) * ROWS / 2**20
        demonstrations = dataset(whole_store, memory_limit_mb=limit, cache=tmp_path / str(kept))
        assert len(list((tmp_path / str(kept)).rglob("*.rows"))) == len(sizes) - kept
        assert_same(
            demonstrations.batch(demonstrations.train), dataset(whole_store).batch(demonstrations.train)
        )
    assert capsys.readouterr().err.count("images of key 'image'") == len(sizes)


def test_processes_of_one_machine_share_the_memory_limit(
    whole_store: ZarrSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_bytes = ROWS * (2 * 4 + 2 * 4 + 6 * 4 + 4 * 4 * 3)
    assert dataset(whole_store, memory_limit_mb=all_bytes / 2**20, cache=tmp_path).in_memory
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert not dataset(whole_store, memory_limit_mb=all_bytes / 2**20, cache=tmp_path).in_memory
    assert dataset(whole_store, memory_limit_mb=all_bytes / 2**19, cache=tmp_path).in_memory


def test_the_limit_that_would_do_is_that_of_all_processes(
    whole_store: ZarrSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(2000, 1000, 1000))
    kinds = [kind_of(field) for field in dataset(whole_store).fields.values()]
    needed_bytes = "shortcut_policy.data.dataset.needed_bytes"
    monkeypatch.setattr(needed_bytes, lambda fields, rows: dict.fromkeys(kinds, 3 * 2**20))
    for processes, needed in (("1", 3), ("4", 12)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        with pytest.raises(InputError, match=rf"or give data.memory_limit_mb={needed} if they fit"):
            dataset(whole_store, memory_limit_mb=needed - 0.5, cache=tmp_path)
        assert dataset(whole_store, memory_limit_mb=needed, cache=tmp_path).in_memory
