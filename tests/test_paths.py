"""Files and folders that appear under their name when they are whole, whatever happens before."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from shortcut_policy import paths
from shortcut_policy.paths import _umask, atomic_folder, atomic_path, atomic_path_alone, named, write_atomic


def die_inside(what: str, path: Path) -> None:
    """A process that ends, as one that is killed does, while it writes ``path``."""
    body = f"""
        import os
        from pathlib import Path
        from shortcut_policy.paths import {what}
        with {what}(Path({str(path)!r})) as temporary:
            (temporary / "half" if temporary.is_dir() else temporary).write_text("half of it")
            os._exit(9)
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(body)], check=False).returncode == 9


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_what_killed_processes_leave_does_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_atomic(path, "before")
    for _ in range(2):
        die_inside("atomic_path", path)
        assert (path.read_text(), len(names(tmp_path))) == ("before", 2)
    write_atomic(path, "after")
    assert (path.read_text(), names(tmp_path)) == ("after", ["result.json"])


def test_nothing_of_a_killed_process_gets_into_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        die_inside("atomic_folder", tmp_path / "store")
        assert len(names(tmp_path)) == 1
    with atomic_folder(tmp_path / "store") as temporary:
        assert names(temporary) == []
        (temporary / "whole").mkdir()
        (temporary / "whole").rename(tmp_path / "store")
    assert names(tmp_path) == ["store"]


def test_two_writers_do_not_take_each_others_files(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with atomic_path(path) as first:
        first.write_text("first")
        with atomic_path(path) as second:
            second.write_text("second")
        assert first.read_text() == "first"
        with atomic_folder(path) as third, atomic_folder(path) as fourth:
            assert len({first, third, fourth}) == 3
            (third / "left").touch()
            assert names(fourth) == []
    assert (path.read_text(), names(tmp_path)) == ("first", ["result.json"])


def test_where_there_are_no_locks_names_are_never_shared(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(paths.fcntl, "flock", refuse)
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"


def test_an_error_of_a_write_names_the_file(tmp_path: Path) -> None:
    no_space = pytest.raises(OSError, match=r"No space left on device.*result\.json")
    with no_space as caught, atomic_path(tmp_path / "result.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(tmp_path / "result.json")
    assert names(tmp_path) == []


def failing(path: Path, *more: Path) -> OSError:
    return OSError(errno.EROFS, os.strerror(errno.EROFS), str(path), None, *map(str, more))


def test_an_error_of_what_is_not_whole_yet_names_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for writing in (atomic_path, atomic_path_alone, atomic_folder):
        for renamed in (False, True):
            with pytest.raises(OSError, match="Read-only") as caught, writing(path) as place:
                raise failing(place, path) if renamed else failing(place / "in it")
            assert (caught.value.filename, caught.value.filename2) == (str(path), None)
            assert str(caught.value).count("result.json") == 1 and ".tmp" not in str(caught.value)
    for other in (tmp_path / ".result.jso.tmp", tmp_path / "in" / ".result.json.tmp", tmp_path / "a.partial"):
        with pytest.raises(OSError, match="Read-only") as caught, atomic_path(path):
            raise failing(other)
        assert caught.value.filename == str(other), "a file of another output"


def test_a_folder_where_nothing_can_be_made_is_told_with_the_name_of_the_output(
    tmp_path, monkeypatch
) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise failing(path)

    monkeypatch.setattr(paths.os, "open", refuse)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_atomic(tmp_path / "a.json", "text")
    assert caught.value.filename == str(tmp_path / "a.json")


def test_other_names_of_what_is_not_whole_are_named_to_it(tmp_path: Path) -> None:
    part = tmp_path / "film.part.mp4"
    for place in (part, tmp_path / "film.mp4/c/0.0.abc.partial", Path(os.path.relpath(part))):
        with pytest.raises(OSError, match="Read-only") as caught, named(tmp_path / "film.mp4", part):
            raise failing(place)
        assert caught.value.filename == str(tmp_path / "film.mp4")


def test_what_safetensors_says_of_the_system_is_an_error_of_the_system(tmp_path: Path) -> None:
    said = "Error while serializing: I/O error: No space left on device (os error 28)"
    no_space = pytest.raises(OSError, match="No space left on device")
    with no_space as caught, atomic_path_alone(tmp_path / "weights"):
        raise SafetensorError(said)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "weights"))
    with pytest.raises(SafetensorError, match="of another kind"), atomic_path_alone(tmp_path / "weights"):
        raise SafetensorError("of another kind")
    assert names(tmp_path) == []


def test_safetensors_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    """It writes to a name of its own, which would stay where a process is killed, and be nobody's."""
    file = tmp_path / "weights"
    die_inside("atomic_path_alone", file)
    with atomic_path_alone(file) as temporary:
        save_file({"x": torch.ones(3)}, temporary)
        (temporary.parent / ".tmpOfAnother").touch()
    assert load_file(file)["x"].tolist() == [1, 1, 1]
    assert names(tmp_path) == ["weights"]
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()
