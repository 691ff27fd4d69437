"""A full disk, without a disk."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_room(size: int = 10) -> Iterator[None]:
    """No file grows beyond ``size`` bytes: the system refuses it (EFBIG) as it does on a full disk.

    That holds for the file that pytest catches output in, too: a test whose code prints asks for ``capsys``.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
