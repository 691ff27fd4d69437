"""Where agent and block went in recorded episodes, over pictures of the start and the end."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from shortcut_policy.figures import COLOURS, STYLE, legend, save


def plot_paths(recordings: Sequence[Path], path: Path, columns: int = 4) -> None:
    """Paths of agent and block over the pictures of the start (faint) and the end of recorded episodes."""
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        rows = -(-len(recordings) // columns)
        columns = min(columns, len(recordings))
        figure = Figure(figsize=(2.5 * columns, 2.5 * rows + 0.4), layout="constrained")
        for axes in figure.subplots(rows, columns, squeeze=False).flat:
            axes.set_axis_off()
        for axes, recording in zip(figure.axes, recordings, strict=False):
            with np.load(recording) as data:
                picture = 0.7 * data["last"].astype(float) + 0.3 * data["first"]
                axes.imshow(picture.astype(np.uint8), extent=(0, 512, 512, 0))
                for key, colour in (("block", COLOURS[1]), ("agent", COLOURS[0])):
                    x, y = data[key].T
                    axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.9, label=key)
                    axes.plot(x[0], y[0], "o", color="white", markeredgecolor=colour, markersize=5)
                    axes.plot(x[-1], y[-1], "o", color=colour, markersize=5)
                axes.set_title(
                    f"start {recording.stem.removeprefix('episode_')}, {len(x) - 1} steps", fontsize=9
                )
            axes.set(xlim=(0, 512), ylim=(512, 0))
        legend(figure, figure.axes[0])
        save(figure, path)
