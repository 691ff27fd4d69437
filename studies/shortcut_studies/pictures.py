"""Figures of what policies sample, and of sweeps over their settings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from shortcut_policy.benchmark.plots import MARKERS
from shortcut_policy.benchmark.text_table import ResultRows, count_of
from shortcut_policy.figures import COLOURS, STYLE, save

#: Panels side by side.
COLUMNS = 3
#: Column of a picture, a number of steps -> the steps that were taken in its place, and the samples.
Samples = dict[int, tuple[int, np.ndarray]]


def plot_sweeps(sweeps: Mapping[str, ResultRows], path: Path) -> None:
    """One panel a sweep: its first quantity at each setting, a line a step count, bars over the seeds.

    Args:
        sweeps: Title -> rows as `ablations.make_rows` makes them.
        path: File to write.
    """
    with mpl.rc_context(STYLE):
        columns = min(COLUMNS, len(sweeps))
        lines = -(-len(sweeps) // columns)
        figure = Figure(figsize=(4.4 * columns, 3.6 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
        for axes in panels.flat[len(sweeps) :]:
            axes.set_axis_off()
        for axes, (title, rows) in zip(panels.flat, sweeps.items(), strict=False):
            _sweep(axes, rows)
            axes.set_title(title)
        labelled = [axes.get_legend_handles_labels() for axes in panels.flat]
        handles = {text: line for pair in labelled for line, text in zip(*pair, strict=True)}
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(4, len(handles)))
        save(figure, path)


def plot_points(samples: Mapping[str, Samples], data: np.ndarray, path: Path, limit: float) -> None:
    """Points that methods make, a row a step count, a column a method, the data in grey behind them.

    Args:
        samples: Method -> steps -> points (n, 2).
        data: (n, 2).
        path: File to write.
        limit: The picture shows [-limit, limit] squared.
    """
    counts = sorted({steps for own in samples.values() for steps in own})
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.7 * len(samples), 1.8 * len(counts) + 0.4), layout="constrained")
        panels = figure.subplots(len(counts), len(samples), squeeze=False)
        for column, (method, own) in zip(panels.T, samples.items(), strict=True):
            for axes, steps in zip(column, counts, strict=True):
                axes.plot(*data.T, ".", color="#bbbbbb", markersize=1.5, alpha=0.5)
                if steps in own:
                    taken, points = own[steps]
                    axes.plot(*points.T, ".", color=COLOURS[0], markersize=1.5, alpha=0.5)
                    if taken != steps:
                        axes.set_xlabel(count_of(taken, "step"), fontsize=8)
                axes.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], aspect="equal")
            column[0].set_title(method.replace("_", "\n"), fontsize=9, loc="center")
        for axes, steps in zip(panels[:, 0], counts, strict=True):
            axes.set_ylabel(count_of(steps, "step"))
        save(figure, path)


def plot_fans(fans: Mapping[str, Samples], scene: np.ndarray, axis: np.ndarray, path: Path) -> None:
    """Action chunks from one state over its picture, a row a method, a column a step count.

    A chunk has the colour of the side of the block's axis of symmetry on which its mean lies.

    Args:
        fans: Method -> steps -> chunks (N, T, 2) in pixels of the workspace.
        scene: Picture of the state, (S, S, 3) uint8.
        axis: Point and direction of the axis, (2, 2).
        path: File to write.
    """
    counts = sorted({steps for own in fans.values() for steps in own})
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(2.9 * len(counts), 3.0 * len(fans) + 0.3), layout="constrained")
        panels = figure.subplots(len(fans), len(counts), squeeze=False)
        for row, (method, own) in zip(panels, fans.items(), strict=True):
            for axes, steps in zip(row, counts, strict=True):
                axes.set(xlim=(0, 512), ylim=(512, 0), xticks=[], yticks=[])
                if steps not in own:
                    continue
                axes.imshow(scene, extent=(0, 512, 512, 0), alpha=0.55)
                taken, chunks = own[steps]
                left = on_the_left(chunks, axis)
                for chunk, side in zip(chunks, left, strict=True):
                    axes.plot(*chunk.T, color=COLOURS[0 if side else 1], linewidth=0.8, alpha=0.5)
                note = "" if taken == steps else f", {count_of(taken, 'step')}"
                axes.set_xlabel(f"{left.sum()} left, {(~left).sum()} right{note}", fontsize=9)
            row[0].set_ylabel(method)
        for axes, steps in zip(panels[0], counts, strict=True):
            axes.set_title(count_of(steps, "step"))
        save(figure, path)


def on_the_left(chunks: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Whether the mean of each chunk (N, T, 2) lies left of the line ``axis`` (point, direction); (N,)."""
    point, (x, y) = axis
    offset = chunks.mean(axis=1) - point
    return x * offset[:, 1] - y * offset[:, 0] < 0


def _sweep(axes: Axes, rows: ResultRows) -> None:
    quantity = next(iter(rows[0]["values"]))
    places = np.arange(len(rows))
    ordered = all(isinstance(value, int | float) for row in rows for value in row["setting"].values())
    counts = sorted({steps for row in rows for steps in row["values"][quantity]})
    for number, steps in enumerate(counts):
        found: Sequence[Mapping[str, Any] | None] = [row["values"][quantity].get(steps) for row in rows]
        mean, low, high = (
            np.array([np.nan if value is None else value[key] for value in found])
            for key in ("mean", "low", "high")
        )
        axes.errorbar(
            places,
            mean,
            [mean - low, high - mean],
            color=COLOURS[number],
            marker=MARKERS[number],
            markersize=5,
            linewidth=1.4,
            # Between names there is nothing to interpolate.
            linestyle="-" if ordered else "none",
            label=count_of(steps, "step"),
        )
    long = max(len(row["label"]) for row in rows) > 12
    axes.set_xticks(places, [row["label"] for row in rows], rotation=90 if long else 0)
    if quantity == "distance":
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel(quantity)
