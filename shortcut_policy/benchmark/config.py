"""What can be set about a benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from shortcut_policy.benchmark.methods import Method
from shortcut_policy.rollout.config import EvaluationConfig
from shortcut_policy.settings import Count, Index


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(EvaluationConfig):
    """Settings of a benchmark; ``configs/benchmark.yaml`` describes them.

    Attributes:
        entries: The methods.
        title: Headline of the report.
        training: Overrides of ``configs/train.yaml`` that all methods to be trained share.
        reference: Name of the method, at its largest step count, that the others are compared with.
        baseline: Name of the method that the others are compared with at the same number of steps.
        last_k: Checkpoints of a run that are averaged, counted from its end.
        curve_checkpoints: Checkpoints of each run that are evaluated for the curves.
        curve_steps: Step counts of the curves.
        compute_rounds: Updates of each method that are timed for the compute table.
        videos: Films of the first starts of the first method at its fewest steps.
        publish: Folder that gets what is worth keeping; None for no such folder.
        published: Folder of published results that stand in for trainings; None to train.
        trained_only: Leave out what would have to be trained first.
        readme: Markdown file that gets the tables; None for none.
        marker: Of the place of the results in it.
        compute_marker: Of the place of the compute table; None for no such table.
    """

    entries: Sequence[Method]
    title: str = "Benchmark"
    training: Sequence[str] = ()
    reference: str | None = None
    baseline: str | None = None
    last_k: Count = 1
    curve_checkpoints: Index = 0
    curve_steps: Sequence[Count] = (1, 4)
    compute_rounds: Count = 20
    videos: Index = 0
    publish: Path | None = None
    published: Path | None = None
    trained_only: bool = False
    readme: Path | None = None
    marker: str | None = None
    compute_marker: str | None = None
