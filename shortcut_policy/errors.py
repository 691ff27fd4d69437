"""The exceptions that people who use the library are meant to read, and silence after them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """A value, key or file handed in by the user cannot be used.

    The message is one sentence that names what was given, what was expected and what to do. The command
    line prints it without a traceback and exits with status 2.
    """


class TrainingError(RuntimeError):
    """Training cannot go on. The message says where it stopped and from what it can be taken up again."""


class DeadlineError(RuntimeError):
    """A robot's next action was due and not there, and its loop was told to stop then."""


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


def first_line(error: BaseException) -> str:
    """What an error says, in a line, for a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0]


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
