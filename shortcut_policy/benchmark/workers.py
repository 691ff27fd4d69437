"""The command that has workers do a benchmark: starts them, tells how far they are, and what came out."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import mean

from rich.console import Console

from shortcut_policy.benchmark.sharing import Outcome, Part, State
from shortcut_policy.benchmark.text_table import count_of
from shortcut_policy.benchmark.work import TABLE, Work
from shortcut_policy.errors import InputError, Stopped

#: Seconds between two looks at what the workers have done.
LOOK = 2.0
#: Given a number, `Session.name` and whether all work is done: starts so many workers, waits until they have
#: ended or all work is done, and returns what those say that ended badly.
Launch = Callable[[int, str, Callable[[], bool]], Sequence[str]]


def lead(work: Work, launch: Launch, console: Console) -> None:
    """Have workers do all parts and the table.

    Workers that are lost are replaced, as long as that changes anything.

    Args:
        work: What is to be done.
        launch: Starts the workers.
        console: Where to tell how far they are.

    Raises:
        InputError: Parts failed, or workers cannot be started; all that could be done is done.
    """
    session = work.session
    with session.leading():
        start = time.monotonic()
        try:
            with _watched(work, console, start):
                said = _rounds(work, launch, console)
        except (KeyboardInterrupt, SystemExit) as end:
            session.stop()
            text = (
                f"interrupted: {progress(work.states(), time.monotonic() - start)}; the same command goes on"
            )
            console.print(text, highlight=False, soft_wrap=True)
            if isinstance(end, KeyboardInterrupt):
                raise Stopped(128 + signal.SIGINT) from None
            raise
        states = work.states()
        console.print(f"end: {progress(states, time.monotonic() - start)}", highlight=False, soft_wrap=True)
        failed = {part: state for part, state in states.items() if state.ended is Outcome.FAILED}
        table = session.state(TABLE)
        if table.ended is Outcome.FAILED:
            failed[TABLE] = table
        for part, state in failed.items():
            text = f"failed: {part.title}: {state.sentence} (log: {session.log(part)})"
            console.print(text, highlight=False, soft_wrap=True)
        if failed:
            raise failure(len(failed), len(states) + 1)
        if table.ended is None:
            reason = f": {said[-1]}" if said else ""
            raise InputError(
                f"the workers have ended before the work was done, the same command goes on with it{reason}"
            )


def failure(failed: int, parts: int) -> InputError:
    """What a benchmark ends with some of whose parts failed."""
    return InputError(
        f"{failed} of {count_of(parts, 'part')} failed, see above: there is no table without them; the same "
        "command tries them again, and does nothing else again"
    )


def progress(states: Mapping[Part, State], seconds: float) -> str:
    """How far the work is, and how long the rest takes at the speed so far if that is known.

    Args:
        states: Of all parts.
        seconds: Since the start.
    """
    done = sum(state.ended is Outcome.DONE for state in states.values())
    failed = sum(state.ended is Outcome.FAILED for state in states.values())
    at_work = sum(state.ended is None and state.begun > 0 for state in states.values())
    text = f"{done} of {count_of(len(states), 'part')} done"
    text += f", {failed} failed" if failed else ""
    text += f", {at_work} at work" if at_work else ""
    text += f", {seconds / 60:.1f} min"
    left = _left(states)
    return text if left is None else f"{text}, about {left / max(1, at_work) / 60:.1f} min left"


def _left(states: Mapping[Part, State]) -> float | None:
    """Seconds of work that are left; None if nothing or not known of a kind."""
    total = 0.0
    for kind in {part.kind for part in states}:
        own = [state for part, state in states.items() if part.kind == kind]
        took = [state.seconds for state in own if state.seconds is not None]
        # What is at work is taken for half done.
        left = sum(0.5 if state.begun else 1.0 for state in own if state.ended is None)
        if left and not took:
            return None
        total += left * mean(took) if left else 0.0
    return total or None


def _rounds(work: Work, launch: Launch, console: Console) -> Sequence[str]:
    """Start workers until all is done, or they change nothing any more; what the last of them say."""
    session = work.session
    while True:
        before = work.states()
        left = [part for part, state in before.items() if state.ended is None]
        number = max(1, min(work.config.workers, len(left)))
        said = launch(number, session.name, lambda: _is_over(work))
        if _is_over(work) or work.states() == before:
            return said
        console.print("workers were lost: others are started", highlight=False)


def _is_over(work: Work) -> bool:
    """Whether there is nothing left that a worker could do."""
    if work.session.state(TABLE).ended is not None:
        return True
    states, unreachable = work.states(), work.out_of_reach()
    left = any(state.ended is None for part, state in states.items() if part not in unreachable)
    return not left and any(state.ended is Outcome.FAILED for state in states.values())


@contextmanager
def _watched(work: Work, console: Console, start: float) -> Iterator[None]:
    """Tell of each change, and give signs of life, while others work."""
    ended = threading.Event()

    def watch() -> None:
        told: Mapping[Part, State] | None = None
        while not ended.wait(LOOK):
            work.session.sign_of_life()
            states = work.states()
            if states != told:
                console.print(progress(states, time.monotonic() - start), highlight=False, soft_wrap=True)
            told = states

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
