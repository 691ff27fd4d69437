"""Reading stores of every kind, and one clear sentence for every broken one."""

import gzip
import json
import multiprocessing
import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from shortcut_policy.data import EpisodeWriter, Field, RobomimicSource, ZarrSource, bundled, zarr_files
from shortcut_policy.data.zarr_source import _codec_sentence
from shortcut_policy.errors import InputError

LENGTHS = (7, 20, 13)
ROWS = sum(LENGTHS)
HUMAN = Path(os.environ.get("SHORTCUT_POLICY_DATA", "data"), "pusht_cchi_v7_replay.zarr")


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "action": rng.normal(size=(ROWS, 2)).astype(np.float32),
        "image": rng.integers(0, 256, (ROWS, 4, 4, 3), np.uint8),
        "keypoint": rng.normal(size=(ROWS, 9, 2)),
    }


def write(path: Path, zarr_format: int = 2, data: dict[str, np.ndarray] | None = None, ends=None) -> Path:
    """A store made with zarr alone, the way a user's script makes one: several chunk files per array."""
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    config = {"write_empty_chunks": True}
    for key, values in (arrays() if data is None else data).items():
        group.create_array(f"data/{key}", data=values, chunks=(8, *values.shape[1:]), config=config)
    ends = np.cumsum(LENGTHS) if ends is None else np.asarray(ends)
    group.create_array("meta/episode_ends", data=ends, config=config)
    return path


def zipped(store: Path, path: Path, folder: str = "") -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for item in sorted(store.rglob("*")):
            if item.is_file():
                file.write(item, Path(folder, item.relative_to(store)))
    return path


def as_directory(store: Path) -> Path:
    return store


def as_zip(store: Path) -> Path:
    return zipped(store, store.with_suffix(".zarr.zip"))


def as_zip_of_folder(store: Path) -> Path:
    return zipped(store, store.with_suffix(".zip"), folder="pusht/store.zarr")


CONTAINERS = pytest.mark.parametrize("container", [as_directory, as_zip, as_zip_of_folder])
FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


@FORMATS
@CONTAINERS
def test_reads_what_was_written(tmp_path: Path, zarr_format: int, container: Callable[[Path], Path]) -> None:
    source = ZarrSource(container(write(tmp_path / "a.zarr", zarr_format)))
    assert source.keys == ("action", "image", "keypoint")
    assert source.shapes == {"action": (2,), "image": (4, 4, 3), "keypoint": (9, 2)}
    assert source.dtypes == {"action": np.float32, "image": np.uint8, "keypoint": np.float64}
    assert source.episode_ends.tolist() == [7, 27, 40]
    assert source.episode_ends.dtype == np.int64
    for key, values in arrays().items():
        rows = source.read(key, 5, 30)
        assert rows.dtype == values.dtype
        np.testing.assert_array_equal(rows, values[5:30])


def test_sharded_and_slash_separated_stores_are_not_refused(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "sharded.zarr", mode="w", zarr_format=3)
    action = arrays()["action"]
    group.create_array("data/action", data=action, chunks=(4, 2), shards=(16, 2))
    group.create_array("meta/episode_ends", data=np.array([ROWS]))
    np.testing.assert_array_equal(ZarrSource(tmp_path / "sharded.zarr").read("action", 3, 39), action[3:39])

    group = zarr.open_group(tmp_path / "slash.zarr", mode="w", zarr_format=2)
    encoding = {"name": "v2", "separator": "/"}
    group.create_array("data/action", data=action, chunks=(8, 2), chunk_key_encoding=encoding)
    group.create_array("meta/episode_ends", data=np.array([ROWS]))
    assert (tmp_path / "slash.zarr/data/action/0/0").is_file()
    np.testing.assert_array_equal(ZarrSource(tmp_path / "slash.zarr").read("action", 3, 39), action[3:39])


