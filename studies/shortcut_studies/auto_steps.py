"""Do automatic steps pay, and does the policy's gap between one and two steps foretell a failed episode?

Two questions on the same starts. Automatic steps compete with fixed ones *of the same cost*: with a mixture
of the two step counts on either side of their mean evaluations, drawn at random for each start. And the
episode's mean gap is a test for failure, whose area under the ROC curve is the probability that a failed
episode has a larger gap than a successful one.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from rich.console import Console
from scipy import stats

from shortcut_policy.adaptive import Auto
from shortcut_policy.benchmark.plots import plot_steps
from shortcut_policy.benchmark.rollouts import checkpoint_name, measure
from shortcut_policy.benchmark.table import Cell, p_value
from shortcut_policy.benchmark.text_table import TextTable
from shortcut_policy.checkpoint import load_policy
from shortcut_policy.commands.configuration import read
from shortcut_policy.paths import write_atomic
from shortcut_policy.rollout.config import EvaluationConfig
from shortcut_policy.rollout.episode import read_episodes
from shortcut_policy.rollout.evaluate import check
from shortcut_policy.rollout.statistics import paired_scores, paired_successes
from shortcut_policy.settings import Count, NotNegative

AUTO, FIXED = "automatic", "fixed"


@dataclass(frozen=True, kw_only=True)
class AutoStepsConfig(EvaluationConfig):
    """Settings of the comparison; ``studies/configs/auto_steps.yaml`` describes them.

    Attributes:
        checkpoint: A checkpoint folder or run folder.
        publish: Folder of rows, table and figure.
        steps: Fixed step counts.
        tolerances: Of automatic steps, see `Auto`,
        max_steps: as well.
    """

    checkpoint: str
    publish: Path
    steps: Sequence[Count] = (1, 2, 4, 8)
    tolerances: Sequence[NotNegative] = (0.02,)
    max_steps: Count = 16


def run(config: DictConfig) -> None:
    """Measure as ``studies/configs/auto_steps.yaml`` describes; write rows, table and figure.

    Raises:
        InputError: the policy cannot choose its steps, or cannot be rolled out; nothing has been done then.
    """
    compare(read(config, AutoStepsConfig))


def compare(config: AutoStepsConfig) -> None:
    """Roll the policy out with fixed and automatic steps; write rows, table and figure.

    Raises:
        InputError: the policy cannot choose its steps, or cannot be rolled out; nothing has been done then.
    """
    policy = load_policy(config.checkpoint, config.device)
    rules, options = config.protocol, config.options
    autos = [Auto(tolerance, config.max_steps) for tolerance in config.tolerances]
    check(policy, [*config.steps, *autos], rules)
    output = config.output / checkpoint_name(config.checkpoint)
    fixed = [measure(policy, FIXED, steps, output, rules, options) for steps in sorted(config.steps)]
    rows = [row for row, _, _ in fixed]
    for auto in autos:
        row, cell, folder = measure(policy, AUTO, auto, output, rules, options)
        rows.append(row | against_fixed(cell, [other for _, other, _ in fixed]) | gap_test(folder))
    publish = config.publish
    write_atomic(publish / "results.json", json.dumps(rows, indent=2) + "\n")
    write_atomic(publish / "results.md", table(rows).markdown())
    plot_steps(rows, publish / "steps.png")
    console = Console()
    console.print(table(rows).rich())
    console.print(f"Rows, table and figure are in {publish}", highlight=False)


def against_fixed(auto: Cell, fixed: Sequence[Cell]) -> dict[str, Any]:
    """Paired differences to the mixture of fixed step counts that costs as much.

    Args:
        auto: Automatic steps.
        fixed: Fixed steps, by increasing cost; beyond both ends their ends are compared with.
    """
    costs = [cell.summary["network_evaluations"] for cell in fixed]
    cost = auto.summary["network_evaluations"]

    def mixed(values: list[np.ndarray]) -> np.ndarray:
        return np.array([np.interp(cost, costs, start) for start in np.stack(values, axis=1)])

    score = paired_scores(auto.scores, mixed([cell.scores for cell in fixed]))
    success = paired_successes(auto.successes, mixed([cell.successes for cell in fixed]))
    return {
        "same_cost_score_difference": score.difference,
        "same_cost_score_p_value": score.p_value,
        "same_cost_success_difference": success.difference,
        "same_cost_success_p_value": success.p_value,
    }


def gap_test(folder: Path) -> dict[str, Any]:
    """Quartiles of the episodes' mean gap, its ROC area for failure, its rank correlation with the score.

    The ROC area is Mann and Whitney's U over the number of pairs, with the two-sided p-value of their test;
    None if no episode or every episode failed. Episodes that fail last longer, so their mean holds more of
    the late chunks: this says whether the gap goes with failure, not how early it warns.
    """
    episodes = read_episodes(folder / "episodes.jsonl")
    gaps = np.array([episode["gap"] for episode in episodes])
    failed = np.array([not episode["success"] for episode in episodes])
    area = p_value = None
    if 0 < failed.sum() < len(failed):
        test = stats.mannwhitneyu(gaps[failed], gaps[~failed])
        area = float(test.statistic / (failed.sum() * (~failed).sum()))
        p_value = float(test.pvalue)
    return {
        "gap_quartiles": np.quantile(gaps, [0.25, 0.5, 0.75]).tolist(),
        "failure_auroc": area,
        "failure_auroc_p_value": p_value,
        "gap_score_spearman": float(stats.spearmanr(gaps, [episode["score"] for episode in episodes])[0]),
    }


def table(rows: Sequence[dict[str, Any]]) -> TextTable:
    """The rows for readers."""
    header = ("method", "setting", "NFE", "score", "strict success", "− same cost", "gap AUROC for failure")
    first = rows[0]
    caption = (
        f"{first['task']}, {first['method']}, {first['episodes']} starts from seed "
        f"{first['first_episode_seed']}; brackets hold 95% intervals. NFE = mean network evaluations per "
        "action chunk. Same cost: paired difference of score and of strict success to fixed steps, mixed so "
        "that they cost as much. AUROC: probability that a failed episode had a larger mean gap than a "
        "successful one; 0.5 says nothing."
    )
    return TextTable(header, [_line(row) for row in rows], caption)


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    fixed = row["name"] == FIXED
    setting = f"{row['steps']}" if fixed else f"tolerance {row['tolerance']:g}"
    difference = area = ""
    if not fixed:
        difference = (
            f"{row['same_cost_score_difference']:+.3f} ({p_value(row['same_cost_score_p_value'])}); "
            f"{100 * row['same_cost_success_difference']:+.0f} points "
            f"({p_value(row['same_cost_success_p_value'])})"
        )
        if row["failure_auroc"] is not None:
            area = f"{row['failure_auroc']:.2f} ({p_value(row['failure_auroc_p_value'])})"
    return (
        row["name"],
        setting,
        f"{row['nfe']:g}",
        "{:.3f} [{:.3f}, {:.3f}]".format(row["score"], *row["score_ci"]),
        "{:.0%} [{:.0%}, {:.0%}]".format(row["success"], *row["success_ci"]),
        difference,
        area,
    )
