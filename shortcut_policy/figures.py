"""The look of the project's figures, and how they are written."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from shortcut_policy.paths import atomic_path

#: Okabe and Ito's palette: told apart with every common form of colour blindness.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 7.0,
    "savefig.dpi": 160,
    # Text as outlines and fixed ids: the same file on every machine.
    "svg.hashsalt": "shortcut_policy",
}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def save(figure: Figure, path: Path) -> None:
    """Write ``figure`` in the format of ``path``'s suffix, whole or not at all."""
    kind = path.suffix.removeprefix(".")
    with atomic_path(path) as part:
        figure.savefig(part, format=kind, metadata=_NO_METADATA if kind == "svg" else None)


def legend(figure: Figure, axes: Axes) -> None:
    """Above the panels, in as many columns up to four as the figure is wide enough for."""
    handles, labels = axes.get_legend_handles_labels()
    for columns in range(min(4, len(labels)), 0, -1):
        box = figure.legend(handles, labels, loc="outside upper center", ncols=columns)
        if columns == 1 or box.get_window_extent().width <= figure.bbox.width:
            return
        box.remove()
