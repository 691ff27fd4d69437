"""What is not whole never appears: on a full disk, after a kill, beside another program."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from shortcut_policy.data import EpisodeWriter, RobomimicSource
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.in_one_step import in_one_step
from shortcut_policy.data.lerobot_writer import LeRobotSettings
from shortcut_policy.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "convert.py"
ENV_ARGS = '{"env_name": "Mine", "env_version": "1.5.0"}'
FORMATS = ["big.hdf5", "big.lerobot", "big-v0", "big.zarr"]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 MiB of noise, which nothing compresses, as a store and as a file."""
    folder = tmp_path_factory.mktemp("noise")
    random = np.random.default_rng(0)
    (folder / "env_args.json").write_text(ENV_ARGS)
    with EpisodeWriter(folder / "noise.zarr") as writer:
        for _ in range(4):
            image = random.integers(0, 256, (20, 128, 128, 3), np.uint8)
            writer.add_episode({"image": image, "action": random.normal(size=(20, 2))})
    convert(folder / "noise.zarr", folder / "noise.hdf5", ConvertOptions(env_args=folder / "env_args.json"))
    return folder


def arguments(inputs: Path, output: Path) -> list[str]:
    source = "noise.hdf5" if output.suffix == ".zarr" else "noise.zarr"
    more = [f"env_args={inputs / 'env_args.json'}", "fps=10", "lossy=true"]
    return [str(SCRIPT), f"input={inputs / source}", f"output={output}", *more]


def refused(done: subprocess.CompletedProcess, output: Path) -> None:
    """One sentence, and nothing else."""
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith(f"error: there is no space left for {output} (") and "Traceback" not in done.stderr
    assert list(output.parent.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_may_not_grow_ends_in_a_sentence(inputs, tmp_path, name) -> None:
    limited = "import resource as r, runpy, sys; r.setrlimit(r.RLIMIT_FSIZE, (150_000, 150_000)); "
    limited += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    output = tmp_path / name
    command = [sys.executable, "-c", limited, *arguments(inputs, output)]
    refused(subprocess.run(command, capture_output=True, text=True, timeout=300), output)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FORMATS, "film.lerobot"])
def test_a_disk_that_is_full_ends_in_a_sentence(inputs, tmp_path, name) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("a small disk is mounted by root alone")
    (tmp_path / "disk").mkdir()
    output = tmp_path / "disk" / name
    given = [*arguments(inputs, output), *(["videos=true", "crf=0"] if name == "film.lerobot" else [])]
    size = "400k" if name == "film.lerobot" else "2m"
    mounted = (
        f'mount -t tmpfs -o size={size} none {output.parent} || exit 77; "$@"; code=$?; '
        f"ls -A {output.parent} > {tmp_path}/left.txt; exit $code"
    )
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, *given]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no disk can be mounted here")
    refused(done, output)
    assert (tmp_path / "left.txt").read_text() == ""


