"""What can be set about a benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from shortcut_policy.benchmark.methods import Method
from shortcut_policy.rollout.config import EvaluationConfig
from shortcut_policy.settings import Count, Index, NotNegative

#: Of each kind of comparison what ``auto`` stands for, and what it is.
USUAL = {
    "reference": ("diffusion", "with the largest number of steps of one method"),
    "baseline": ("flow matching", "at equal numbers of steps"),
}


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(EvaluationConfig):
    """Settings of a benchmark; ``configs/benchmark.yaml`` describes them.

    Attributes:
        entries: The methods.
        title: Headline of the report.
        training: Overrides of ``configs/train.yaml`` that all methods to be trained share.
        reference: Name of the method, at its largest step count, that the others are compared with; ``auto``
            for the `USUAL` one, if it is there; None for none.
        baseline: The same of the method that the others are compared with at the same number of steps.
        last_k: Checkpoints of a run that are averaged, counted from its end.
        curve_checkpoints: Checkpoints of each run that are evaluated for the curves.
        curve_steps: Step counts of the curves.
        measure: Measure latencies and training compute; if not, take those of the published results.
        compute_rounds: Updates of each method that are timed for the compute table.
        videos: Films of the first starts of the first method at its fewest steps.
        publish: Folder that gets what is worth keeping; None for no such folder.
        published: Folder of published results that stand in for trainings; None to train.
        trained_only: Leave out what would have to be trained first.
        readme: Markdown file that gets the tables; None for none.
        marker: Of the place of the results in it.
        compute_marker: Of the place of the compute table; None for no such table.
        workers: Other processes that do the work; 0 to do it in this one.
        patience: Minutes that a process with nothing to take waits for what others are at.
        session: Of a worker: the `Session.name` of the command that has started it.
    """

    entries: Sequence[Method]
    title: str = "Benchmark"
    training: Sequence[str] = ()
    reference: str | None = None
    baseline: str | None = None
    last_k: Count = 1
    curve_checkpoints: Index = 0
    curve_steps: Sequence[Count] = (1, 4)
    measure: bool = True
    compute_rounds: Count = 20
    videos: Index = 0
    publish: Path | None = None
    published: Path | None = None
    trained_only: bool = False
    readme: Path | None = None
    marker: str | None = None
    compute_marker: str | None = None
    workers: Index = 0
    patience: NotNegative = 10.0
    session: str | None = None


def with_comparisons(config: BenchmarkConfig, names: Sequence[str]) -> BenchmarkConfig:
    """The configuration with ``auto`` replaced by what there is; it prints which comparison is left out.

    Args:
        config: Of the benchmark.
        names: Of the methods in it.
    """
    known, found = ", ".join(names), {"reference": config.reference, "baseline": config.baseline}
    for key, name in found.items():
        usual, how = USUAL[key]
        if name == "auto":
            found[key] = usual if usual in names else None
            if usual not in names and len(names) > 1:
                print(f"nothing is compared {how}: {key}=... names one of {known}, or null for none")
        elif name is not None and name not in names:
            print(f"{key}={name} is none of {known}: nothing is compared {how}")
    return replace(config, reference=found["reference"], baseline=found["baseline"])
