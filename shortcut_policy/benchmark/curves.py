"""Quality against training compute: the checkpoints of a training, a few step counts, one line a method."""

from collections.abc import Sequence
from typing import Any

from shortcut_policy.benchmark.compute import PhaseCost, training_flops
from shortcut_policy.benchmark.methods import Method
from shortcut_policy.benchmark.result_files import RunResults
from shortcut_policy.benchmark.table import Measured
from shortcut_policy.checkpoint import checkpoint_step
from shortcut_policy.rollout.statistics import bootstrap_interval, success_interval


def curve_checkpoints(checkpoints: Sequence[str], count: int) -> list[str]:
    """At most ``count`` of the checkpoints of a run, spread evenly over its updates up to the newest."""
    if len(checkpoints) == 1:  # perhaps a folder of its own, with any name
        return list(checkpoints[:count])
    updates = {name: checkpoint_step(name) for name in checkpoints}
    places = [updates[checkpoints[-1]] * (number + 1) / count for number in range(count)]
    nearest = [min(checkpoints, key=lambda name: abs(updates[name] - place)) for place in places]
    return list(dict.fromkeys(nearest))


def curve_cells(
    method: Method, checkpoints: Sequence[str], count: int, steps: Sequence[int]
) -> list[tuple[str, int]]:
    """(checkpoint, steps) of the curves of a run; step counts that the method does not have are left out."""
    own = [number for number in steps if number in method.steps]
    return [(checkpoint, number) for checkpoint in curve_checkpoints(checkpoints, count) for number in own]


def curve_rows(
    method: Method,
    results: Sequence[RunResults],
    phases: Sequence[PhaseCost],
    count: int,
    steps: Sequence[int],
) -> list[dict[str, Any]]:
    """The points of a method's curves, as JSON holds them: those of the cells that were evaluated.

    Args:
        method: Whose points they are.
        results: Its training seeds. A curve is the mean of those that have all of its points, so that no two
            points are of different seeds; if there are none, a point is the mean of those that have it.
        phases: What its training costs, see `phase_costs`.
        count: Points of a curve.
        steps: A curve for each.
    """
    rows = []
    points = curve_cells(method, results[0].checkpoints, count, steps)
    whole = [run for run in results if run.cells.keys() >= {*points}]
    for checkpoint, number in points:
        having = whole or [run for run in results if (checkpoint, number) in run.cells]
        cells = [run.cells[checkpoint, number] for run in having]
        if not cells:
            continue
        measured, policy = Measured(method.name, [[cell] for cell in cells]), cells[0].summary["policy"]
        success_ci, _ = success_interval(measured.successes)
        rows.append(
            {
                "name": method.name,
                "steps": number,
                "checkpoint": checkpoint,
                "train_steps": policy["train_steps"],
                "train_flops": training_flops(phases, policy["train_steps"], policy["max_steps"]),
                "seeds": len(cells),
                "score": float(measured.scores.mean()),
                "score_ci": bootstrap_interval(measured.scores),
                "success": float(measured.successes.mean()),
                "success_ci": success_ci,
            }
        )
    return rows
