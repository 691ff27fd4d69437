"""What a sensor that fails for moments costs, with and without ``obs_clamp``.

    OMP_NUM_THREADS=1 python benchmarks/failing_sensor.py [--episodes 100] [--share 0.02]

The shipped policy plays Push-T with one step. In a share of the steps, drawn for each start, a coordinate of
the observation reads 10,000 px where the table ends at 512. ``results/failing_sensor/results.json`` has the
rows; without failures the clamp must not change anything.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from shortcut_policy import load_policy
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.evaluate import environment_maker
from shortcut_policy.rollout.play import rollout
from shortcut_policy.rollout.statistics import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
FIRST_SEED = 100_000
BROKEN = 10_000.0


class FailingSensor(gymnasium.ObservationWrapper[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]):
    """One number of the keypoints is `BROKEN` in a share of the steps."""

    def __init__(self, env: gymnasium.Env[Any, Any], share: float) -> None:
        super().__init__(env)
        self.share = share

    @property
    def max_steps(self) -> int:
        """Of the episode."""
        steps: int = self.env.get_wrapper_attr("max_steps")
        return steps

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        """With failures that are a function of the seed."""
        self._random = np.random.default_rng([1, seed or 0])
        return super().reset(seed=seed, options=options)

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Broken or not."""
        keypoint = observation["keypoint"].copy()
        fails, element = self._random.random() < self.share, self._random.integers(keypoint.size)
        if fails:
            keypoint.reshape(-1)[element] = BROKEN
        return observation | {"keypoint": keypoint}


def main() -> None:
    """Play, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--share", type=float, default=0.02)
    options = parser.parse_args()
    policy = load_policy(ROOT / "pretrained" / "pusht")
    make = environment_maker(policy, {})
    rows = []
    for share in (0.0, options.share):
        for clamp in (None, 1.5):
            policy.obs_clamp = clamp
            seeds = range(FIRST_SEED, FIRST_SEED + options.episodes)
            found = rollout(policy, partial(failing, make, share), seeds, steps=1)
            solved = sum(episode.success for episode in found)
            interval = wilson_interval(solved, len(found))
            score = float(np.mean([episode.score for episode in found]))
            rows.append(
                {"failing": share, "obs_clamp": clamp, "episodes": len(found), "success": solved / len(found)}
                | {"success_ci": interval, "score": score}
            )
            print(rows[-1])
    results = {"command": command_line(), "commit": commit(), "rows": rows}
    path = ROOT / "results" / "failing_sensor" / "results.json"
    write_atomic(path, json.dumps(results, indent=2) + "\n")


def failing(make: Any, share: float) -> FailingSensor:
    """The environment behind a sensor that fails."""
    return FailingSensor(make(), share)


if __name__ == "__main__":
    main()
