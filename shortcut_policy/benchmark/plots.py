"""The figures of the README and the report, in one style."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator, PercentFormatter
from scipy.ndimage import uniform_filter1d

from shortcut_policy.benchmark.table import is_graded
from shortcut_policy.benchmark.text_table import ResultRows, count_of
from shortcut_policy.figures import COLOURS, STYLE, legend, save

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", "--", ":")
#: Panels of a figure side by side.
COLUMNS = 4
#: Where the number at a point may go, in points, and how much room it takes.
LABEL_OFFSETS = ((0, 11), (0, -12), (12, -4), (-12, 0))
LABEL_ROOM = (13, 11)
#: Tasks whose names stand at their points, from which difference on, and how far apart points of a place lie.
TASKS_NAMED, APART_NAMED, SEED_APART = 8, 0.15, 0.013
#: Shares of an axis: width of a letter of a task's name, its distance from the point, height of a line.
LETTER, BESIDE, LINE = 0.02, 0.03, 0.04


def plot_steps(rows: ResultRows, path: Path) -> None:
    """Score and strict success against network evaluations an action chunk, one line a method, 95% bands.

    Success alone where the task does not score what falls short of it.
    """
    panels = {"success": "Success"}
    if is_graded(rows):
        panels = {"score": "Score, axis stretched towards 1", "success": "Strict success"}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2 if len(panels) > 1 else 7.0, 4.0), layout="constrained")
        places = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True))
        for key, axes in places.items():
            _lines(axes, rows, x="nfe", y=key)
            axes.set_title(panels[key])
            axes.set_xlabel("network evaluations per action chunk")
            _powers_of_two(axes, [row["nfe"] for row in rows])
        if "score" in places:
            _stretch_towards_one(places["score"])
        places["success"].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        places["success"].set_ylim(-0.03, 1.03)
        legend(figure, places["success"])
        save(figure, path)


def plot_latency(rows: ResultRows, path: Path) -> None:
    """Score against the time that one action chunk takes, batch 1; numbers, where there is room: steps."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 4.2), layout="constrained")
        axes = figure.subplots()
        _lines(axes, rows, x="latency_ms_p50", y="score")
        axes.set_xscale("log")
        _plain_numbers(axes.xaxis)
        _stretch_towards_one(axes)
        axes.set_xlabel(f"latency of one action chunk, median, ms ({rows[0]['device']})")
        axes.set_title(f"{'Score' if is_graded(rows) else 'Success'}, axis stretched towards 1")
        legend(figure, axes)
        figure.draw_without_rendering()  # from here on places on the axes are those of the file
        _steps_beside_points(axes, rows)
        save(figure, path)


def plot_tasks(one: Mapping[str, Any], other: Mapping[str, Any], rows: ResultRows, path: Path) -> None:
    """Success of each task under two lines of the table, and all lines' mean over tasks against latency.

    Args:
        one: The line whose success goes up.
        other: The line whose success goes to the right.
        rows: All lines, see `table.make_row`.
        path: File to write.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 5.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        _points_of_tasks(left, one["tasks"], other["tasks"])
        left.set_title(f"Success of {len(one['tasks'])} tasks")
        left.set_xlabel(_line_name(other))
        left.set_ylabel(_line_name(one))
        _lines(right, rows, x="latency_ms_p50", y="success", bands=False)
        right.set_xscale("log")
        _plain_numbers(right.xaxis)
        right.set_xlabel(f"latency of one action chunk, median, ms ({rows[0]['device']})")
        right.set_title("Mean over tasks")
        lows = [row["success_ci"][0] for row in rows]
        right.set_ylim(max(-0.03, min(lows) - 0.1), 1.03)
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        legend(figure, right)
        figure.draw_without_rendering()
        _steps_beside_points(right, rows, "success")
        save(figure, path)


def plot_compute(rows: ResultRows, path: Path) -> None:
    """Score against the FLOPs spent on training, a panel for each step count, a line a method, 95% bands."""
    with mpl.rc_context(STYLE):
        counts = sorted({row["steps"] for row in rows})
        figure = Figure(figsize=(max(7.0, 4.6 * len(counts)), 4.2), layout="constrained")
        panels = figure.subplots(1, len(counts), squeeze=False)[0]
        names = list(dict.fromkeys(row["name"] for row in rows))
        for axes, steps in zip(panels, counts, strict=True):
            own = [row for row in rows if row["steps"] == steps]
            _lines(axes, own, x="train_flops", y="score", names=names)
            axes.set_xscale("log")
            _plain_numbers(axes.xaxis)
            axes.set_title(f"Score at {count_of(steps, 'step')}")
            axes.set_xlabel("training FLOPs")
            _stretch_towards_one(axes)
        legend(figure, panels[0])
        save(figure, path)


def plot_distances(rows: ResultRows, name: str, real: float | None, path: Path) -> None:
    """Frechet distance of samples against network evaluations, one line a method, 95% bands.

    Args:
        rows: Of the image benchmark.
        name: What the distance is called.
        real: That of held-out real images, as a dotted line, or in the legend alone where it lies so far
            below the methods that they would be pressed together; None for neither.
        path: File to write.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.2, 4.8), layout="constrained")
        axes = figure.subplots()
        _lines(axes, rows, x="nfe", y="fd")
        if real is not None and real > min(row["fd"] for row in rows) / 20:
            axes.axhline(real, color="#888888", linestyle=":", linewidth=1.5, label="held-out images")
        elif real is not None:
            axes.plot([], [], " ", label=f"held-out images: {real:.2g}")
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
        axes.set_title(f"{name}, lower is better")
        axes.set_xlabel("network evaluations per sample")
        _powers_of_two(axes, [row["nfe"] for row in rows])
        legend(figure, axes)
        save(figure, path)


