"""Stores written episode by episode: what is in them, what is refused, and what is left after a crash."""

import asyncio
import errno
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from shortcut_policy.data import EpisodeWriter, RobomimicSource, ZarrSource
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


def episode(number: int) -> dict[str, np.ndarray]:
    """Deterministic, of a length of its own, with enough images to spread over several chunk files."""
    rng = np.random.default_rng(number)
    length = int(rng.integers(30, 60))
    return {
        "action": rng.normal(size=(length, 2)).astype(np.float32),
        "image": rng.integers(0, 256, (length, 64, 64, 3), np.uint8),
        "reward": np.zeros(length),
    }


def write(path: Path, numbers: range, **options: object) -> Path:
    with EpisodeWriter(path, **options) as writer:
        for number in numbers:
            writer.add_episode(episode(number))
    return path


def check(source: ZarrSource, n_episodes: int) -> None:
    assert len(source.episode_ends) == n_episodes
    start = 0
    for number, stop in enumerate(source.episode_ends.tolist()):
        for key, values in episode(number).items():
            np.testing.assert_array_equal(source.read(key, start, stop), values)
        start = stop


def files(path: Path) -> dict[str, bytes]:
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


@FORMATS
def test_what_is_written_is_read(tmp_path: Path, zarr_format: int) -> None:
    source = ZarrSource(
        write(tmp_path / "a.zarr", range(4), zarr_format=zarr_format, attributes={"robot": "arm"})
    )
    check(source, 4)
    assert source.dtypes == {"action": np.float32, "image": np.uint8, "reward": np.float64}
    assert source.attributes == {"robot": "arm"}
    assert zarr.open_group(source.path, mode="r").metadata.zarr_format == zarr_format


@pytest.mark.slow
@FORMATS
def test_appending_gives_the_bytes_of_writing_at_once(tmp_path: Path, zarr_format: int) -> None:
    at_once = write(tmp_path / "a.zarr", range(6), zarr_format=zarr_format)
    piecewise = write(tmp_path / "b.zarr", range(2), zarr_format=zarr_format)
    write(piecewise, range(2, 6))
    assert files(piecewise) == files(at_once)
    assert files(write(tmp_path / "c.zarr", range(6), zarr_format=zarr_format)) == files(at_once)


def test_small_keys_are_a_file_each(tmp_path: Path) -> None:
    names = files(write(tmp_path / "a.zarr", range(8)))
    chunks = [n for n in names if not Path(n).name.startswith(".") and "image" not in n]
    assert sorted(chunks) == ["data/action/0.0", "data/reward/0", "meta/episode_ends/0"]


