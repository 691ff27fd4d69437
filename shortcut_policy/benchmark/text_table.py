"""Tables of text: as Markdown, in a place of a document, and in the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from rich.table import Table

from shortcut_policy.errors import InputError
from shortcut_policy.paths import write_atomic

#: Texts of a cell that has nothing to say.
NOTHING = ("", "–")
#: Rows of results as JSON holds them.
ResultRows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TextTable:
    """A table ready to print; lines that share their first cell belong together.

    Attributes:
        header: Titles of the columns.
        lines: A text for each column.
        caption: What a reader must know to read the table, in a few sentences.
    """

    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    caption: str

    def without_empty_columns(self) -> "TextTable":
        """The table without columns in which no line says anything."""
        said = [any(line[n] not in NOTHING for line in self.lines) for n in range(len(self.header))]
        return TextTable(
            list(compress(self.header, said)),
            [list(compress(line, said)) for line in self.lines],
            self.caption,
        )

    def markdown(self) -> str:
        """The table in Markdown, with its caption."""
        rule = [":--"] + ["--:"] * (len(self.header) - 1)
        texts = "\n".join("| " + " | ".join(line) + " |" for line in (self.header, rule, *self.lines))
        return f"{texts}\n\n{self.caption}\n"

    def rich(self) -> Table:
        """The table for `rich.print`."""
        table = Table(caption=self.caption, caption_justify="left")
        for number, title in enumerate(self.header):
            # Where the terminal is narrow, a broken number can still be read, and a cut one cannot.
            table.add_column(title, justify="right" if number else "left", overflow="fold")
        grouped = len({line[0] for line in self.lines}) < len(self.lines)
        for line, following in zip(self.lines, [*self.lines[1:], self.lines[-1]], strict=True):
            table.add_row(*line, end_section=grouped and line[0] != following[0])
        return table


def count_of(number: int | str, noun: str) -> str:
    """ "1 step", "2 steps"."""
    return f"{number} {noun}" if str(number) == "1" else f"{number} {noun}s"


def place_in(document: Path, marker: str) -> tuple[str, str]:
    """What stands before and after ``<!-- results:marker -->...<!-- /results -->`` in a Markdown file.

    Raises:
        InputError: the file does not exist or has no such pair of markers.
    """
    opening, closing = f"<!-- results:{marker} -->", "<!-- /results -->"
    text = document.read_text(encoding="utf-8") if document.is_file() else ""
    before, found, rest = text.partition(opening)
    _, closed, after = rest.partition(closing)
    if not (found and closed):
        raise InputError(
            f"{document}: no place for the table; add the lines '{opening}' and '{closing}' to it"
        )
    return before + opening, closing + after


def write_into(document: Path, marker: str, text: str) -> None:
    """Put ``text`` into the place that `place_in` finds, and leave the rest of the document alone."""
    before, after = place_in(document, marker)
    write_atomic(document, f"{before}\n{text.strip()}\n{after}")
