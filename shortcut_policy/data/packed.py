"""Files of another kind than was asked for, told by their first bytes."""

from pathlib import Path

#: First bytes -> what a file is, and what to do.
KINDS = {
    b"\x1f\x8b": "is compressed with gzip: unpack it, with gunzip or tar -xzf",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd: unpack it, with unzstd or tar --zstd -xf",
    b"\xfd7zXZ": "is compressed with xz: unpack it, with unxz or tar -xJf",
    b"BZh": "is compressed with bzip2: unpack it, with bunzip2 or tar -xjf",
    b"7z\xbc\xaf": "is an archive of 7z: unpack it",
    b"Rar!": "is an archive of rar: unpack it",
    b"\x89HDF": "is an HDF5 file: the source RobomimicSource reads those of robomimic, called .hdf5",
    b"<!DOCTYPE": "is a page of the web: download the file itself",
    b"<html": "is a page of the web: download the file itself",
}
#: Of an archive of tar, and where it stands.
TAR, TAR_AT = b"ustar", 257


def other_kind(path: str | Path) -> str | None:
    """What a file is, if it is none of demonstrations, with advice, for after its name; None if unknown."""
    with open(path, "rb") as file:
        begins = file.read(TAR_AT + len(TAR))
    if not begins:
        return "is empty: copy or download it again"
    if begins[TAR_AT:] == TAR:
        return "is an archive of tar: unpack it, with tar -xf"
    return next((what for first, what in KINDS.items() if begins.startswith(first)), None)
