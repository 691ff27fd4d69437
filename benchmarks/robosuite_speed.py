"""Milliseconds of a step of robomimic's tasks: ours, and robosuite's own with robomimic's settings.

python benchmarks/robosuite_speed.py [--tasks Lift Transport] [--steps 50] [--rounds 5]

Both get the same start and the same actions, taking turns; the states that they reach are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from shortcut_envs.robosuite.env import RobosuiteEnv
from shortcut_envs.robosuite.setup import make_env


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=["Lift", "Can", "Square", "Transport", "ToolHang"])
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print("| task | ours (ms) | robosuite (ms) | factor | same states |\n| :-- | --: | --: | --: | :-- |")
    for task in arguments.tasks:
        ours: RobosuiteEnv = gymnasium.make(f"shortcut_policy/{task}-v0").unwrapped  # type: ignore[assignment]
        theirs = make_env(ours.args, ours.actions)
        times: tuple[list[float], list[float]] = ([], [])
        same = True
        for seed in range(arguments.rounds):
            ours.reset(seed=seed)
            np.random.seed(seed)
            theirs.reset()
            size = (arguments.steps, *ours.action_space.shape)  # type: ignore[misc]
            actions = np.random.default_rng(seed).uniform(-0.5, 0.5, size)
            times[0].append(_milliseconds(ours.step, actions))
            times[1].append(_milliseconds(theirs.step, actions))
            same &= np.array_equal(
                ours.simulation.sim.get_state().flatten(), theirs.sim.get_state().flatten()
            )
        first, second = (statistics.median(each) for each in times)
        print(
            f"| {task} | {first:.1f} | {second:.1f} | {second / first:.2f} | {'yes' if same else 'NO'} |",
            flush=True,
        )
        ours.close()
        theirs.close()


def _milliseconds(step: Callable[[np.ndarray], Any], actions: np.ndarray) -> float:
    start = time.perf_counter()
    for action in actions:
        step(action)
    return 1000 * (time.perf_counter() - start) / len(actions)


if __name__ == "__main__":
    main()