def plot_losses(
    curves: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float]]]], path: Path
) -> None:
    """Training and validation loss of each method against the update, one panel a method.

    Losses of different objectives regress different targets: only the shape of a curve can be compared, so no
    panel shares its axis with another.

    Args:
        curves: Method -> kind of record ("train", "validation") -> (updates, losses).
        path: File to write.
    """
    with mpl.rc_context(STYLE):
        columns, rows = min(COLUMNS, len(curves)), -(-len(curves) // COLUMNS)
        figure = Figure(figsize=(max(4.6, 3.4 * columns), 3.4 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for axes in panels.flat[len(curves) :]:
            axes.set_axis_off()
        for number, (axes, (method, kinds)) in enumerate(zip(panels.flat, curves.items(), strict=False)):
            colour = COLOURS[number % len(COLOURS)]
            for kind, (updates, losses) in kinds.items():
                _loss(axes, kind, np.asarray(updates), np.asarray(losses), colour)
            axes.set_title(method)
            axes.set_yscale("log")
            _plain_numbers(axes.yaxis)
            axes.set_xlabel("update")
            axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4, integer=True))
            axes.legend()
        for axes in panels[:, 0]:
            axes.set_ylabel("loss")
        save(figure, path)


def _line_name(row: Mapping[str, Any]) -> str:
    milliseconds = float(f"{row['latency_ms_p50']:.3g}")
    return f"{row['name']}, {count_of(row['steps'], 'step')}, {milliseconds:,g} ms"


def _points_of_tasks(axes: Axes, ups: Mapping[str, Any], rights: Mapping[str, Any]) -> None:
    """A point for each task; those of one place lie round it like the seeds of a sunflower."""
    names = list(ups)
    exact = np.array([(rights[name]["success"], ups[name]["success"]) for name in names])
    around = np.array(
        [
            (np.round(exact[:number], 6) == np.round(place, 6)).all(axis=1).sum()
            for number, place in enumerate(exact)
        ]
    )
    angle = around * np.pi * (3 - math.sqrt(5))
    shown = exact + SEED_APART * np.sqrt(around)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=1.0, zorder=1)
    axes.scatter(shown[:, 0], shown[:, 1], s=26, color=COLOURS[0], edgecolor="white", linewidth=0.6, zorder=2)
    _name_apart(axes, names, exact)
    for axis, limits in ((axes.xaxis, axes.set_xlim), (axes.yaxis, axes.set_ylim)):
        limits(-0.08, 1.08)
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_aspect("equal")