def test_appends_to_a_store_made_elsewhere(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    first = episode(0)
    for key, values in first.items():
        config = {"write_empty_chunks": True}
        group.create_array(f"data/{key}", data=values, chunks=(4, *values.shape[1:]), config=config)
    group.create_array("meta/episode_ends", data=np.array([len(first["action"])]))
    zarr.consolidate_metadata(tmp_path / "a.zarr")
    write(tmp_path / "a.zarr", range(1, 4))
    check(ZarrSource(tmp_path / "a.zarr"), 4)
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["meta/episode_ends"].shape == (4,)


def test_overwrite(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", range(3), attributes={"old": 1})
    write(tmp_path / "a.zarr", range(1), overwrite=True, zarr_format=3)
    check(ZarrSource(tmp_path / "a.zarr"), 1)
    assert ZarrSource(tmp_path / "a.zarr").attributes == {}


def test_counts_and_attributes_on_reopening(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", range(3), attributes={"robot": "arm", "seed": 1})
    with EpisodeWriter(tmp_path / "a.zarr", attributes={"seed": 2}) as writer:
        assert (writer.n_episodes, writer.n_steps) == (3, sum(len(episode(i)["action"]) for i in range(3)))
    assert ZarrSource(tmp_path / "a.zarr").attributes == {"robot": "arm", "seed": 2}


@FORMATS
def test_readable_while_it_is_written(tmp_path: Path, zarr_format: int) -> None:
    with EpisodeWriter(tmp_path / "a.zarr", zarr_format=zarr_format) as writer:
        with pytest.raises(InputError):
            ZarrSource(tmp_path / "a.zarr")
        for number in range(3):
            writer.add_episode(episode(number))
            check(ZarrSource(tmp_path / "a.zarr"), number + 1)


def test_an_exception_keeps_the_episodes_before_it(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), EpisodeWriter(tmp_path / "a.zarr") as writer:
        writer.add_episode(episode(0))
        writer.add_episode({key: values[: 1 // 0] for key, values in episode(1).items()})
    check(ZarrSource(tmp_path / "a.zarr"), 1)


def changed(**replaced: object) -> dict:
    return {key: value for key, value in (episode(1) | replaced).items() if value is not None}


def image(length: int) -> np.ndarray:
    return np.zeros((length, 64, 64, 3), np.uint8)


LENGTH = len(episode(1)["action"])
NAN = np.where(np.arange(2 * LENGTH).reshape(LENGTH, 2) == 7, np.nan, 0.0).astype(np.float32)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (changed(reward=None), "has the keys action, image, but the store holds action, image, reward"),
        (changed(force=np.zeros(LENGTH)), "has the keys action, force, image, reward"),
        (changed(reward=np.zeros(LENGTH - 1)), f"same number of steps.*action {LENGTH}.*reward {LENGTH - 1}"),
        (changed(reward=np.zeros(LENGTH, np.float32)), "'reward' is float32 .* holds float64"),
        (changed(action=np.zeros((LENGTH, 3), np.float32)), r"'action' is float32 of shape \[3\] .* \[2\]"),
        (changed(action=NAN), "'action' holds NaN or Inf at step 3 of"),
        (changed(reward=["a"] * LENGTH), "'reward' must be an array of numbers"),
        (changed(reward=1.0), "'reward' must be an array of numbers"),
        (changed(reward=np.array([None] * LENGTH)), r"row per step, not array\(\[None, None[^\n]*$"),
        (
            changed(obs={"arm": np.zeros((LENGTH, 2)), "hand": np.zeros((LENGTH, 2))}),
            "'obs' is a mapping: give what is in it by keys of their own, obs_arm, obs_hand$",
        ),
        (changed(reward=[[1.0], [1.0, 2.0]]), "'reward' is not an array"),
        (
            {"action": np.zeros((0, 2), np.float32), "image": image(0), "reward": []},
            "at least 1; got action 0",
        ),
        ({}, "got no keys"),
        (changed(**{"a/b": np.zeros(LENGTH)}), "'a/b' cannot be a key"),
    ],
)
def test_bad_episodes_leave_the_store_as_it_was(tmp_path: Path, bad: dict, message: str) -> None:
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        writer.add_episode(episode(0))
        before = files(tmp_path / "a.zarr")
        with pytest.raises(InputError, match=f"episode 1 for .*{message}"):
            writer.add_episode(bad)
        assert files(tmp_path / "a.zarr") == before
        writer.add_episode(episode(1))
    check(ZarrSource(tmp_path / "a.zarr"), 2)


def test_what_the_system_says_without_a_name_has_that_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As zarr's own error of a full disk."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with EpisodeWriter(tmp_path / "demos.zarr") as writer:
        writer.add_episode(episode(0))
        with monkeypatch.context() as patched, pytest.raises(OSError, match=r"demos\.zarr"):
            patched.setattr(EpisodeWriter, "_put", full)
            writer.add_episode(episode(1))
        writer.add_episode(episode(1))
    with monkeypatch.context() as patched, pytest.raises(OSError, match=r"new\.zarr"):
        patched.setattr(EpisodeWriter, "_open", full)
        EpisodeWriter(tmp_path / "new.zarr")
    assert len(ZarrSource(tmp_path / "demos.zarr").episode_ends) == 2


def test_what_zarr_writes_on_after_an_error_is_dropped_by_the_next_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its threads do not stop with the one that found no room."""

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "demos.zarr"
    with pytest.raises(OSError, match=r"demos\.zarr"), EpisodeWriter(path) as writer:
        monkeypatch.setattr(EpisodeWriter, "_put", full)
        writer.add_episode(episode(0))
    monkeypatch.undo()
    (path / "data" / "state").mkdir(parents=True)
    (path / "data" / "state" / ".zattrs").write_text("{}")
    with EpisodeWriter(path) as writer:
        writer.add_episode(episode(0))
    check(ZarrSource(path), 1)
    assert "recording" not in ZarrSource(path).attributes


def test_a_closed_writer_is_closed(tmp_path: Path) -> None:
    writer = EpisodeWriter(tmp_path / "a.zarr")
    writer.add_episode(episode(0))
    writer.close()
    writer.close()
    with pytest.raises(InputError, match="the writer is closed"):
        writer.add_episode(episode(1))


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_second_writer_is_refused_until_the_first_is_closed(tmp_path: Path, overwrite: bool) -> None:
    path, other = tmp_path / "a.zarr", tmp_path / "link.zarr"
    other.symlink_to(path)
    with EpisodeWriter(path) as writer:
        writer.add_episode(episode(0))
        before = files(path)
        for name in (path, other):
            with pytest.raises(InputError, match=rf"another program is writing to {path}: wait for it, .*"):
                EpisodeWriter(name, overwrite=overwrite)
        assert files(path) == before
        check(ZarrSource(path), 1)
        writer.add_episode(episode(1))
    check(ZarrSource(path), 2)
    write(other, [2])
    check(ZarrSource(path), 3)
    assert {p.name for p in tmp_path.iterdir()} == {"a.zarr", "link.zarr"}, "no lock is left"


def test_a_writer_that_cannot_begin_locks_nobody_out(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", name="observations", data=np.arange(3), zarr_format=2)
    for _ in range(2):
        with pytest.raises(InputError, match="lacks data/"):
            EpisodeWriter(tmp_path / "a.zarr")


@pytest.mark.parametrize("overwrite", [True, False])
def test_other_things_are_left_alone(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("text")
    (tmp_path / "file").write_text("text")
    for name, message in [
        ("thesis", "not a zarr store"),
        ("file", "is a file"),
        ("a.zip", "a zip cannot grow"),
    ]:
        with pytest.raises(InputError, match=message):
            EpisodeWriter(tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize(
    ("name", "zarr_format", "message"),
    [
        ("observations", 2, "lacks data/ or meta/episode_ends"),
        (None, 2, "is a directory but not a zarr store"),
        (None, 3, "is no zarr group that can be read"),
    ],
)
def test_a_zarr_store_of_another_layout_is_left_alone(
    tmp_path: Path, overwrite: bool, name: str | None, zarr_format: int, message: str
) -> None:
    zarr.create_array(tmp_path / "a.zarr", name=name, data=np.arange(3), zarr_format=zarr_format)
    if name is not None:
        zarr.consolidate_metadata(tmp_path / "a.zarr")
    before = files(tmp_path / "a.zarr")
    with pytest.raises(InputError, match=message):
        EpisodeWriter(tmp_path / "a.zarr", overwrite=overwrite)
    assert files(tmp_path / "a.zarr") == before


@pytest.mark.parametrize("attributes", [{"recording": True}, {"array": np.zeros(2)}, {"loss": float("nan")}])
def test_attributes_that_cannot_be_kept(tmp_path: Path, attributes: dict) -> None:
    with pytest.raises(InputError, match="attribute"):
        EpisodeWriter(tmp_path / "a.zarr", attributes=attributes)


def test_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zarr_format=4"):
        EpisodeWriter(tmp_path / "a.zarr", zarr_format=4)


RECORD = """
import sys
from test_writer import EpisodeWriter, episode
with EpisodeWriter(sys.argv[1], zarr_format=int(sys.argv[2])) as writer:
    while writer.n_episodes < int(sys.argv[3]):
        writer.add_episode(episode(writer.n_episodes))
        print(writer.n_episodes, flush=True)
"""


@pytest.mark.slow
@FORMATS
def test_kill_at_any_moment_loses_no_whole_episode(tmp_path: Path, zarr_format: int) -> None:
    """`kill -9` at random moments; whoever comes next continues, and the bytes are those of no crash."""
    total, rng = 12, np.random.default_rng(zarr_format)
    path, done = tmp_path / "a.zarr", 0
    command = [sys.executable, "-c", RECORD, str(path), str(zarr_format), str(total)]
    for _ in range(3):
        recorder = subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True)
        assert recorder.stdout is not None
        for _ in range(int(rng.integers(1, 3))):
            done = int(recorder.stdout.readline())
        try:
            recorder.wait(timeout=rng.uniform(0, 0.06))
        except subprocess.TimeoutExpired:
            recorder.kill()
        done = max([done, *map(int, recorder.stdout)])
        recorder.wait()
        source = ZarrSource(path)
        assert len(source.episode_ends) in (done, done + 1)
        check(source, len(source.episode_ends))
    write(path, range(len(source.episode_ends), total))
    assert files(path) == files(write(tmp_path / "straight.zarr", range(total), zarr_format=zarr_format))


class _Killed(BaseException):
    """Stands for the end of the process: nothing after it runs."""


async def _settle() -> None:
    """Wait for what zarr still does side by side: a process that dies would take it along."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)


@pytest.mark.slow
@FORMATS
def test_death_before_any_single_write(
    tmp_path: Path, zarr_format: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop the storage layer before its first, second, ... write of two episodes, and reopen each time."""
    from zarr.core.sync import sync
    from zarr.storage import LocalStore

    straight = files(write(tmp_path / "straight.zarr", range(2), zarr_format=zarr_format))
    original, writes = LocalStore._set, [0]

    for limit in range(200):
        path = tmp_path / f"{limit}.zarr"
        writes[0] = limit

        async def counted(self: LocalStore, key: str, value: object, exclusive: bool = False) -> None:
            if writes[0] == 0:
                raise _Killed
            writes[0] -= 1
            await original(self, key, value, exclusive)

        with monkeypatch.context() as patch:
            patch.setattr(LocalStore, "_set", counted)
            finished, writer = 0, None
            try:
                writer = EpisodeWriter(path, zarr_format=zarr_format)
                for number in range(2):
                    writer.add_episode(episode(number))
                    finished = number + 1
                writer.close()
            except _Killed:
                sync(_settle())
                if writer is not None:
                    writer._lock.release()  # as the system does when a process dies
            else:
                break
        if finished:
            check(ZarrSource(path), len(ZarrSource(path).episode_ends))
            assert len(ZarrSource(path).episode_ends) >= finished
        with EpisodeWriter(path, zarr_format=zarr_format) as writer:
            assert writer.n_episodes >= finished
            for number in range(writer.n_episodes, 2):
                writer.add_episode(episode(number))
        assert files(path) == straight, f"after write {limit}"
    assert 15 < limit < 199


def test_an_episode_that_is_no_mapping_or_a_key_that_is_no_text(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        with pytest.raises(InputError, match="give a mapping of keys to arrays, not NoneType"):
            writer.add_episode(None)
        with pytest.raises(InputError, match="'3' cannot be a key"):
            writer.add_episode({3: np.zeros((2, 1))})


@FORMATS
def test_the_last_episode_can_be_taken_out_again(tmp_path: Path, zarr_format: int) -> None:
    with EpisodeWriter(tmp_path / "a.zarr", zarr_format=zarr_format) as writer:
        for number in (0, 1, 7):
            writer.add_episode(episode(number))
        writer.remove_last()
        check(ZarrSource(tmp_path / "a.zarr"), 2)
        writer.add_episode(episode(2))
    assert files(tmp_path / "a.zarr") == files(write(tmp_path / "b.zarr", range(3), zarr_format=zarr_format))
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        for left in (2, 1, 0):
            writer.remove_last()
            assert writer.n_episodes == left
        with pytest.raises(InputError, match="there is no episode to remove"):
            writer.remove_last()
        writer.add_episode(episode(0))
    check(ZarrSource(tmp_path / "a.zarr"), 1)


@pytest.mark.parametrize("count", [1, 2])
def test_a_process_that_dies_while_it_takes_an_episode_out_leaves_whole_ones(
    tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every call that changes a file: the store holds the episode, or does not, and can be continued."""
    calls = 0
    for stop_at in range(30):
        path = tmp_path / f"{stop_at}.zarr"
        writer = EpisodeWriter(write(path, range(count)))
        calls = 0

        def dies(original: object, stop_at: int = stop_at) -> object:
            def call(*arguments: object, **options: object) -> object:
                nonlocal calls
                calls += 1
                if calls > stop_at:
                    raise KeyboardInterrupt
                return original(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(zarr.Array, "resize", dies(zarr.Array.resize))
            patch.setattr(zarr.Array, "__setitem__", dies(zarr.Array.__setitem__))
            patch.setattr("shortcut_policy.data.writer.shutil.rmtree", dies(shutil.rmtree))
            try:
                writer.remove_last()
                finished = True
            except KeyboardInterrupt:
                finished = False
        writer._lock.release()
        with EpisodeWriter(path) as later:
            assert later.n_episodes in ({count - 1} if finished else {count - 1, count})
            later.add_episode(episode(later.n_episodes))
            left = later.n_episodes
        check(ZarrSource(path), left)
        if finished:
            return
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_that_vanishes_is_not_begun_anew_in_its_place(tmp_path: Path, zarr_format: int) -> None:
    """Half a store, without its first arrays, would pass for the whole one."""
    path, episode = tmp_path / "demos.zarr", {"action": np.ones((20, 2), np.float32)}
    with (
        pytest.raises(InputError, match=r"demos\.zarr has gone while it was written to: put it back"),
        EpisodeWriter(path, zarr_format=zarr_format) as writer,
    ):
        writer.add_episode(episode)
        path.rename(tmp_path / "elsewhere.zarr")
        writer.add_episode(episode)
    assert not path.exists()
    (tmp_path / "elsewhere.zarr").rename(path)
    writer = EpisodeWriter(path)
    assert writer.n_episodes == 1
    path.rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(InputError, match="has gone"):
        writer.close()
    assert not path.exists() and not list(tmp_path.glob(".*"))


def test_a_writer_that_died_at_its_first_attribute_leaves_nothing(tmp_path: Path) -> None:
    """Before it there is no mark that the store was being written."""
    path = tmp_path / "demos.zarr"
    path.mkdir()
    (path / ".zgroup").write_text('{"zarr_format": 2}')
    (path / ".zattrs.0123456789abcdef0123456789abcdef.partial").write_text('{"rec')
    with EpisodeWriter(path) as writer:
        writer.add_episode({"action": np.ones((20, 2), np.float32)})
    assert not list(path.rglob("*.partial"))


def test_a_recording_without_an_episode_is_called_so(tmp_path):
    """Its last one was taken out again, and then it was ended, or it still runs."""
    path = tmp_path / "demos.zarr"
    with EpisodeWriter(path, attributes={"expert": "human"}) as writer:
        writer.add_episode({"action": np.zeros((3, 2))})
        writer.remove_last()
        with pytest.raises(InputError, match=r"holds no array: it is a recording without an episode"):
            ZarrSource(path)
    with pytest.raises(InputError, match=r"holds no array: it is a recording without an episode, of which"):
        ZarrSource(path)


def test_a_robomimic_file_that_is_not_completed_is_called_so(tmp_path):
    pytest.importorskip("h5py")
    path = tmp_path / "demos.hdf5"
    env_args = '{"env_name": "Mine", "env_version": "1.5.0"}'
    with RobomimicWriter(path, {"env_args": env_args}) as writer:
        writer.add_episode({"actions": np.zeros((3, 2)), "obs/x": np.zeros((3, 1))})
        with pytest.raises(
            InputError, match=r"its 1 episodes are in .*demos.hdf5.parts; run the command that"
        ):
            RobomimicSource(path)
        writer.remove_last()
    with pytest.raises(
        InputError, match=r"demos.hdf5 is a recording without an episode: record at least one"
    ):
        RobomimicSource(path)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.ma.masked_greater(np.arange(3.0), 1), "'a' has numbers that are masked"),
        pytest.param(
            np.zeros(3, np.longdouble),
            r"'a' is float\d+, which no store holds; give float64",
            marks=pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="it is float64 here"),
        ),
        (torch.zeros(3, requires_grad=True), r"'a' is not an array \(Can't call numpy"),
        (torch.zeros(3, dtype=torch.bfloat16), "'a' is not an array"),
    ],
    ids=["masked", "long double", "gradient", "bfloat16"],
)
def test_what_no_store_can_hold_as_it_is_is_one_sentence(tmp_path: Path, values, sentence: str) -> None:
    with EpisodeWriter(tmp_path / "a.zarr") as writer:
        writer.add_episode({"a": np.ma.masked_greater(np.arange(3.0), 9)})
        with pytest.raises(InputError, match=sentence):
            writer.add_episode({"a": values})
    assert ZarrSource(tmp_path / "a.zarr").read("a", 0, 9).tolist() == [0, 1, 2]
