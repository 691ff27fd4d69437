"""The evaluations of one training seed: checkpoints x step counts, each a cell in a folder of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from shortcut_policy.benchmark.config import BenchmarkConfig
from shortcut_policy.benchmark.curves import curve_cells
from shortcut_policy.benchmark.methods import Method, wanted_cells
from shortcut_policy.benchmark.result_files import RunResults, slug
from shortcut_policy.benchmark.table import Cell, row_label
from shortcut_policy.benchmark.training_runs import (
    TrainingRun,
    all_checkpoints,
    is_trained,
    kept_checkpoints,
    read_losses,
    read_training,
)
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.rollout.evaluate import evaluate
from shortcut_policy.trust import trusted_in, trusted_modules

#: Checkpoint and step count.
Which = tuple[str, int]


@dataclass
class Evaluation:
    """The cells of a training seed.

    Args:
        method: Whose seed it is.
        one: The seed.
        config: Of the benchmark.
        videos: Films of the newest checkpoint at its fewest steps.
    """

    method: Method
    one: TrainingRun
    config: BenchmarkConfig
    videos: int
    _made: dict[Which, Cell] = field(default_factory=dict)
    _loaded: tuple[str, Policy] | None = None

    def wanted(self) -> list[Which]:
        """All cells, so that the policies of a checkpoint come after each other: each is loaded once.

        Before the training it is the cells of the checkpoints that it will leave.
        """
        names = self._names()
        cells = wanted_cells(self.method, names, self.config.last_k)
        cells += curve_cells(self.method, names, *curve(self.config))
        return sorted(set(cells), key=lambda cell: (names.index(cell[0]), cell[1]))

    def make(self, which: Which) -> bool:
        """Evaluate a cell, or find it finished; returns whether there was something to do."""
        summary = cell_folder(self.config, self.method, self.one.number, *which) / "summary.json"
        before = summary.stat().st_mtime_ns if summary.is_file() else None
        self._made[which] = self._evaluate(which, self.config.overwrite)
        return summary.stat().st_mtime_ns != before

    def results(self) -> RunResults:
        """All cells, those that another process has made read."""
        cells = {which: self._made.get(which) or self._evaluate(which, False) for which in self.wanted()}
        names = self._names()
        policy = self._policy(names[-1])
        training, losses = read_training(self.one.folder), read_losses(self.one.folder)
        return RunResults(self.one.number, policy.spec, training, names, losses, cells)

    def _names(self) -> list[str]:
        one = self.one
        if one.training is not None and not is_trained(one):
            return kept_checkpoints(one.training.trainer)
        return [folder.name for folder in all_checkpoints(one.folder, self.config.last_k)]

    def _policy(self, name: str) -> Policy:
        if self._loaded is None or self._loaded[0] != name:
            folders = {folder.name: folder for folder in all_checkpoints(self.one.folder, self.config.last_k)}
            trust = trusted(self.one, self.config)
            self._loaded = name, load_policy(folders[name], self.config.device, trust)
        return self._loaded[1]

    def _evaluate(self, which: Which, overwrite: bool) -> Cell:
        name, steps = which
        # Latencies of a table are measured together, when all lines can take turns.
        how = replace(self.config.options, overwrite=overwrite, latency=False)
        if self.videos and name == self._names()[-1] and steps == min(self.method.steps):
            how = replace(how, videos=self.videos, plot=True)
        folder = cell_folder(self.config, self.method, self.one.number, name, steps)
        title = "  " + row_label(self.method.name, steps)
        summary = evaluate(self._policy(name), steps, folder, self.config.protocol, how, title=title)
        return Cell.read(summary, folder)


def trusted(one: TrainingRun, config: BenchmarkConfig) -> tuple[str, ...]:
    """Modules that the checkpoints of a run may name."""
    own = () if one.training is None else trusted_in(one.training.document())
    return (*trusted_modules(config.trust), *own)


def cell_folder(config: BenchmarkConfig, method: Method, number: int, checkpoint: str, steps: int) -> Path:
    """Where a cell is evaluated."""
    return config.output / "cells" / slug(method.name) / str(number) / checkpoint / f"steps_{steps:03d}"


def curve(config: BenchmarkConfig) -> tuple[int, Sequence[int]]:
    """Number and step counts of the checkpoints of a curve."""
    return config.curve_checkpoints, config.curve_steps
