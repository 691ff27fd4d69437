"""Fetch published demonstrations: continued where a transfer broke off, checked, put in place in one step."""

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from tqdm import tqdm

from shortcut_policy.data.archive import ZIP_ERRORS, check_members
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.source import expand
from shortcut_policy.errors import InputError, Stopped
from shortcut_policy.paths import atomic_folder, named, write_atomic

#: First bytes of a file, by the end of its name.
SIGNATURES = {suffix: b"\x89HDF\r\n\x1a\n" for suffix in HDF5_SUFFIXES} | {".zip": b"PK"}
#: Seconds without a byte after which a connection counts as broken.
TIMEOUT_S = 30
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Download:
    """A file to fetch.

    Attributes:
        url: Its address.
        path: Where it goes.
        sha256: Of what the address gives; None if it is not known.
        folder: The part of an archive that is unpacked to ``path``; None if the file is wanted as it is.
    """

    url: str
    path: Path
    sha256: str | None
    folder: str | None

    @property
    def part(self) -> Path:
        """What has arrived so far."""
        return self.path.with_name(f"{self.path.name}.part")

    @property
    def version(self) -> Path:
        """Says which state of the server's file `part` is of, so that two are never mixed."""
        return self.path.with_name(f"{self.path.name}.part.version")

    @property
    def by_hand(self) -> str:
        """What is left to do where there is no network."""
        what = f"the folder {self.folder} in it" if self.folder else "it"
        return f"fetch {self.url} by hand and put {what} at {self.path}"


@dataclass(frozen=True)
class Published:
    """Demonstrations that somebody has published.

    Attributes:
        url: Their address.
        path: Where the task looks for them.
        sha256: Of what the address gives; None if it is not known.
    """

    url: str
    path: str
    sha256: str | None = None


def put(download: Download) -> None:
    """Fetch a file, check it and put it in place; say so, or that it is there already.

    Raises:
        InputError: The address cannot be reached or has no such file, the file is not what was expected, or
            the place cannot be written to.
    """
    if download.folder is None and download.path.is_dir():
        raise InputError(
            f"{download.path} is a folder; give the name of the file in it, such as "
            f"output={download.path / Path(urlsplit(download.url).path).name}"
        )
    try:
        with named(download.path, download.part, download.version):
            if download.path.exists():
                print(f"{download.path}: {_check_present(download)}")
                _drop(download)  # of a process that was killed right after it had put it in place
                return
            download.path.parent.mkdir(parents=True, exist_ok=True)
            announced = fetch(download)
            sha256 = download.sha256 or announced
            found = _check(download, sha256)
            size = download.part.stat().st_size
            _put_in_place(download)
    except OSError as error:
        raise InputError(
            f"{download.path} cannot be written ({error}); give another place as output=, or set "
            "SHORTCUT_POLICY_DATA to a folder that can be written to"
        ) from error
    checked = "as published" if sha256 else "for which no checksum is published: size and format were checked"
    print(f"{download.path}: written, {size / 1e6:.1f} MB fetched, sha256 {found}, {checked}")


def choose(
    sources: Mapping[str, Published],
    dataset: str | None = None,
    url: str | None = None,
    output: str | None = None,
    sha256: str | None = None,
) -> Download:
    """The source that ``dataset`` names, with the others in place of what they name.

    Args:
        sources: Those that have a name.
        dataset: Name of one; None if ``url`` and ``output`` say it all.
        url: Another address.
        output: Another place.
        sha256: Another checksum.

    Raises:
        InputError: They do not name one file.
    """
    if dataset is not None and dataset not in sources:
        raise InputError(f"dataset={dataset} is not known; there are {', '.join(sources)}")
    known = None if dataset is None else sources[dataset]
    place = None if known is None else known.path
    if known is not None:
        url, output, sha256 = url or known.url, output or place, sha256 or known.sha256
    if url is None or output is None:
        raise InputError(
            f"give dataset=<name> ({', '.join(sources)}), or url=<address> and output=<where to put it>"
        )
    if sha256 is not None and not SHA256.fullmatch(sha256.lower()):
        raise InputError(f"sha256={sha256} must be 64 hexadecimal digits")
    if not url.startswith(("http://", "https://")):
        raise InputError(f"url={url} must begin with http:// or https://")
    packed = _suffix(url) == ".zip" and expand(output).suffix != ".zip"
    folder = expand(place or output).name if packed else None
    return Download(url, expand(output), sha256 and sha256.lower(), folder)


def fetch(download: Download) -> str | None:
    """Let ``download.part`` grow until it is the whole file.

    Returns:
        The SHA-256 that the server announces for it, if it does so as Hugging Face does.

    Raises:
        InputError: The server cannot be reached, sends nothing more, or has no such file.
    """
    while True:
        before = _size(download.part)
        try:
            return _transfer(download)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            size = _size(download.part)
            if size > before:
                continue
            kept = f"try again, which goes on after {size / 1e6:.1f} MB, or " if size else ""
            reason = str(error) or type(error).__name__
            raise InputError(
                f"{urlsplit(download.url).netloc} cannot be reached ({reason}): {kept}{download.by_hand}"
            ) from error
        except KeyboardInterrupt:
            arrived = _size(download.part) / 1e6
            raise Stopped(
                f"stopped: the same command goes on after the {arrived:.1f} MB that have arrived"
            ) from None


