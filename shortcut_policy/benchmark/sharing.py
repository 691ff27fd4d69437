"""Several processes at one benchmark: each takes the parts that nobody else has taken.

``<output>/parts`` holds the state of each part, its lock while it is made, and its log if a worker made it.
A *session* lasts from the first process that begins until none is at work any more. Within it a part that
failed is left alone. All that holds between sessions are the finished runs and evaluations themselves.
"""

import fcntl
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from shortcut_policy.errors import InputError, first_line, plain_sentence
from shortcut_policy.locks import FileLock, remove_left
from shortcut_policy.paths import named, write_atomic
from shortcut_policy.settings import flatten
from shortcut_policy.training.comparison import first_difference

#: A part at which so many processes of a session were lost counts as failed: it may be what ends them.
LOST = 3
#: Seconds after the last sign of life of the command that has started workers, when it counts as ended.
FRESH = 60.0


class Outcome(StrEnum):
    """How a part ended; BUSY: another process is at it."""

    DONE = "done"
    FAILED = "failed"
    BUSY = "busy"


@dataclass(frozen=True)
class Part:
    """What one process does alone.

    Attributes:
        name: Of its files, also the folder below the output that it makes.
        title: For announcements.
        kind: Parts of one kind take about as long.
    """

    name: str
    title: str
    kind: str


@dataclass(frozen=True)
class State:
    """What a session knows of a part.

    Attributes:
        begun: How often a process has begun it, and was not asked to end meanwhile.
        ended: How it ended; None if it did not yet.
        seconds: That it took; None if it was found finished.
        sentence: What its failure says.
    """

    begun: int = 0
    ended: Outcome | None = None
    seconds: float | None = None
    sentence: str = ""


class Stopped(Exception):
    """The command that has started the workers was told to end."""


