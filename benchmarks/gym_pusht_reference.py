"""Runs the public gym-pusht package on given starts and actions, in an interpreter that has it (pymunk < 7).

    python gym_pusht_reference.py INPUT.npz OUTPUT.npz

INPUT: `starts` (E, 5) in legacy order, `actions` (E, T, 2), `poses` (F, 5) recorded states to draw.
OUTPUT: `states` (E, T + 1, 5) with the angle not wrapped, `coverage` (E, T), `images` (F, 96, 96, 3) uint8,
`seconds` and `cpu_seconds` that the steps took.
"""

import os
import sys
import time

import numpy as np

os.environ["SDL_VIDEODRIVER"] = "dummy"


def _state(env):
    return [*env.agent.position, *env.block.position, env.block.angle]


def _draw(env, pose):
    env.reset(seed=0)
    env.agent.position = pose[:2].tolist()
    env.block.angle = float(pose[4])  # before the position: recorded poses are those of the body frame
    env.block.position = pose[2:4].tolist()
    env.space.step(env.dt)
    return env._render()


def main(source, target):
    """Read `source`, simulate and draw, write `target`."""
    from gym_pusht.envs.pusht import PushTEnv

    given = np.load(source)
    env = PushTEnv(obs_type="state")
    states, coverage = [], []
    wall, cpu = time.perf_counter(), time.process_time()
    for start, actions in zip(given["starts"], given["actions"], strict=True):
        env.reset(options={"reset_to_state": start})
        episode, row = [_state(env)], []
        for action in actions:
            row.append(env.step(action)[4]["coverage"])
            episode.append(_state(env))
        states.append(episode)
        coverage.append(row)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    images = [_draw(env, pose) for pose in given["poses"]]
    np.savez_compressed(
        target, states=states, coverage=coverage, images=np.array(images), seconds=wall, cpu_seconds=cpu
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
