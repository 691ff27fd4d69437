"""Downloads against a server on this computer: broken off, continued, damaged, missing."""

import hashlib
import io
import shutil
import socket
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from shortcut_policy.commands.download import run
from shortcut_policy.data import ZarrSource
from shortcut_policy.data.download import SHA256
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from tests.full_disk import no_room

HDF5 = b"\x89HDF\r\n\x1a\n" + np.random.default_rng(0).bytes(50_000)
SHA = hashlib.sha256(HDF5).hexdigest()


@dataclass
class Server:
    """What the server gives, and what it was asked for."""

    url: str = ""
    content: bytes = HDF5
    ranges: bool = True
    #: Bytes after which it hangs up, one number for each answer.
    cuts: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"first"'})
    #: Answers with these headers first, and leads on to the file.
    redirect: dict[str, str] | None = None
    status: int = 200
    asked: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """A file, with ranges as servers of files have them."""

    state: Server

    def do_GET(self) -> None:
        state = self.state
        if state.redirect is not None and self.path != "/cdn":
            self._head(302, {**state.redirect, "Location": "/cdn", "Content-Length": "0"})
            return
        asked = self.headers["Range"] if state.ranges else None
        state.asked.append(self.headers["Range"])
        if self.headers["If-Range"] not in (None, state.headers.get("ETag")):
            asked = None
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        size = len(state.content)
        if start >= size:
            self._head(416, {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        body = state.content[start:]
        ranged = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if asked else {}
        status = state.status if state.status != 200 else 206 if asked else 200
        self._head(status, {**state.headers, **ranged, "Content-Length": str(len(body))})
        self.wfile.write(body[: state.cuts.pop(0)] if state.cuts else body)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    state = Server()
    handler = type("Handler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        state.url = f"http://127.0.0.1:{listening.server_port}/low_dim.hdf5"
        yield state
        listening.shutdown()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / "low_dim.hdf5"


def download(**settings: Any) -> None:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        run(compose("download", [f"{key}={value}" for key, value in settings.items()]))


def left(target: Path) -> list[str]:
    """What lies where the file goes."""
    return sorted(path.name for path in target.parent.iterdir())


def test_a_file_arrives_and_is_not_fetched_twice(server, target, capsys):
    download(url=server.url, output=target)
    assert target.read_bytes() == HDF5 and left(target) == [target.name]
    assert f"sha256 {SHA}, for which no checksum is published" in capsys.readouterr().out
    download(url=server.url, output=target, sha256=SHA.upper())
    assert "is there already" in capsys.readouterr().out and server.asked == [None]
    with pytest.raises(InputError, match=r"is there already, with sha256 .* delete it to fetch it again"):
        download(url=server.url, output=target, sha256="0" * 64)
    assert target.read_bytes() == HDF5


def test_what_a_process_left_that_was_killed_right_after_is_removed(server, target, capsys):
    """Between the last rename and the removal of what had been fetched."""
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(HDF5)
    for name in ("part", "part.version"):
        target.with_name(f"{target.name}.{name}").write_bytes(b"of an archive")
    download(url=server.url, output=target)
    assert server.asked == [] and left(target) == [target.name]


def test_a_folder_is_not_the_file_in_it(server, tmp_path):
    with pytest.raises(InputError, match=rf"is a folder; .* such as output={tmp_path}/low_dim\.hdf5$"):
        download(url=server.url, output=tmp_path)
    assert server.asked == []


def test_nobody_is_told_to_delete_a_folder(server, tmp_path, capsys):
    download(url=server.url.replace(".hdf5", ".zip"), output=tmp_path)
    assert "is there already; move it away, or choose another output" in capsys.readouterr().out
    assert server.asked == []


def test_a_connection_that_breaks_is_taken_up_again(server, target):
    server.cuts = [20_000, 10_000]
    download(url=server.url, output=target, sha256=SHA)
    assert server.asked == [None, "bytes=20000-", "bytes=30000-"]
    assert target.read_bytes() == HDF5 and left(target) == [target.name]


def test_a_later_run_goes_on_where_the_first_was_stopped(server, target):
    server.cuts = [20_000, 0]
    with pytest.raises(InputError, match=r"try again, which goes on after 0\.0 MB, or fetch .* by hand"):
        download(url=server.url, output=target)
    assert not target.exists() and target.with_name("low_dim.hdf5.part").stat().st_size == 20_000
    server.asked.clear()
    download(url=server.url, output=target)
    assert server.asked == ["bytes=20000-"]
    assert target.read_bytes() == HDF5 and left(target) == [target.name]


def test_ctrl_c_says_how_it_goes_on(server, target, monkeypatch):
    server.cuts = [20_000]
    answers = iter([httpx.stream, None])

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        answer = next(answers)
        if answer is None:
            raise KeyboardInterrupt
        return answer(*args, **kwargs)

    monkeypatch.setattr(httpx, "stream", interrupted)
    with pytest.raises(SystemExit, match=r"goes on after the 0\.0 MB that have arrived"):
        download(url=server.url, output=target)
    assert target.with_name("low_dim.hdf5.part").stat().st_size == 20_000


def test_two_states_of_a_file_are_not_mixed(server, target):
    server.cuts = [20_000, 0]
    with pytest.raises(InputError):
        download(url=server.url, output=target)
    server.content, server.headers = HDF5[:8] + HDF5[:7:-1], {"ETag": '"second"'}
    download(url=server.url, output=target)
    assert target.read_bytes() == server.content and server.asked[-1] == "bytes=20000-"


def test_a_server_without_ranges_begins_again(server, target, capsys):
    server.ranges, server.cuts = False, [20_000]
    download(url=server.url, output=target, sha256=SHA)
    assert server.asked == [None, "bytes=20000-"] and target.read_bytes() == HDF5
    assert "cannot be continued, begins again" in capsys.readouterr().out


@pytest.mark.parametrize("beyond", [0, 5])
def test_a_whole_part_is_only_put_in_place(server, target, beyond):
    target.parent.mkdir()
    target.with_name("low_dim.hdf5.part").write_bytes(HDF5 + b"x" * beyond)
    download(url=server.url, output=target, sha256=SHA)
    assert server.asked == [f"bytes={len(HDF5) + beyond}-", *([None] if beyond else [])]
    assert target.read_bytes() == HDF5 and left(target) == [target.name]


def test_a_wrong_checksum_drops_the_file(server, target):
    with pytest.raises(InputError, match=f"with sha256 {SHA}, but 000.* was expected, so it was dropped"):
        download(url=server.url, output=target, sha256="0" * 64)
    assert left(target) == []


def test_the_checksum_that_hugging_face_announces_is_held(server, target, capsys):
    server.redirect = {"X-Linked-Etag": f'"{SHA}"'}
    download(url=server.url, output=target)
    assert f"sha256 {SHA}, as published" in capsys.readouterr().out
    target.unlink()
    server.redirect = {"X-Linked-Etag": f'"{"1" * 64}"'}
    with pytest.raises(InputError, match=r"but 1111.* was expected"):
        download(url=server.url, output=target)
    # What the user expects counts more.
    download(url=server.url, output=target, sha256=SHA)


def test_what_is_not_such_a_file_is_refused(server, target):
    server.content = b"<!DOCTYPE html><p>Log in to this network</p>"
    with pytest.raises(InputError, match=r"is not a \.hdf5 file \(it begins with b'<!DOCTYPE"):
        download(url=server.url, output=target)
    server.status = 404
    with pytest.raises(InputError, match=f"answers 404 Not Found for {server.url}.* by hand"):
        download(url=server.url, output=target)
    assert left(target) == []


def test_without_a_network_it_says_what_to_fetch(target):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/low_dim.hdf5"
    with pytest.raises(InputError) as raised:
        download(url=url, output=target)
    assert str(raised.value).startswith(f"{urlsplit(url).netloc} cannot be reached (")
    assert str(raised.value).endswith(f": fetch {url} by hand and put it at {target}")
    with pytest.raises(InputError, match=r"and put the folder pusht_cchi_v7_replay.zarr in it at .*/x"):
        download(
            dataset="pusht_human",
            url=url.replace("hdf5", "zip"),
            output=target.parent / "x",
        )


@pytest.mark.parametrize("inside", ["", "pusht/"])
def test_a_store_is_unpacked(server, target, demonstrations, inside):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"__MACOSX/{inside}demos.zarr/._zarr.json", "")
        for path in sorted(demonstrations.rglob("*")):
            archive.write(path, f"{inside}demos.zarr/{path.relative_to(demonstrations)}")
        archive.writestr(f"{inside}other.txt", "not this")
    server.content, store = packed.getvalue(), target.with_name("demos.zarr")
    url = server.url.replace("hdf5", "zip")
    download(url=url, output=store)
    assert np.array_equal(
        ZarrSource(store).read("action", 0, 50), ZarrSource(demonstrations).read("action", 0, 50)
    )
    assert left(target) == ["demos.zarr"]
    shutil.rmtree(store)
    with pytest.raises(InputError, match=r"holds no folder other\.zarr"):
        download(url=url, output=store.with_name("other.zarr"))
    middle = len(server.content) // 2
    server.content = server.content[:middle] + bytes(200) + server.content[middle + 200 :]
    with pytest.raises(InputError, match=r"damaged archive .*, which was dropped: try again"):
        download(url=url, output=store)
    assert left(target) == ["other.zarr.part", "other.zarr.part.version"]


@pytest.mark.parametrize("name", ["../x.txt", "demos.zarr/../../x.txt", "/x.txt", "C:/x.txt", "..\\x.txt"])
def test_an_archive_that_leaves_its_folder_is_refused_before_anything_is_written(server, target, name):
    refused_as_it_is(server, target, zipfile.ZipInfo(name))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO])