def _name_apart(axes: Axes, names: Sequence[str], places: np.ndarray) -> None:
    """Write the names of the tasks furthest from the diagonal, of one place once, where there is room."""
    apart = abs(places[:, 1] - places[:, 0])
    of_place: dict[tuple[float, ...], list[str]] = {}
    for number in np.argsort(-apart, kind="stable"):
        if apart[number] >= APART_NAMED:
            of_place.setdefault(tuple(np.round(places[number], 6)), []).append(names[number])
    taken = [(x, x, y) for x, y in np.unique(np.round(places, 6), axis=0)]
    for (x, y), here in list(of_place.items())[:TASKS_NAMED]:
        name = here[0] if len(here) == 1 else f"{here[0]} and {len(here) - 1} more"
        room = LETTER * len(name)
        for side, low in ((1, x + BESIDE), (-1, x - BESIDE - room)):
            free = all(
                abs(y - height) > LINE or right < low or left > low + room for left, right, height in taken
            )
            if free and low > -LINE and low + room < 1 + LINE:
                at, align = (x + side * BESIDE, y), "left" if side > 0 else "right"
                axes.annotate(name, at, fontsize=8, ha=align, va="center")
                taken.append((low, low + room, y))
                break


def _steps_beside_points(axes: Axes, rows: ResultRows, y: str = "score") -> None:
    """Write each row's steps beside its point, or not at all where other points and numbers leave no room."""
    points = axes.transData.transform([(row["latency_ms_p50"], row[y]) for row in rows])
    points *= 72 / axes.figure.dpi
    taken = list(points)
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(_by_name(rows))}
    for row, point in zip(rows, points, strict=True):
        for offset in LABEL_OFFSETS:
            if (np.abs(point + offset - taken) < LABEL_ROOM).all(axis=1).any():
                continue
            taken.append(point + offset)
            axes.annotate(
                str(row["steps"]),
                (row["latency_ms_p50"], row[y]),
                xytext=offset,
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=9,
                color=colours[row["name"]],
            )
            break


def _by_name(rows: ResultRows) -> dict[str, list[Mapping[str, Any]]]:
    return {
        name: [row for row in rows if row["name"] == name]
        for name in dict.fromkeys(row["name"] for row in rows)
    }


def _lines(
    axes: Axes, rows: ResultRows, x: str, y: str, names: Sequence[str] = (), bands: bool = True
) -> None:
    """A line for each of ``names`` that has rows: all, in their order, if none are given.

    Intervals are bands, or bars where there is one point or ``bands`` is false.
    """
    methods = _by_name(rows)
    for number, name in enumerate(names or methods):
        if name not in methods:
            continue
        own = sorted(methods[name], key=lambda row: row[x])
        places = [row[x] for row in own]
        low, high = zip(*(row[f"{y}_ci"] for row in own), strict=True)
        # More methods than colours: the next round has other lines and other markers.
        around, place = divmod(number, len(COLOURS))
        colour, marker = COLOURS[place], MARKERS[(place + around) % len(MARKERS)]
        look: Any = {"color": colour, "marker": marker, "linestyle": LINES[around % len(LINES)]}
        axes.plot(places, [row[y] for row in own], label=name, markeredgecolor="white", **look)
        if len(own) > 1 and bands:
            axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
        else:
            axes.vlines(places, low, high, color=colour, alpha=0.4)


def _loss(axes: Axes, kind: str, updates: np.ndarray, losses: np.ndarray, colour: str) -> None:
    if kind == "train":
        smooth = uniform_filter1d(losses, size=max(1, len(losses) // 50), mode="nearest")
        axes.plot(updates, losses, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(updates, smooth, color=colour, label="training")
    else:
        axes.plot(
            updates, losses, color="#333333", marker="o", markersize=4, linewidth=1.2, label="validation"
        )


def _powers_of_two(axes: Axes, values: Sequence[float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator([2.0**k for k in range(math.ceil(math.log2(max(values))) + 1)]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _plain_numbers(axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10 ... of a logarithmic axis, written out."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _stretch_towards_one(axes: Axes) -> None:
    """Room for the differences between good policies: the axis is logarithmic in the distance to 1.05."""
    axes.set_yscale(
        "function", functions=(lambda y: -np.log(1.05 - np.minimum(y, 1.04)), lambda z: 1.05 - np.exp(-z))
    )
    low = min(0.5, axes.dataLim.y0)
    axes.set_ylim(low - 0.15, 1.01)
    axes.yaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
