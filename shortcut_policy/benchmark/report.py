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
        tables=tables,
        cards=_cards(rows),
        pictures=[(_embed(picture.path, path.parent), picture.caption) for picture in pictures],
        settings=settings,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    write_atomic(path, page)


def _cards(rows: ResultRows) -> list[tuple[str, str, str]]:
    """Title, big number, explanation: the first row, what it is compared with, how much faster it is."""
    first = rows[0]
    graded = is_graded(rows)
    cards = [_card(first, graded)]
    reference = next(
        (row for row in rows if row_label(row["name"], row["steps"]) == first["reference"]), None
    )
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