def test_what_a_killed_conversion_left_is_removed_by_the_next_and_said(inputs, tmp_path) -> None:
    output = tmp_path / "big.hdf5"
    killed = textwrap.dedent(
        """
        import sys, time
        from shortcut_policy.data import convert
        convert._write = lambda recording, to, place, options: (place.write_text("half"), time.sleep(600))
        convert.convert(*sys.argv[1:])
        """
    )
    command = [sys.executable, "-c", killed, str(inputs / "noise.zarr"), str(output)]
    process = subprocess.Popen(command)
    half = tmp_path / ".big.hdf5.partial" / "big.hdf5"
    deadline = time.monotonic() + 120
    while not half.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    again = [sys.executable, *arguments(inputs, output)]
    busy = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert busy.returncode == 2 and f"another program is writing to {output}" in busy.stderr
    assert half.exists(), "what a running one writes stays"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert half.exists()
    done = subprocess.run(again, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"removed {half.parent}, which a run that was killed has left" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["big.hdf5"]
    assert len(RobomimicSource(output).demos) == 4


def test_without_locks_nothing_of_others_is_removed(tmp_path, monkeypatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError("no locks here")

    monkeypatch.setattr("shortcut_policy.locks.fcntl.flock", no_locks)
    (tmp_path / ".a.zarr.partial").mkdir()
    with (
        pytest.raises(InputError, match=r"\.a\.zarr\.partial is there: if no other program writes to"),
        in_one_step(tmp_path / "a.zarr"),
    ):
        pass
    assert (tmp_path / ".a.zarr.partial").is_dir()


@pytest.mark.parametrize("left", [(".a.zarr.lock",), (".a.zarr.lock", ".a.zarr.partial/")])
def test_what_a_process_left_that_was_killed_right_after_is_removed(tmp_path, left) -> None:
    """The output has its name, and what is beside it has not gone yet."""
    output = tmp_path / "a.zarr"
    output.mkdir()
    for name in left:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(InputError, match="is there already"), in_one_step(output):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize(
    "error", [OSError(5, "broken", "b.zarr"), OSError("broken"), RuntimeError("broken"), KeyError("broken")]
)
def test_other_errors_stay_what_they_are(tmp_path, error) -> None:
    with pytest.raises(type(error), match="broken") as raised, in_one_step(tmp_path / "a.zarr") as place:
        place.mkdir()
        raise error
    assert raised.value is error and list(tmp_path.iterdir()) == []


def test_an_error_of_the_system_that_names_no_file_names_the_output(tmp_path) -> None:
    sentence = r"a\.zarr cannot be made \(.*broken\): nothing was written"
    with pytest.raises(InputError, match=sentence), in_one_step(tmp_path / "a.zarr") as place:
        place.mkdir()
        raise OSError(5, "broken")
    assert list(tmp_path.iterdir()) == []


def test_sentences_name_the_output_and_not_where_it_is_until_it_is_whole(tmp_path) -> None:
    output = tmp_path / "a.zarr"
    errors = [
        OSError(30, "read-only", str(tmp_path / ".a.zarr.partial/a.zarr/data")),
        InputError(f"{tmp_path / '.a.zarr.partial/a.zarr'} holds two of a kind"),
        OSError(28, f"unable to write (filename = '{tmp_path / '.a.zarr.partial/a.zarr'}')"),
    ]
    sentences = [
        f"{output} cannot be made (read-only): nothing was written;",
        f"{output} holds two of a kind",
        f"there is no space left for {output} ([Errno 28] unable to write (filename = '{output}')",
    ]
    for error, sentence in zip(errors, sentences, strict=True):
        with pytest.raises(InputError) as raised, in_one_step(output) as place:
            place.mkdir()
            raise error
        assert str(raised.value).startswith(sentence) and ".partial" not in str(raised.value)
        assert list(tmp_path.iterdir()) == []


def test_settings_are_those_of_the_page() -> None:
    assert LeRobotSettings(fps=9999.0).fps == 9999
    for fps in (0, 1e4):
        with pytest.raises(InputError, match=r"fps=.* a number above 0 and below 10000, of steps a second"):
            LeRobotSettings(fps=fps)


def test_a_place_where_nothing_can_be_written_is_no_full_disk(tmp_path, monkeypatch) -> None:
    """Some report no free room at all, as /proc does."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(FileNotFoundError), in_one_step(tmp_path / "a.zarr"):
        raise FileNotFoundError(2, "No such file or directory", str(tmp_path))
    with pytest.raises(InputError, match="there is no space left for"), in_one_step(tmp_path / "a.zarr"):
        raise OSError("HDF5 says so in words")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a system without /proc")
def test_a_folder_that_is_not_of_a_disk_gets_a_sentence() -> None:
    with (
        pytest.raises(InputError, match=r"/proc/a\.zarr cannot be made in /proc: choose another place"),
        in_one_step(Path("/proc/a.zarr")),
    ):
        pass
