"""The overview command: what several benchmarks found, in one table of methods x tasks."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from shortcut_policy.benchmark.table import is_graded, p_value
from shortcut_policy.benchmark.text_table import ResultRows, TextTable, place_in, write_into
from shortcut_policy.errors import InputError
from shortcut_policy.paths import write_atomic

Key = tuple[str, int]  # method, steps


def run(config: DictConfig) -> None:
    """Print the table of ``studies/configs/overview.yaml`` and put it where ``readme`` and ``output`` say.

    Raises:
        InputError: results cannot be read or there are none, a line is no method and steps or in none of
            them, or the document has no place for the table.
    """
    lines = [_line(line) for line in config.lines or ()]  # none: all that there are
    if not config.results:
        raise InputError("results is empty: give a title and a folder of results for each column")
    if config.readme:
        place_in(Path(config.readme), config.marker)
    results = {title: read_rows(Path(folder)) for title, folder in config.results.items()}
    table = overview_table(results, lines)
    Console().print(table.rich())
    if config.output:
        write_atomic(Path(config.output), table.markdown())
    if config.readme:
        write_into(Path(config.readme), config.marker, table.markdown())


def read_rows(folder: Path) -> ResultRows:
    """The rows that a benchmark has written into ``folder``.

    Raises:
        InputError: there are none.
    """
    try:
        rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if not (isinstance(rows, list) and _by_key(rows)):
            raise ValueError("it is no list, or an empty one")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{folder / 'results.json'} holds no rows of a benchmark ({type(error).__name__}: {error}); name "
            "a folder that scripts/benchmark.py has written, its output or its publish"
        ) from error
    return rows


def overview_table(results: Mapping[str, ResultRows], lines: list[Key]) -> TextTable:
    """Success rates, and scores where a task has them, of each task's benchmark.

    Args:
        results: Title of a column -> rows of its benchmark.
        lines: Method and steps of each line; empty for all that occur, in the order of the first benchmark.

    Raises:
        InputError: no benchmark has a line that is asked for.
    """
    columns = {title: _by_key(rows) for title, rows in results.items()}
    known = dict.fromkeys(key for column in columns.values() for key in column)
    for name, steps in lines:
        if (name, steps) not in known:
            raise InputError(
                f"lines: none of the results has [{name}, {steps}], only "
                f"{', '.join(f'[{own}, {number}]' for own, number in known)}"
            )
    graded = {title: is_graded(rows) for title, rows in results.items()}
    texts = [
        [
            name,
            str(steps),
            *(_cell(column.get((name, steps)), graded[title]) for title, column in columns.items()),
        ]
        for name, steps in lines or known
    ]
    return TextTable(["method", "steps", *results], texts, _caption(results))


def _line(line: Any) -> Key:
    """A line as the configuration has it."""
    if isinstance(line, Sequence) and len(line) == 2 and isinstance(line[1], int):
        return str(line[0]), line[1]
    raise InputError(f"lines: {line} is no method and its steps; give such as [shortcut, 1]")


def _by_key(rows: ResultRows) -> dict[Key, Mapping[str, Any]]:
    return {(row["name"], row["steps"]): row for row in rows}


def _cell(row: Mapping[str, Any] | None, graded: bool) -> str:
    if row is None:
        return "–"
    success = "{:.0%} [{:.0%}, {:.0%}]".format(row["success"], *row["success_ci"])
    text = f"{row['score']:.3f}, {success}" if graded else success
    different = row["success_p_value"]
    return f"{text}, {p_value(different)}" if different is not None and different < 0.05 else text


def _caption(results: Mapping[str, ResultRows]) -> str:
    seeds = {
        title: f"{min(own)} to {max(own)}" if len(own) > 1 else str(*own)
        for title, own in ((title, {row["seeds"] for row in rows}) for title, rows in results.items())
    }
    starts = {title: rows[0]["episodes"] for title, rows in results.items()}
    references = {row["reference"] for rows in results.values() for row in rows if row["reference"]}
    text = f"Training seeds: {_listed(seeds)}; starts: {_listed(starts)}. Brackets hold 95% intervals."
    if references:
        text += (
            f" A p-value is there where success differs from {' or '.join(sorted(references))} at the level "
            "of 5% (paired over the starts)."
        )
    return text


def _listed(values: Mapping[str, Any]) -> str:
    """One value if all have it, or each with its column."""
    if len(set(values.values())) == 1:
        return str(next(iter(values.values())))
    return ", ".join(f"{value} ({title})" for title, value in values.items())
