"""Wall-clock of 50 full-length Push-T episodes (300 steps each) at one sampling step.

python benchmarks/rollout_speed.py [--steps 1] [overrides of configs/train.yaml]

Episodes that succeed early would flatter the figure: the policy measured is untrained, so all run to the end.
"""

import argparse
import functools
import time

import gymnasium
from policies import untrained_policy

from shortcut_policy.rollout.play import rollout

EPISODE_SEEDS = range(100_000, 100_050)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    policy = untrained_policy(*arguments.overrides)
    make_env = functools.partial(gymnasium.make, "shortcut_envs:shortcut_policy/PushTKeypoints-v0")
    start = time.perf_counter()
    results = rollout(policy, make_env, EPISODE_SEEDS, arguments.steps)
    seconds = time.perf_counter() - start
    chunks = max(result.chunks for result in results)
    inference = max(sum(result.latencies_ms) for result in results) / 1000
    env_steps = sum(result.length for result in results)
    print(
        f"{len(results)} episodes, {env_steps} environment steps, {chunks} inference batches: "
        f"{seconds:.2f} s ({inference:.2f} s inference), {env_steps / seconds:.0f} environment steps/s"
    )


if __name__ == "__main__":
    main()
