"""The shipped Push-T policy in LeRobot's harness and in ours, from the same starts with the same noise.

    python benchmarks/lerobot_harness.py --lerobot ENV/bin/python

where ENV has LeRobot 0.6.1 with gym-pusht and the plugin (docs/lerobot_plugin.md). Prints and writes
results/lerobot_harness/results.json. Both harnesses play 300 steps at most, end an episode when the block
covers more than 95% of the goal, and call that success; the score is the best coverage as a share of 95%.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import commit
from shortcut_policy.rollout.statistics import bootstrap_interval, wilson_interval

ROOT = Path(__file__).resolve().parent.parent
FIRST_SEED, NOISE_SEED, BATCH = 1000, 0, 50
#: Score and success of each episode, in the order of the starts.
Played = tuple[list[float], list[bool]]
#: Scores that differ by less are the same: coverage is computed from float64 polygons.
SAME = 1e-6


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lerobot", required=True, help="interpreter that has LeRobot and the plugin")
    parser.add_argument("--checkpoint", default="pretrained/pusht")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--episodes", type=int, default=100, help=f"a multiple of {BATCH}")
    parser.add_argument("--jobs", type=int, default=1, help="evaluations side by side; changes no score")
    parser.add_argument(
        "--work", type=Path, default=ROOT / "outputs/lerobot_harness", help="kept, and reused"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "results/lerobot_harness/results.json")
    given = parser.parse_args()

    work = given.work.absolute()
    converted = work / "policy"
    if not converted.exists():
        convert = [given.lerobot, "-m", "lerobot_policy_shortcut.convert", given.checkpoint, str(converted)]
        run([*convert, "--gym-pusht"])
    with ThreadPoolExecutor(given.jobs) as pool:
        ours = {n: pool.submit(roll_out, given.checkpoint, n, given.episodes, work) for n in given.steps}
        theirs = {n: pool.submit(evaluate, given.lerobot, n, given.episodes, work) for n in given.steps}
    rows, same = [], {}
    for steps in given.steps:
        own, other = ours[steps].result(), theirs[steps].result()
        rows += [row("lerobot-eval", steps, *other), row("ours", steps, *own)]
        same[str(steps)] = int((np.abs(np.array(other[0]) - np.array(own[0])) < SAME).sum())
    report = {
        "rows": rows,
        "episodes_with_the_same_score": same,
        "starts": f"gym-pusht's, seeds {FIRST_SEED} to {FIRST_SEED + given.episodes - 1}",
        "checkpoint": given.checkpoint,
        "success": "coverage above 0.95 at some step; score: best coverage / 0.95, at most 1",
        "versions": {"ours": versions(sys.executable), "lerobot-eval": versions(given.lerobot)},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit(),
        "command": "python benchmarks/lerobot_harness.py --lerobot ENV/bin/python --steps "
        + " ".join(map(str, given.steps)),
    }
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(given.output, text)


def roll_out(checkpoint: str, steps: int, episodes: int, work: Path) -> Played:
    """Each episode in our harness; what is finished is not done again."""
    output = work / f"ours_{steps}_{episodes}"
    command = [sys.executable, "scripts/rollout.py", f"checkpoint={checkpoint}", f"output={output}"]
    command += [f"steps=[{steps}]", f"episodes={episodes}", f"seed={FIRST_SEED}", f"noise_seed={NOISE_SEED}"]
    command += [f"num_envs={BATCH}", f"batch_size={BATCH}", "plot=false"]
    paths = [str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    if not [*output.rglob("summary.json")]:
        run([*command, "+env.id=gym_pusht_starts:GymPushTStarts-v0"], PYTHONPATH=os.pathsep.join(paths))
    (file,) = output.rglob("episodes.jsonl")
    played = sorted(map(json.loads, file.read_text().splitlines()), key=lambda episode: episode["seed"])
    return [episode["score"] for episode in played], [episode["success"] for episode in played]


def evaluate(python: str, steps: int, episodes: int, work: Path) -> Played:
    """Each episode in LeRobot's; what is finished is not done again."""
    output = work / f"lerobot_{steps}_{episodes}"
    options = {
        "policy.path": work / "policy",
        "policy.device": "cpu",
        "policy.sampling_steps": steps,
        "policy.sampling_seed": NOISE_SEED,
        "policy.first_episode": FIRST_SEED,
        "env.type": "pusht",
        "env.obs_type": "environment_state_agent_pos",
        "eval.n_episodes": episodes,
        "eval.batch_size": BATCH,
        # LeRobot's worker processes do not import gym-pusht, and find no such environment.
        "eval.use_async_envs": "false",
        "seed": FIRST_SEED,
        "output_dir": output,
    }
    command = [python, "-W", "ignore", "-m", "lerobot.scripts.lerobot_eval"]
    if not (output / "eval_info.json").is_file():
        run([*command, *(f"--{key}={value}" for key, value in options.items())], SDL_VIDEODRIVER="dummy")
    (task,) = json.loads((output / "eval_info.json").read_text())["per_task"]
    return task["metrics"]["max_rewards"], task["metrics"]["successes"]


def row(harness: str, steps: int, scores: list[float], successes: list[bool]) -> dict[str, Any]:
    """A row of the table, with 95% intervals."""
    return {
        "harness": harness,
        "steps": steps,
        "episodes": len(scores),
        "score": float(np.mean(scores)),
        "score_interval": [float(end) for end in bootstrap_interval(np.array(scores))],
        "success": float(np.mean(successes)),
        "success_interval": [float(end) for end in wilson_interval(int(sum(successes)), len(successes))],
    }


def versions(python: str) -> dict[str, str]:
    """What an interpreter has of the packages that decide a result."""
    names = ["lerobot", "gym-pusht", "shortcut-policy", "torch", "numpy", "pymunk", "gymnasium"]
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {d.metadata['Name']: d.version for d in m.distributions()}\n"
        "print(json.dumps({n: found.get(n, found.get(n.replace('-', '_'))) for n in sys.argv[1:]}))"
    )
    done = subprocess.run([python, "-c", code, *names], stdout=subprocess.PIPE, text=True, check=True)
    return {name: version for name, version in json.loads(done.stdout).items() if version}


def run(command: list[str], **environment: str) -> None:
    """A command of the checkout, in one thread and without a hub."""
    offline = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    print("$", " ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **offline, **environment})


if __name__ == "__main__":
    main()