def _transfer(download: Download) -> str | None:
    have = _size(download.part)
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if download.version.is_file():
            headers["If-Range"] = download.version.read_text(encoding="utf-8")
    with httpx.stream(
        "GET", download.url, headers=headers, follow_redirects=True, timeout=TIMEOUT_S
    ) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _finish_or_begin_again(download, response)
        if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            raise InputError(
                f"the server answers {response.status_code} {response.reason_phrase} for {download.url}: the "
                "file has moved or may not be fetched; give another address as url=, or put it at "
                f"{download.path} by hand"
            )
        if response.status_code == httpx.codes.OK and have:
            tqdm.write(f"{download.url}: cannot be continued, begins again")
            have = 0
        if not have:
            _note_version(download, response)
        length = response.headers.get("Content-Length")
        with (
            download.part.open("ab" if have else "wb") as file,
            tqdm(
                desc=download.path.name,
                total=have + int(length) if length else None,
                initial=have,
                unit="B",
                unit_scale=True,
                mininterval=1.0,
            ) as bar,
        ):
            # Not in blocks of one size, which would lose the last one where the connection breaks.
            for block in response.iter_raw():
                file.write(block)
                bar.update(len(block))
        return _announced(response)


def _finish_or_begin_again(download: Download, response: httpx.Response) -> str | None:
    """Nothing comes after what has arrived: it is the whole file, or of another one."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    if total == str(_size(download.part)):
        return _announced(response)
    _drop(download)
    return _transfer(download)


def _note_version(download: Download, response: httpx.Response) -> None:
    # A weak tag does not promise the same bytes.
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    download.version.unlink(missing_ok=True)
    if version:
        write_atomic(download.version, version)


def _announced(response: httpx.Response) -> str | None:
    """Hugging Face gives the SHA-256 of a large file in the answer that leads to it."""
    for one in (*response.history, response):
        tag = one.headers.get("X-Linked-Etag", "").strip('"')
        if SHA256.fullmatch(tag):
            return str(tag)
    return None


def _check(download: Download, sha256: str | None) -> str:
    """The SHA-256 of what has arrived; `InputError`, and it is dropped, if it is not what was expected."""
    with download.part.open("rb") as file:
        start = file.read(16)
    suffix = _suffix(download.url) if download.folder else download.path.suffix
    if not start.startswith(SIGNATURES.get(suffix, b"")):
        _drop(download)
        raise InputError(
            f"{download.url} gave something that is not a {suffix} file (it begins with {start!r}); give "
            f"another address as url=, or put it at {download.path} by hand"
        )
    found = _sha256(download.part)
    if sha256 is not None and found != sha256:
        _drop(download)
        raise InputError(
            f"{download.url} gave a file with sha256 {found}, but {sha256} was expected, so it was dropped: "
            "try again, or, if its publisher has changed it and you trust it, give the new one as sha256="
        )
    return found


def _check_present(download: Download) -> str:
    if download.sha256 is None or not download.path.is_file():
        # What lies there may be a folder of much else.
        return "is there already; move it away, or choose another output, to fetch it again"
    found = _sha256(download.path)
    if found != download.sha256:
        raise InputError(
            f"{download.path} is there already, with sha256 {found} and not {download.sha256}: delete it to "
            "fetch it again, or choose another output"
        )
    return f"is there already, sha256 {found}, as published"


def _put_in_place(download: Download) -> None:
    if download.folder:
        _unpack(download, download.folder)
    else:
        os.replace(download.part, download.path)
    _drop(download)


def _unpack(download: Download, folder: str) -> None:
    try:
        with (
            zipfile.ZipFile(download.part) as archive,
            atomic_folder(download.path) as temporary,
        ):
            members = _checked(archive, download)
            root = _folder_in(archive, folder, download)
            archive.extractall(temporary, [one for one in members if one.filename.startswith(root)])
            (temporary / root).rename(download.path)
    except ZIP_ERRORS as error:
        _drop(download)
        raise InputError(
            f"{download.url} gave a damaged archive ({error}), which was dropped: try again"
        ) from error


def _checked(archive: zipfile.ZipFile, download: Download) -> list[zipfile.ZipInfo]:
    """The members of an archive; `InputError`, and it is dropped, if one would leave its folder."""
    try:
        return check_members(archive, download.url)
    except InputError:
        _drop(download)
        raise


def _folder_in(archive: zipfile.ZipFile, name: str, download: Download) -> str:
    """Path of the folder ``name`` in an archive, with a slash at its end."""
    for member in archive.namelist():
        above, found, _ = f"/{member}".partition(f"/{name}/")
        # What macOS adds to its archives.
        if found and not member.startswith("__MACOSX"):
            return f"{above}{found}".removeprefix("/")
    raise InputError(
        f"{download.url} holds no folder {name}; unpack {download.part} by hand, or give another address as "
        "url="
    )


def _drop(download: Download) -> None:
    download.part.unlink(missing_ok=True)
    download.version.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _suffix(url: str) -> str:
    return Path(urlsplit(url).path).suffix


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