@FORMATS
def test_arrays_of_the_other_format_than_the_groups_around_them(tmp_path: Path, zarr_format: int) -> None:
    """As zarr leaves a store that was opened again with another version of it."""
    store, other = write(tmp_path / "a.zarr", zarr_format), write(tmp_path / "b.zarr", 5 - zarr_format)
    shutil.rmtree(store / "data/action")
    shutil.copytree(other / "data/action", store / "data/action")
    source = ZarrSource(store)
    assert source.keys == ("action", "image", "keypoint") and not source.lacking
    np.testing.assert_array_equal(source.read("action", 3, 39), arrays()["action"][3:39])


def test_path_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.zarr")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DEMONSTRATIONS", str(tmp_path))
    assert (
        ZarrSource("~/a.zarr").path == ZarrSource("$DEMONSTRATIONS/a.zarr").path == str(tmp_path / "a.zarr")
    )


def _child(source: ZarrSource, queue: multiprocessing.Queue) -> None:
    queue.put([source.read("action", i, i + 1) for i in range(ROWS)])


@CONTAINERS
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_workers_read_for_themselves(tmp_path: Path, container: Callable[[Path], Path]) -> None:
    source = ZarrSource(container(write(tmp_path / "a.zarr")))
    source.read("action", 0, 1)
    context = multiprocessing.get_context("fork")
    queues = [context.Queue() for _ in range(2)]
    workers = [context.Process(target=_child, args=(source, queue)) for queue in queues]
    for worker in workers:
        worker.start()
    for queue in queues:
        np.testing.assert_array_equal(np.concatenate(queue.get(timeout=60)), arrays()["action"])
    for worker in workers:
        worker.join()


def test_pickle(tmp_path: Path) -> None:
    source = pickle.loads(pickle.dumps(ZarrSource(as_zip(write(tmp_path / "a.zarr")))))
    np.testing.assert_array_equal(source.read("action", 0, 40), arrays()["action"])


def refused(path: Path | str, *parts: str) -> None:
    """Opening and reading everything must raise one sentence that names each part."""
    with pytest.raises(InputError) as caught:
        source = ZarrSource(path)
        for key in source.keys:
            source.read(key, 0, ROWS)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_no_such_path(tmp_path: Path) -> None:
    refused(tmp_path / "none.zarr", str(tmp_path / "none.zarr"), "does not exist")
    assert not (tmp_path / "none.zarr").exists()


