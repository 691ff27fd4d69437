#!/usr/bin/env bash
# Gymnasium 1.4.0 keeps an environment's own arrays where it remembers: stacks, delays and final observations.
#
# An environment may write each observation into the same array, as drivers of robots and bindings of simulators do.
# SyncVectorEnv and AsyncVectorEnv copy what step returns, by default and by their documentation, so a good engineer
# concludes that Gymnasium copes with it. Where it keeps an observation for later it keeps the array itself:
# FrameStackObservation gives the newest observation several times, DelayObservation does not delay, and with autoreset in
# the same step final_obs is the first observation of the next episode, of which a value is then taken for the end of the
# last one. Nothing is said, shapes and types are right. What works: copy in the environment, or in a wrapper below all
# others.
#
# Seen:
#   gymnasium 1.4.0, observations 0, 1, 2 in one array: FrameStackObservation [2.0, 2.0, 2.0], copied [0.0, 1.0, 2.0]
#   DelayObservation by one step: [1.0, 2.0], copied [0.0, 1.0]
#   SyncVectorEnv, episode that ends with 3: final_obs 0.0, copied 3.0
#   AsyncVectorEnv, episode that ends with 3: final_obs 0.0, copied 3.0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
cat > look.py <<'PY'
import sys

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import DelayObservation, FrameStackObservation, TransformObservation

ACTION = np.zeros(1, np.float32)


class Counts(gymnasium.Env):
    """Observes the number of its step, always in the same array; ends with the third."""

    observation_space = Box(0, 9, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self):
        self.seen = np.zeros(1, np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen[:] = 0
        return self.seen, {}

    def step(self, action):
        self.seen += 1
        return self.seen, 0.0, bool(self.seen[0] == 3), False, {}


def copies():
    env = Counts()
    return TransformObservation(env, np.copy, env.observation_space)


def stacked(make):
    env = FrameStackObservation(make(), 3)
    env.reset()
    env.step(ACTION)
    return env.step(ACTION)[0].ravel().tolist()


def delayed(make):
    env = DelayObservation(make(), 1)
    env.reset()
    return [float(env.step(ACTION)[0][0]) for _ in range(2)]


def final(kind, make):
    envs = kind([make], autoreset_mode=AutoresetMode.SAME_STEP)
    envs.reset()
    for _ in range(3):
        *_, info = envs.step(ACTION[None])
    envs.close()
    return float(info["final_obs"][0][0])


if __name__ == "__main__":
    rows = [(stacked(make), delayed(make)) for make in (Counts, copies)]
    ends = {kind.__name__: [final(kind, make) for make in (Counts, copies)] for kind in (SyncVectorEnv, AsyncVectorEnv)}
    (stack, delay), (right_stack, right_delay) = rows
    version = f"gymnasium {gymnasium.__version__}"
    print(f"{version}, observations 0, 1, 2 in one array: FrameStackObservation {stack}, copied {right_stack}")
    print(f"DelayObservation by one step: {delay}, copied {right_delay}")
    for name, (kept, copied) in ends.items():
        print(f"{name}, episode that ends with 3: final_obs {kept}, copied {copied}")
    wrong = stack == [2, 2, 2] and delay == [1, 2] and all(end == [0, 3] for end in ends.values())
    sys.exit(not (wrong and right_stack == [0, 1, 2] and right_delay == [0, 1]))
PY
venv/bin/python look.py 2> errors.log || {
    cat errors.log
    echo "changed: not what is described above"
    exit 1
}
echo "as described"
