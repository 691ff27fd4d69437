"""The lock against a second process that writes."""

import errno
import fcntl
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from shortcut_policy.errors import InputError
from shortcut_policy.locks import FileLock, remove_left, wait_for_lock


def lock(path: Path) -> FileLock:
    return FileLock(path, "busy: wait", "start no second one")


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with lock(path) as first:
        assert path.exists()
        with pytest.raises(InputError, match=r"^busy: wait$"):
            lock(path)
    first.release()
    assert not path.exists()
    with lock(path):
        first.release()
        assert path.exists(), "a lock that was released takes no other away"


def test_who_waits_gets_it_when_it_is_released(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    held = lock(tmp_path / ".lock")
    threading.Timer(0.3, held.release).start()
    begun = time.monotonic()
    with wait_for_lock(tmp_path / ".lock", "waiting", "start no second one"):
        assert 0.2 < time.monotonic() - begun < 5
    assert capsys.readouterr().err == "waiting\n"


def test_it_ends_with_the_process_however_that_ends(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    taken, tell = os.pipe()
    child = os.fork()
    if child == 0:
        held = lock(path)
        os.write(tell, b"1" if path.exists() else b"0")
        signal.pause()
        held.release()
    assert os.read(taken, 1) == b"1"
    with pytest.raises(InputError):
        lock(path)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert path.exists(), "what is left is a file, not a lock"
    lock(path).release()


def test_a_worker_that_lives_on_does_not_keep_it(tmp_path: Path) -> None:
    held = lock(tmp_path / ".lock")
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        held.release()
        lock(tmp_path / ".lock").release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_file_that_was_removed_in_between_is_not_locked(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one before unlinks the file just before the second one locks what it has opened."""
    path, real, calls = tmp_path / ".lock", fcntl.flock, []

    def flock(file, operation) -> None:
        if not calls:
            path.unlink()
        calls.append(operation)
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(path):
        assert path.exists() and len(calls) == 2
        with pytest.raises(InputError):
            lock(path)


def test_without_locks_it_says_so_and_goes_on(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def flock(file, operation) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with lock(tmp_path / ".lock"), lock(tmp_path / ".lock"):
        pass
    line = (
        f"{tmp_path / '.lock'} cannot be locked ([Errno {errno.ENOLCK}] No locks available): start no second"
    )
    assert capsys.readouterr().err.count(line) == 2


def test_one_that_could_not_be_removed_is_removed_by_who_finds_it(tmp_path, monkeypatch) -> None:
    path = tmp_path / ".lock"
    remove_left(path)
    assert not path.exists(), "none is made"
    with monkeypatch.context() as patched, lock(path):
        patched.setattr(Path, "unlink", failing)
        remove_left(path)
    assert path.exists(), "the case"
    with lock(path):
        remove_left(path)
        assert path.exists(), "somebody holds it"
    path.touch()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", failing)
        remove_left(path)
    remove_left(path)
    assert not path.exists()


def failing(path: Path, missing_ok: bool = False) -> None:
    raise OSError(errno.EROFS, "Read-only file system", str(path))