def test_an_archive_with_links_is_refused(server, target, kind):
    member = zipfile.ZipInfo("demos.zarr/link")
    member.external_attr = (kind | 0o777) << 16
    refused_as_it_is(server, target, member)


def test_a_folder_above_the_archive_is_not_moved_to_the_output(server, target):
    """The folder looked for is found in ``../../kept/demos.zarr``: it was moved from there."""
    kept = target.parent.parent / "kept" / "demos.zarr"
    kept.mkdir(parents=True)
    refused_as_it_is(server, target, zipfile.ZipInfo("../../kept/demos.zarr/x.txt"))
    assert kept.is_dir()


def refused_as_it_is(server, target, member):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, "harmless")
        archive.writestr("demos.zarr/zarr.json", "{}")
    server.content = packed.getvalue()
    with pytest.raises(InputError, match=r"holds the member .*: nothing was unpacked; take another archive"):
        download(url=server.url.replace("hdf5", "zip"), output=target.with_name("demos.zarr"))
    assert left(target) == []


def test_mistakes_get_a_sentence(server, tmp_path):
    with pytest.raises(InputError, match="dataset=lift is not known; there are pusht_human, lift_ph, "):
        download(dataset="lift")
    with pytest.raises(InputError, match="give dataset=<name>"):
        download(url=server.url)
    with pytest.raises(InputError, match="sha256=abc must be 64 hexadecimal digits"):
        download(dataset="lift_ph", sha256="abc")
    with pytest.raises(InputError, match="must begin with http"):
        download(url="ftp://there/file.hdf5", output=tmp_path / "file.hdf5")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot be written .* give another place as output="):
        download(url=server.url, output=tmp_path / "file" / "low_dim.hdf5")


def test_a_full_disk_names_the_file_that_was_asked_for(server, target, capsys):
    with pytest.raises(InputError, match=r"low_dim\.hdf5 cannot be written") as caught, no_room(10_000):
        download(url=server.url, output=target)
    assert "File too large" in str(caught.value) and ".part" not in str(caught.value)


def test_sources_go_where_their_tasks_look(monkeypatch):
    monkeypatch.setenv("SHORTCUT_POLICY_DATA", "/somewhere")
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        sources = compose("download").sources
        published = {
            path.stem
            for kind in ("ph", "mh", "human")
            for path in (CONFIG_DIR / "task").glob(f"*_{kind}.yaml")
            if "image" not in path.stem  # Push-T's pictures are in the file of its states
        }
        assert len(published) == 10
        assert set(sources) == published | {f"{name}_v141" for name in published - {"pusht_human"}}
        for name in published:
            assert sources[name].path == compose("train", [f"task={name}"]).task.source.path
    for name, source in sources.items():
        assert source.url.endswith(".zip" if name == "pusht_human" else Path(source.path).name)
        assert SHA256.fullmatch(source.get("sha256") or "0" * 64)
