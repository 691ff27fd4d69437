"""How often intervals of a mean over tasks hold it, and how often the test finds a difference of equals.

Trainings of a method differ in success by a normal amount on the scale of the logit, tasks are easier or
harder, and each training finds some of them easier. A repetition draws tasks, trainings and episodes anew;
what an interval should hold is the mean over all tasks and trainings that could be drawn. Columns: the
interval over trainings and tasks; that over trainings and all starts, which takes the tasks as given; and
p < 0.05 of `compare_methods` between two methods that are the same.

    OMP_NUM_THREADS=1 python benchmarks/task_intervals.py --repetitions 1000
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.special import expit

from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout import statistics
from shortcut_policy.rollout.statistics import bootstrap_interval, compare_methods

ROOT = Path(__file__).resolve().parents[1]
STARTS, RESAMPLES = 10, 999
EASE, SPREAD_OF_TASKS, OWN = 1.5, 2.0, 0.5  # of a task: mean, spread, what each training adds; logits
SPREADS = (0.0, 0.46, 0.8)  # of trainings, logits
SIZES = ((10, 3), (50, 3), (50, 1))  # tasks, trainings


def play(rng: np.random.Generator, tasks: np.ndarray, trainings: int, spread: float) -> np.ndarray:
    """Successes of one method, (trainings, tasks, starts)."""
    own = OWN * rng.standard_normal((trainings, len(tasks)))
    rates = expit(tasks + own + spread * rng.standard_normal((trainings, 1)))
    return rng.binomial(1, rates[..., None], size=(*rates.shape, STARTS)).astype(float)


def shares(
    rng: np.random.Generator, tasks: int, trainings: int, spread: float, repetitions: int
) -> list[float | None]:
    """Of one setting, the three shares; no test with one training."""
    many = EASE + np.sqrt(SPREAD_OF_TASKS**2 + OWN**2 + spread**2) * rng.standard_normal(1_000_000)
    true = float(expit(many).mean())
    found = []
    for _ in range(repetitions):
        ease = EASE + SPREAD_OF_TASKS * rng.standard_normal(tasks)
        a, b = (play(rng, ease, trainings, spread) for _ in range(2))
        over_tasks = bootstrap_interval(a.mean(axis=2))
        over_starts = bootstrap_interval(a.reshape(trainings, -1))
        p_value = compare_methods(a.mean(axis=2), b.mean(axis=2)).p_value
        held = [low <= true <= high for low, high in (over_tasks, over_starts)]
        found.append([*held, np.nan if p_value is None else p_value < 0.05])
    return [None if np.isnan(share) else float(share) for share in np.mean(found, axis=0)]


def main() -> None:
    """Print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1000)
    repetitions = parser.parse_args().repetitions
    statistics.RESAMPLES = RESAMPLES
    rng, rows = np.random.default_rng(0), []
    print("spread  tasks  trainings  over tasks  over starts  p < 0.05")
    for spread in SPREADS:
        for tasks, trainings in SIZES:
            found = shares(rng, tasks, trainings, spread, repetitions)
            names = ("held_over_tasks", "held_over_starts", "false_positives")
            rows.append(
                {
                    "spread": spread,
                    "tasks": tasks,
                    "trainings": trainings,
                    **dict(zip(names, found, strict=True)),
                }
            )
            text = "  ".join("        –" if share is None else f"{share:9.3f}" for share in found)
            print(f"{spread:6.2f}  {tasks:5d}  {trainings:9d}  {text}", flush=True)
    made = {"command": command_line(), "commit": commit(), "versions": library_versions()}
    result = {"rows": rows, "starts": STARTS, "resamples": RESAMPLES, "repetitions": repetitions, **made}
    write_atomic(ROOT / "results" / "task_intervals" / "results.json", json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
