"""The exceptions that people who use the library are meant to read, and silence after them."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: What is wrong with a file that is not named, as the system says it of a write: no room, a broken disk.
UNUSABLE_FILE = {errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.ESTALE}
#: Not about files.
OTHER_ERRORS = (ConnectionError, ChildProcessError, InterruptedError, TimeoutError)


class InputError(ValueError):
    """A value, key or file handed in by the user cannot be used.

    The message is one sentence that names what was given, what was expected and what to do. The command
    line prints it without a traceback and exits with status 2.
    """


class TrainingError(RuntimeError):
    """Training cannot go on. The message says where it stopped and from what it can be taken up again."""


class DeadlineError(RuntimeError):
    """A robot's next action was due and not there, and its loop was told to stop then."""


class Stopped(SystemExit):
    """The process was told to end. Every other `SystemExit` is of code that is not ours, and a failure."""


class ExitError(RuntimeError):
    """Code that is not ours called ``sys.exit``."""


@contextmanager
def exits_are_errors() -> Iterator[None]:
    """Make a `SystemExit` of somebody else's code an error like any other that it raises.

    Raises:
        ExitError: There was one.
    """
    try:
        yield
    except Stopped:
        raise
    except SystemExit as error:
        raise ExitError(f"it called sys.exit({error.code!r})") from error


@contextmanager
def reading(what: object, advice: str = "it is damaged: restore it from a copy") -> Iterator[None]:
    """One sentence for whatever a damaged file makes a library raise: their errors have no common class.

    Args:
        what: Is read.
        advice: What to do when that fails.

    Raises:
        InputError: Anything was raised but the errors of this module, which stay what they are.
    """
    try:
        yield
    except (InputError, TrainingError, DeadlineError):
        raise
    except Exception as error:
        raise InputError(
            f"{what} cannot be read ({type(error).__name__}: {first_line(error):.200}); {advice}"
        ) from error


def plain_sentence(error: BaseException | None) -> str | None:
    """The message meant for the user in the chain of causes, or about a place that cannot be written."""
    while error is not None:
        if isinstance(error, InputError | TrainingError):
            return str(error)
        if isinstance(error, OSError) and not isinstance(error, OTHER_ERRORS):
            reason = error.strerror or first_line(error)
            if isinstance(error.filename, str | Path) and not _our_mistake(error):
                return f"{error.filename} cannot be used ({reason}): {_remedy(error.errno)}"
            if error.errno in UNUSABLE_FILE:
                return f"a file cannot be used ({reason}): {_remedy(error.errno)}"
        error = error.__cause__
    return None


def _our_mistake(error: OSError) -> bool:
    """Whether a file may be missing through a fault of the library's: its folder is there."""
    return isinstance(error, FileNotFoundError) and Path(error.filename).parent.is_dir()


def _remedy(number: int | None) -> str:
    """What to do about an error of the system."""
    if number in (errno.ENOSPC, errno.EDQUOT):
        return "make room, or give another path, and give the command again"
    if number in (errno.EIO, errno.ESTALE):
        return "look after its disk, or give another path, and give the command again"
    return "give another path"


def first_line(error: BaseException) -> str:
    """What an error says, in a line, for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException) -> str:
    """All that an error of several lines says, in one."""
    return " ".join(str(error).split())


def compiler_line(error: BaseException) -> str:
    """What is wrong where ``torch.compile`` could not compile: the compiler's own line, if there is one."""
    lines = [line.strip() for line in str(error).splitlines()]
    said: str = next((line for line in lines if "error:" in line), first_line(error))
    return said


@contextmanager
def unraisable_ignored() -> Iterator[None]:
    """Say nothing of errors in destructors: objects that were never finished cannot be freed in order."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = before