def test_not_a_zarr(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not a zarr store", "meta/episode_ends")
    (tmp_path / "table.csv").write_text("1,2")
    refused(tmp_path / "table.csv", "table.csv", "neither a zarr directory nor a zip")
    (tmp_path / "cut.zip").write_bytes(as_zip(write(tmp_path / "a.zarr")).read_bytes()[:-200])
    refused(tmp_path / "cut.zip", "cut.zip")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme.txt", "hello")
    refused(tmp_path / "other.zip", "is not a zarr store")


def test_folder_around_the_store_is_pointed_out(tmp_path: Path) -> None:
    write(tmp_path / "download" / "pusht.zarr")
    refused(tmp_path / "download", f"did you mean {tmp_path / 'download' / 'pusht.zarr'}")


@FORMATS
def test_store_without_the_layout(tmp_path: Path, zarr_format: int) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    refused(tmp_path / "a.zarr", "lacks data/ and meta/episode_ends", "a recording without an episode")
    group.create_array("observations", data=np.zeros(3))
    refused(tmp_path / "a.zarr", "lacks data/ or meta/episode_ends", "observations")


@FORMATS
def test_damaged_metadata(tmp_path: Path, zarr_format: int) -> None:
    store = write(tmp_path / "a.zarr", zarr_format)
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    (store / "data/action" / name).write_text('{"shape": [')
    source = ZarrSource(store)
    assert source.keys == ("image", "keypoint")
    with pytest.raises(InputError, match=rf"metadata of key 'action' of {store} cannot be read"):
        source.read("action", 0, 1)
    (store / "meta/episode_ends" / name).write_text("")
    refused(store, f"meta/episode_ends of {store} cannot be read")


def test_missing_key(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no key 'force'; it holds action, image, keypoint"):
        ZarrSource(write(tmp_path / "a.zarr")).read("force", 0, 1)


@pytest.mark.parametrize(
    ("ends", "parts"),
    [
        ([7, 27, 27, 40], ("must increase", "entry 2 is 27 after 27")),
        ([27, 7, 40], ("must increase", "entry 1 is 7 after 27")),
        ([0, 40], ("must increase", "entry 0 is 0 after 0")),
        ([7, 27, 39], ("ends at 39", "action 40")),
        ([7, 27, 41], ("ends at 41", "action 40")),
        ([7.0, 40.0], ("whole numbers", "float64")),
        ([[7, 40]], ("whole numbers", "[1, 2]")),
    ],
)
def test_wrong_episode_ends(tmp_path: Path, ends: list, parts: tuple[str, ...]) -> None:
    refused(write(tmp_path / "a.zarr", ends=ends), "episode_ends", *parts)


def test_arrays_of_different_length(tmp_path: Path) -> None:
    """What no task uses blocks nothing, and says why to who asks for it."""
    data = arrays() | {"reward": np.ones(ROWS - 1)}
    path = write(tmp_path / "a.zarr", data=data)
    zarr.open_group(path).create_array("data/scale", data=np.array(2.0))
    source = ZarrSource(path)
    assert source.keys == ("action", "image", "keypoint")
    for key, reason in (("reward", "has 39 rows, but meta/episode_ends ends at 40"), ("scale", "single val")):
        with pytest.raises(InputError, match=f"key '{key}' of {path} .*{reason}"):
            source.read(key, 0, 1)
        with pytest.raises(InputError, match=reason):
            Field(key, (1,)).check(source)
    with pytest.raises(InputError, match="nothing can be appended: key 'reward'"):
        EpisodeWriter(path)


@FORMATS
@CONTAINERS
def test_arrays_in_groups_are_keys_with_slashes(
    tmp_path: Path, zarr_format: int, container: Callable[[Path], Path]
) -> None:
    values = arrays()
    data = {"action": values["action"], "obs/robot/state": values["keypoint"], "obs/image": values["image"]}
    store = write(tmp_path / "a.zarr", zarr_format, data)
    with pytest.raises(InputError, match=r"nothing can be appended to .* it holds action, obs/image, obs/r"):
        EpisodeWriter(store)
    source = ZarrSource(container(store))
    assert source.keys == ("action", "obs/image", "obs/robot/state")
    for key in source.keys:
        np.testing.assert_array_equal(source.read(key, 5, 30), data[key][5:30])
        assert len(source.stamp(key)) > 1
    (store / "data/obs/robot/state" / ("0.0.0" if zarr_format == 2 else "c/0/0/0")).unlink()
    refused(store, "data/obs/robot/state", "is missing")


@FORMATS
@CONTAINERS
@pytest.mark.parametrize("name", ["data/episode_ends", "episode_ends", "meta/episode_lengths", "meta/cuts"])
def test_episode_ends_may_be_called_otherwise(
    tmp_path: Path, zarr_format: int, container: Callable[[Path], Path], name: str, capsys
) -> None:
    store = write(tmp_path / "a.zarr", zarr_format)
    ends = LENGTHS if "length" in name else np.cumsum(LENGTHS)
    group = zarr.open_group(store)
    del group["meta/episode_ends"]
    group.create_array(name, data=np.array(ends), config={"write_empty_chunks": True})
    path = container(store)
    if name == "meta/cuts":
        refused(path, "lacks data/ or meta/episode_ends", "task.source.episode_ends")
    else:
        assert ZarrSource(path).episode_ends.tolist() == [7, 27, 40]
        assert f"{path}: episodes end where {name} says" in capsys.readouterr().err
    source = ZarrSource(path, episode_ends=name)
    assert source.episode_ends.tolist() == [7, 27, 40] and source.keys == ("action", "image", "keypoint")
    with pytest.raises(
        InputError, match="has no array 'meta/none', given as episode_ends; it holds data/act"
    ):
        ZarrSource(path, episode_ends="meta/none")


@FORMATS
def test_arrays_may_lie_at_the_root(tmp_path: Path, zarr_format: int) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    for key, values in arrays().items():
        group.create_array(key, data=values)
    group.create_array("episode_ends", data=np.cumsum(LENGTHS))
    source = ZarrSource(tmp_path / "a.zarr")
    assert source.keys == ("action", "image", "keypoint")
    np.testing.assert_array_equal(source.read("image", 0, ROWS), arrays()["image"])


@FORMATS
@CONTAINERS
def test_chunks_that_zarr_leaves_out_are_data_where_the_store_says_so(
    tmp_path: Path, zarr_format: int, container: Callable[[Path], Path]
) -> None:
    """A gripper that stays open for a chunk, and a recorder that takes zarr as it comes."""
    gripper = np.repeat([0, 0, 1, 0, 2], 8).astype(np.float32)[:, None]
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=zarr_format)
    with zarr.config.set({"array.write_empty_chunks": False}):
        for key, values in {"gripper": gripper, "action": arrays()["action"]}.items():
            group.create_array(f"data/{key}", shape=values.shape, chunks=(8, 1), dtype=values.dtype)[:] = (
                values
            )
    group.create_array("meta/episode_ends", data=np.cumsum(LENGTHS))
    path = container(tmp_path / "a.zarr")
    refused(path, "data/gripper", "is missing", "absent_chunks=fill", "hold 0.0 alone")
    np.testing.assert_array_equal(ZarrSource(path, absent_chunks="fill").read("gripper", 0, ROWS), gripper)
    group.attrs["absent_chunks"] = "fill"
    path.unlink() if path.is_file() else None
    path = container(tmp_path / "a.zarr")
    np.testing.assert_array_equal(ZarrSource(path).read("gripper", 3, ROWS), gripper[3:])
    with pytest.raises(InputError, match=r"gripper.* is missing"):
        ZarrSource(path, absent_chunks="error").read("gripper", 0, ROWS)
    with pytest.raises(InputError, match=r"absent_chunks=zeros of .* must be error or fill"):
        ZarrSource(path, absent_chunks="zeros")  # type: ignore[arg-type]


def test_chunks_without_a_fill_value_are_lost(tmp_path: Path) -> None:
    store = write(tmp_path / "a.zarr")
    metadata = store / "data/action/.zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"fill_value": None}))
    (store / "data/action/1.0").unlink()
    with pytest.raises(InputError, match=r"is missing: restore it from a copy of the data$"):
        ZarrSource(store, absent_chunks="fill").read("action", 0, ROWS)


def test_text_beside_the_data_of_format_3_blocks_nothing(tmp_path: Path) -> None:
    store = write(tmp_path / "a.zarr", 3)
    group = zarr.open_group(store)
    group.attrs["task"] = "push the T"
    group["data/action"].attrs["unit"] = "pixels"
    group.create_array("meta/languages", data=np.array(["a", "bc"]))
    texts = group.create_array("data/instruction", shape=(ROWS,), dtype=str, chunks=(ROWS,))
    texts[:] = np.array(["push"] * ROWS, dtype=object)
    source = ZarrSource(store)
    assert source.attributes == {"task": "push the T"}
    np.testing.assert_array_equal(source.read("action", 0, ROWS), arrays()["action"])
    with pytest.raises(InputError, match=r"'instruction' .* is not a number a policy can learn from"):
        Field("instruction", ()).check(source)


@FORMATS
def test_a_codec_or_filter_that_is_not_known_blocks_nothing_else(tmp_path: Path, zarr_format: int) -> None:
    store = write(tmp_path / "a.zarr", zarr_format)
    metadata = store / "data/image" / (".zarray" if zarr_format == 2 else "zarr.json")
    known = json.loads(metadata.read_text())
    if zarr_format == 2:
        changed = known | {"filters": [{"id": "of_somebody"}]}
    else:
        changed = known | {"codecs": [*known["codecs"], {"name": "of_somebody", "configuration": {}}]}
    metadata.write_text(json.dumps(changed))
    source = ZarrSource(store)
    assert source.keys == ("action", "keypoint")
    with pytest.raises(
        InputError, match=r"key 'image' .* codec of_somebody, which is not installed: install"
    ):
        source.read("image", 0, 1)


@pytest.mark.parametrize("place", ["chunk", "metadata", "root", "zip"])
def test_pointers_of_git_lfs_are_called_so(tmp_path: Path, place: str) -> None:
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123\n"
    store = write(tmp_path / "a.zarr")
    pointer = {
        "chunk": store / "data/action/1.0",
        "metadata": store / "data/action/.zarray",
        "root": store / ".zgroup",
        "zip": tmp_path / "b.zarr.zip",
    }[place]
    pointer.write_text(text)
    with pytest.raises(InputError, match=f"^{pointer} is a pointer of git LFS .*: run 'git lfs pull'"):
        ZarrSource(pointer if place == "zip" else store).read("action", 0, ROWS)


@FORMATS
@CONTAINERS
def test_missing_chunk_is_named(tmp_path: Path, zarr_format: int, container: Callable[[Path], Path]) -> None:
    store = write(tmp_path / "a.zarr", zarr_format)
    chunk = "data/action/" + ("3.0" if zarr_format == 2 else "c/3/0")
    (store / chunk).unlink()
    path = container(store)
    refused(path, f"chunk file {path}", chunk, "is missing")


@FORMATS
@CONTAINERS
@pytest.mark.parametrize("damage", [b"", b"not a chunk", None])
def test_corrupt_chunk_is_named(
    tmp_path: Path, zarr_format: int, container: Callable[[Path], Path], damage: bytes | None
) -> None:
    store = write(tmp_path / "a.zarr", zarr_format)
    chunk = "data/keypoint/" + ("2.0.0" if zarr_format == 2 else "c/2/0/0")
    content = (store / chunk).read_bytes()
    (store / chunk).write_bytes(content[: len(content) // 2] if damage is None else damage)
    path = container(store)
    refused(path, f"chunk file {path}", chunk, "cannot be decoded")


def test_corrupt_bytes_inside_a_zip_are_named(tmp_path: Path) -> None:
    path = as_zip(write(tmp_path / "a.zarr"))
    content = path.read_bytes()
    chunk = (tmp_path / "a.zarr/data/action/1.0").read_bytes()
    at = content.index(chunk) + len(chunk) // 2
    path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
    refused(path, "data/action/1.0", "cannot be decoded")


def test_missing_chunk_of_episode_ends(tmp_path: Path) -> None:
    store = write(tmp_path / "a.zarr")
    (store / "meta/episode_ends/0").unlink()
    refused(store, "meta/episode_ends/0 is missing")


def test_unknown_bundled_store() -> None:
    with pytest.raises(InputError, match=re.escape("no bundled demonstrations 'pong'; there are: ")):
        bundled("pong")


def test_attributes(tmp_path: Path) -> None:
    store = write(tmp_path / "a.zarr")
    (store / ".zattrs").write_text(json.dumps({"robot": "arm"}))
    assert ZarrSource(store).attributes == {"robot": "arm"}


@pytest.mark.skipif(not HUMAN.exists(), reason=f"no human Push-T data at {HUMAN}")
def test_human_pusht_data_loads() -> None:
    source = ZarrSource(HUMAN)
    for key in ("action", "state", "keypoint", "n_contacts"):
        assert len(source.read(key, 0, int(source.episode_ends[-1]))) == 25_650
    assert (len(source.episode_ends), source.episode_ends[-1]) == (206, 25_650)
    assert source.shapes["keypoint"] == (9, 2)


def test_a_zip_that_was_cut_short_is_told_from_other_files(tmp_path: Path) -> None:
    path = as_zip(write(tmp_path / "a.zarr"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(path, "a zip without its end: it was cut short; copy or download it again")


def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.zip").write_bytes(b"some bytes")
    monkeypatch.setattr(zarr_files, "open", refuse, raising=False)
    refused(tmp_path / "a.zip", "is not a zarr store ([Errno 13] Permission denied)")


def test_a_zip_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    path = as_zip(write(tmp_path / "a.zarr"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../x.txt", "harmless")
    with pytest.raises(InputError, match=r"holds the member '\.\./x\.txt', which leads out of its folder"):
        ZarrSource(path)


class Touch:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("filters", [["pickle"], ["vlen-utf8", "pickle"]])
def test_data_that_ask_for_pickle_are_refused_and_not_unpickled(tmp_path: Path, filters: list[str]) -> None:
    store = write(tmp_path / "a.zarr", zarr_format=2)
    array = store / "data" / "action"
    metadata = json.loads((array / ".zarray").read_text())
    changed = {"filters": [{"id": name} for name in filters], "dtype": "|O", "fill_value": ""}
    (array / ".zarray").write_text(json.dumps(metadata | changed | {"compressor": None}))
    for chunk in array.glob("[0-9]*"):
        chunk.write_bytes(pickle.dumps(Touch(tmp_path / "trace")))
    with pytest.raises(InputError):
        ZarrSource(store).read("action", 0, 2)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "said",
    [
        "codec not available: ''of_somebody''",
        "Unknown codec: 'of_somebody'",
        "An implementation for codec 'of_somebody' is not available. Register one (see https://a.b/c:d), or",
        "of_somebody",
    ],
)
def test_the_name_of_a_codec_is_found_in_the_words_of_every_version(said: str):
    assert "is stored with the codec of_somebody, which" in _codec_sentence("image", "a", ValueError(said))


def test_of_several_stores_in_a_zip_none_is_taken_for_the_other(tmp_path: Path) -> None:
    """The first in the zip was, without a word; what a store holds is no other one."""
    one, two = (write(tmp_path / name) for name in ("one.zarr", "two.zarr"))
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as file:
        for store in (one, two):
            for item in sorted(store.rglob("*")):
                if item.is_file():
                    file.write(item, item.relative_to(tmp_path))
    with pytest.raises(InputError, match=r"holds 2 stores, one.zarr, two.zarr, and a training reads one"):
        ZarrSource(tmp_path / "both.zip")
    write(one / "before")
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as file:
        for item in sorted(one.rglob("*")):
            if item.is_file():
                file.write(item, item.relative_to(one))
    assert "action" in ZarrSource(tmp_path / "nested.zip").keys


@pytest.mark.parametrize(
    "begins, said",
    [
        (gzip.compress(b"rows", mtime=0), "is compressed with gzip: unpack it"),
        (b"\x28\xb5\x2f\xfdrows", "is compressed with zstd: unpack it"),
        (b"a.zarr".ljust(257, b"\0") + b"ustar", "is an archive of tar: unpack it"),
        (b"<!DOCTYPE html>", "is a page of the web"),
        (b"", "is empty: copy or download it again"),
    ],
    ids=["gzip", "zstd", "tar", "html", "empty"],
)
def test_files_that_have_to_be_unpacked_are_told(tmp_path: Path, begins: bytes, said: str) -> None:
    for name, source in {"a.zarr.gz": ZarrSource, "a.hdf5": RobomimicSource}.items():
        path = tmp_path / name
        path.write_bytes(begins)
        with pytest.raises(InputError, match=f"{name} {said}"):
            source(path)


def test_a_folder_with_the_file_in_it_is_told(tmp_path: Path) -> None:
    """It was said not to exist."""
    (tmp_path / "ph").mkdir()
    (tmp_path / "ph" / "demo.hdf5").touch()
    with pytest.raises(
        InputError, match=r"ph is a folder and not an HDF5 file; did you mean .*ph/demo.hdf5\?"
    ):
        RobomimicSource(tmp_path / "ph")


def test_ends_whose_metadata_are_a_pointer_of_git_lfs_are_told(tmp_path: Path) -> None:
    store = write(tmp_path / "a.zarr")
    (store / "meta/episode_ends/.zarray").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0"
    )
    with pytest.raises(InputError, match=r"episode_ends/\.zarray is a pointer of git LFS"):
        ZarrSource(store)


def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        writer.add_episode({"action": np.ones((4, 2)), "state": np.ones((4, 3))})
    (chunk,) = (tmp_path / "a.zarr/data/state").glob("[0-9]*")
    chunk.unlink()
    chunk.symlink_to(tmp_path / "away")
    source = ZarrSource(tmp_path / "a.zarr")
    assert any("state" in str(part) for part in source.stamp("state"))
    with pytest.raises(InputError, match=r"cannot be read .*No such file.*restore it from a copy"):
        source.read("state", 0, 4)
