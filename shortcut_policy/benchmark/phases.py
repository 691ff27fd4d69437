"""Announcements of long work: which phase, its time budget, how much is left at most."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console


@dataclass
class Phases:
    """Numbers the phases of a long command.

    Args:
        plan: Title and budget in minutes (None: unknown) of every phase, in order.
        console: Where to announce them.
    """

    plan: Sequence[tuple[str, float | None]]
    console: Console = field(default_factory=Console)
    _done: int = 0
    _start: float = field(default_factory=time.monotonic)

    @contextmanager
    def next(self) -> Iterator[None]:
        """Announce the next phase, and how long it took when the block ends."""
        title, budget = self.plan[self._done]
        budgets = [minutes for _, minutes in self.plan[self._done :] if minutes is not None]
        text = f"[bold cyan]{self._done + 1}/{len(self.plan)}[/] [bold]{title}[/]"
        if budget is not None:
            text += f" · budget {budget:.1f} min · at most {sum(budgets):.1f} min left in all"
        self.console.print(text, highlight=False)
        self._done += 1
        start = time.monotonic()
        yield
        now = time.monotonic()
        self.console.print(
            f"  done in {(now - start) / 60:.1f} min, {(now - self._start) / 60:.1f} min since the start",
            style="dim",
            highlight=False,
        )
