"""Zip archives that others made: no member may lead out of the folder that they are unpacked to."""

import lzma
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from shortcut_policy.errors import InputError

#: What zipfile raises of an archive that is damaged, needs a password, or is packed as it does not know.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError)


def check_members(archive: zipfile.ZipFile, name: str | Path) -> list[zipfile.ZipInfo]:
    """The members of an archive, if all are plain files and folders inside of it.

    Args:
        archive: The archive.
        name: What it is called in the sentence.

    Raises:
        InputError: One has an absolute path, goes up (``..``), or is a link or something else that is no
            file; the first such member is named.
    """
    members = archive.infolist()
    for member in members:
        reason = _objection(member)
        if reason is not None:
            raise InputError(
                f"{name} holds the member {member.filename!r}, which {reason}: nothing was unpacked; take "
                "another archive, or pack its folder again"
            )
    return members


def _objection(member: zipfile.ZipInfo) -> str | None:
    # Some programs on Windows write backslashes.
    name = member.filename.replace("\\", "/")
    if name.startswith("/") or name[1:2] == ":":
        return "has an absolute path"
    if ".." in PurePosixPath(name).parts:
        return "leads out of its folder"
    # The upper half holds the mode, with the kind of file, where a Unix program has written it.
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is no file"
    return None