class Session:
    """The processes that are at work on a benchmark, seen from one of them.

    Args:
        output: Folder of the benchmark.
        settings: All that all of them have in common, as JSON holds it.
        started_by: Of a worker: `Session.name` of the command that has started it; None for a command.

    Raises:
        InputError: A benchmark of other settings is at work there; or a worker does not see the folder or the
            locks of the command that has started it.
    """

    def __init__(self, output: Path, settings: Mapping[str, Any], started_by: str | None = None) -> None:
        self.output, self.folder, self.started_by = output, output / "parts", started_by
        self._settings = json.loads(json.dumps(settings, default=str))
        self._stack = ExitStack()
        self.name, self._locks = "", True

    def __enter__(self) -> Self:
        with named(self._about):  # what could not be written is tried once more when the file is closed
            try:
                self._join()
                if self.started_by is not None:
                    self._check_reach()
            except BaseException:
                self._stack.close()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def state(self, part: Part) -> State:
        """What is known of a part, of this session."""
        try:
            stored = json.loads(self._file(part, ".json").read_text(encoding="utf-8"))
            if stored.pop("session") != self.name:
                return State()
            ended = stored.pop("ended")
            return State(**stored, ended=None if ended is None else Outcome(ended))
        except (FileNotFoundError, NotADirectoryError):
            return State()

    def do(self, part: Part, work: Callable[[], bool], keep_error: bool = False) -> Outcome:
        """Do a part, if it has not ended and no other process is at it.

        Args:
            part: Which.
            work: Does it, or finds it finished, and returns whether there was something to do.
            keep_error: Raise what it raises, too.

        Raises:
            Stopped: No part is to be begun any more.
        """
        if (known := self.state(part)).ended is not None:
            return known.ended
        if (self.folder / "stop").is_file():
            raise Stopped
        try:
            lock = self._lock(part)
        except InputError:
            return Outcome.BUSY
        with lock:
            known = self.state(part)
            if known.ended is not None:
                return known.ended
            if known.begun >= LOST:
                return self._end(part, State(known.begun, Outcome.FAILED, None, self._of_lost(part)))
            self._write(part, State(known.begun + 1))
            start, failure = time.monotonic(), None
            try:
                with self._logged(part):
                    try:
                        made = work()
                    except Exception as error:
                        failure, sentence = error, _sentence(error)
                        if self.started_by is not None:
                            print(f"error: {sentence}", file=sys.stderr)  # the last line of the log
            except BaseException:
                self._write(part, known)  # nothing is wrong with a part whose process was asked to end
                raise
            if failure is None:
                seconds = time.monotonic() - start if made else None
                return self._end(part, State(known.begun + 1, Outcome.DONE, seconds))
            outcome = self._end(part, State(known.begun + 1, Outcome.FAILED, None, sentence))
            if keep_error:
                raise failure
            return outcome

    @contextmanager
    def leading(self) -> Iterator[None]:
        """Be the command that starts workers.

        Raises:
            InputError: Another one is it.
        """
        if not self._locks:
            raise InputError(
                f"output={self.output} is on a file system without locks, which several workers need: give "
                "workers=0, or an output elsewhere"
            )
        busy = f"another command has started workers in {self.output}: wait for it, or give another output"
        with FileLock(self._head, busy, ""):
            (self.folder / "stop").unlink(missing_ok=True)
            yield

    def sign_of_life(self) -> None:
        """Say that the command that has started the workers is still there."""
        os.utime(self._head)

    def stop(self) -> None:
        """Let no worker begin another part."""
        (self.folder / "stop").touch()

    def log(self, part: Part) -> Path:
        """Where a worker writes what it would print while it makes a part."""
        return self._file(part, ".log")

    @property
    def _about(self) -> Path:
        return self.folder / "session.json"

    @property
    def _head(self) -> Path:
        return self.folder / "head.lock"

    def _file(self, part: Part, suffix: str) -> Path:
        return self.folder / f"{part.name}{suffix}"

    def _lock(self, part: Part) -> Any:
        path = self._file(part, ".lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(path, "", "") if self._locks else nullcontext()

    def _write(self, part: Part, state: State) -> None:
        write_atomic(self._file(part, ".json"), json.dumps({"session": self.name, **asdict(state)}) + "\n")

    def _end(self, part: Part, state: State) -> Outcome:
        self._write(part, state)
        assert state.ended is not None
        if state.ended is Outcome.FAILED:
            print(f"failed: {part.title}: {state.sentence}", file=sys.stderr)
        return state.ended

    @contextmanager
    def _logged(self, part: Part) -> Iterator[None]:
        """A worker prints into the part's log; a command prints where it is."""
        if self.started_by is None:
            yield
            return
        again = self.state(part).begun > 1
        log = self.log(part).open("a" if again else "w", encoding="utf-8", buffering=1)
        with log as file, redirect_stdout(file), redirect_stderr(file):
            yield

    def _of_lost(self, part: Part) -> str:
        said = last_line(self.log(part))
        last = f", and its log ends in: {said}" if said else ""
        return f"{LOST} workers were lost at it{last}"

    def _join(self) -> None:
        """Found a session or, if there is one with the same settings, be of it."""
        path, begins = self._about, self.started_by is None
        if self.started_by is None:
            self.folder.mkdir(parents=True, exist_ok=True)
        elif not path.is_file():
            raise self._elsewhere()
        file = self._stack.enter_context(path.open("a+", encoding="utf-8"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody is at work
            begins = False
        except OSError as error:
            print(f"{path} cannot be locked ({error}): start no second benchmark there", file=sys.stderr)
            self._locks, begins = False, True
        if begins:
            self._found(file)
        if self._locks:
            fcntl.flock(file, fcntl.LOCK_SH)  # shared by all that are at work, and for no one to begin anew
            self._stack.callback(fcntl.flock, file, fcntl.LOCK_UN)
        stored = self._read(file)
        if self.started_by not in (None, stored["name"]):
            raise self._elsewhere()
        if difference := first_difference(flatten(stored["settings"]), flatten(self._settings)):
            key, there, here = difference
            raise InputError(
                f"a benchmark with {key}={there}, not {here}, is at work in {self.output}: wait for it, or "
                "give another output"
            )
        self.name = stored["name"]
        if self.started_by is not None:
            # What is written down is the command that somebody gave.
            sys.argv[:] = stored["argv"]

    def _found(self, file: IO[str]) -> None:
        file.truncate(0)
        name = f"{platform.node()} {os.getpid()} {time.time_ns()}"
        file.write(json.dumps({"name": name, "argv": sys.argv, "settings": self._settings}) + "\n")
        file.flush()
        (self.folder / "stop").unlink(missing_ok=True)
        for lock in self.folder.rglob("*.lock"):  # of parts and commands that may not come again
            remove_left(lock)

    @staticmethod
    def _read(file: IO[str]) -> dict[str, Any]:
        file.seek(0)
        stored: dict[str, Any] = json.loads(file.read())
        return stored

    def _elsewhere(self) -> InputError:
        return InputError(
            f"{self.output.absolute()} on {platform.node()} is not the output of the command that has "
            "started this worker: give an output that all machines see under the same path, or, if that "
            "command has ended, give it again"
        )

    def _check_reach(self) -> None:
        """Refuse to work where the lock of the command that has started this worker does not keep anyone out.

        Some network file systems keep locks between the processes of one machine alone.
        """
        try:
            file = self._head.open()
        except FileNotFoundError:
            return  # it has ended
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            now = self.folder / f".{platform.node()}_{os.getpid()}"
            now.touch()
            age = now.stat().st_mtime - os.fstat(file.fileno()).st_mtime
            now.unlink()
            if self._head.exists() and age < FRESH:
                raise InputError(
                    f"the file system of {self.output.absolute()} does not keep locks between machines: "
                    "mount it with locks (of Lustre flock, not localflock), or give an output elsewhere"
                )


def last_line(log: Path) -> str:
    """The last line of a log that says something; empty if there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _sentence(error: BaseException) -> str:
    """What an error says in a sentence; of one that nobody expected, the rest goes to stderr."""
    if (sentence := plain_sentence(error)) is not None:
        return sentence
    traceback.print_exception(error)
    return f"{type(error).__name__}: {first_line(error)}"
