"""A report in one HTML file that needs nothing beside it: no network, no other file."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup

from shortcut_policy.benchmark.table import is_graded, row_label
from shortcut_policy.benchmark.text_table import ResultRows, TextTable, count_of
from shortcut_policy.paths import write_atomic

#: Larger films are linked beside the report: a mail or a phone should still open it.
LARGEST_EMBEDDED_VIDEO = 5_000_000


@dataclass(frozen=True)
class Picture:
    """A figure (.svg or .png) or film (.mp4) with what it shows."""

    path: Path
    caption: str


def write_report(
    path: Path,
    *,
    title: str,
    rows: ResultRows,
    tables: Mapping[str, TextTable],
    pictures: Sequence[Picture],
    settings: Mapping[str, str],
) -> None:
    """Write the report of a benchmark.

    Args:
        path: HTML file.
        title: Headline.
        rows: Rows of results, see `table.make_row`; the first one leads the summary.
        tables: Headline -> table.
        pictures: In the order of their appearance.
        settings: Name -> text, e.g. the command, the commit and the configuration.
    """
    environment = Environment(
        loader=PackageLoader("shortcut_policy.benchmark"),
        autoescape=select_autoescape(["j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        tables={headline: table.without_empty_columns() for headline, table in tables.items()},
        summary=_summary(rows),
        cards=_cards(rows),
        pictures=[(_embed(picture.path, path.parent), picture.caption) for picture in pictures],
        settings=settings,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_atomic(path, page)


def _summary(rows: ResultRows) -> str:
    """Four sentences: what was done, what the numbers mean, what came out, how far to trust it."""
    first, graded = rows[0], is_graded(rows)
    names = list(dict.fromkeys(row["name"] for row in rows))
    seeds = sorted({row["seeds"] for row in rows})
    done = (
        f"{_listed(names)} learned from the same demonstrations ({first['dataset']}), and then played "
        f"{count_of(first['episodes'], 'episode')} of {first['task']} from the same starts."
    )
    meaning = (
        "The score is the best coverage of the goal in an episode as a fraction of 95%, averaged over the "
        "starts; strict success is the share of episodes that cover more than 95%."
        if graded
        else "Success is the share of episodes in which the task was solved."
    )
    trust = (
        "Brackets hold 95% intervals over the starts of one training each: another training of the same "
        "method can differ by more."
        if seeds == [1]
        else "Brackets hold 95% intervals over the trainings and the starts."
    )
    return " ".join([done, meaning, _finding(rows), trust])


def _finding(rows: ResultRows) -> str:
    """What the first row came to, beside the one that it is compared with."""
    first, graded, reference = rows[0], is_graded(rows), _reference(rows)
    text = f"With {count_of(first['steps'], 'step')}, {first['name']} reaches {_result(first, graded)}"
    if reference is not None:
        steps = count_of(reference["steps"], "step")
        text += f"; {reference['name']} with {steps} reaches {_result(reference, graded)}"
    return f"{text}."


def _result(row: Mapping[str, Any], graded: bool) -> str:
    success = f"{row['success']:.0%} {'strict ' if graded else ''}success"
    score = f"a score of {row['score']:.2f} and {success}" if graded else success
    return f"{score} in {row['latency_ms_p50']:.1f} ms an action chunk"


def _listed(names: Sequence[str]) -> str:
    *others, last = names
    text = f"{', '.join(others)} and {last}" if others else last
    return f"{text[0].upper()}{text[1:]}"


def _reference(rows: ResultRows) -> Mapping[str, Any] | None:
    """The row that the first one is compared with."""
    label = rows[0]["reference"]
    return next((row for row in rows if row_label(row["name"], row["steps"]) == label), None)


def _cards(rows: ResultRows) -> list[tuple[str, str, str]]:
    """Title, big number, explanation: the first row, what it is compared with, how much faster it is."""
    first, graded, reference = rows[0], is_graded(rows), _reference(rows)
    cards = [_card(first, graded)]
    if reference is not None:
        factor = reference["latency_ms_p50"] / first["latency_ms_p50"]
        times = (
            f"{first['latency_ms_p50']:.1f} ms against {reference['latency_ms_p50']:.0f} ms an action chunk"
        )
        cards += [_card(reference, graded), ("speed", f"{factor:.0f}×", times)]
    return cards


def _card(row: Mapping[str, Any], graded: bool) -> tuple[str, str, str]:
    what = f"{row['name']}, {count_of(row['nfe'], 'network evaluation')}"
    if graded:
        return what, f"{row['score']:.2f}", f"score; strict success {row['success']:.0%}"
    return what, f"{row['success']:.0%}", "success"


def _embed(path: Path, folder: Path) -> Markup:
    if path.suffix == ".svg":
        svg = path.read_text(encoding="utf-8")
        return Markup(svg[svg.index("<svg") :])
    if path.suffix == ".mp4" and path.stat().st_size > LARGEST_EMBEDDED_VIDEO:
        source = path.relative_to(folder).as_posix()
    else:
        kind = {".mp4": "video/mp4", ".png": "image/png"}[path.suffix]
        source = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if path.suffix == ".mp4":
        return Markup('<video controls autoplay muted loop playsinline src="{}"></video>').format(source)
    return Markup('<img alt="" src="{}">').format(source)
