"""Many things at once, and many one after the other: processes, commands in a folder, 10,000 episodes.

    OMP_NUM_THREADS=1 python -m tests.campaign.load
    OMP_NUM_THREADS=1 python -m tests.campaign.load --only episodes --episodes 500 --output /tmp/load.json

``processes``: one policy plays in 50 environments, each in a process of its own; the results must be
those of one process. ``commands``: two trainings, a benchmark and a recording of demonstrations run at
once in one folder; all must end well, and the trainings with the weights that they have alone.
``episodes``: short episodes in one process, whose memory and open files after a warm-up and at the end
are written down.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil
import torch
from gymnasium.spaces import Box, Dict

from shortcut_policy import Field, Policy, load_policy
from shortcut_policy.data import Normalizer
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.fingerprint import weights_hash
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.rollout.play import rollout

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results/campaign/load.json"
PUSHT = "shortcut_envs:shortcut_policy/PushTKeypoints-v0"
MLP = {"_target_": "shortcut_policy.backbones.Mlp", "width": 16, "depth": 1, "embedding_dim": 8}
#: Open files and memory may grow by so much between warm-up and end.
MORE_FILES, MORE_MB = 0, 20


class Point(gymnasium.Env):
    """Episodes of five steps at most, of a point that is to go to the origin."""

    observation_space = Dict({"state": Box(-2, 2, (2,), np.float32)})
    action_space = Box(-1, 1, (2,), np.float32)
    max_steps = 5

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.position, self.steps = self.np_random.uniform(-1, 1, 2), 0
        return self._seen(), {}

    def step(self, action: np.ndarray) -> Any:
        self.position = np.clip(self.position + np.clip(action, -1, 1), -2, 2)
        self.steps += 1
        near = bool(np.abs(self.position).max() < 0.1)
        return self._seen(), float(near), near, self.steps >= self.max_steps, {"is_success": near}

    def _seen(self) -> dict[str, np.ndarray]:
        return {"state": self.position.astype(np.float32)}


def tiny_policy(obs: dict[str, Field], action: Field, low: float, high: float) -> Policy:
    """Untrained, for observations and actions in a range."""
    policy = Policy.build(obs, action, horizon=4, n_obs_steps=2, n_action_steps=2, backbone=MLP)
    fields = {**obs, "action": action}
    statistics = {name: RunningStatistics() for name in fields}
    for name, field in fields.items():
        size = int(np.prod(field.shape))
        statistics[name].update(np.linspace([low] * size, [high] * size, 20).reshape(20, *field.shape))
    policy.normalizer = Normalizer(fields, statistics)
    return policy.eval()


def processes(count: int) -> dict[str, Any]:
    """One policy in so many environments at once, in processes and in one."""
    obs = {"keypoint": Field("keypoint", shape=(9, 2)), "agent_pos": Field("agent_pos", shape=(2,))}
    policy = tiny_policy(obs, Field("action", shape=(2,)), 0, 512)
    seeds = range(100_000, 100_000 + count)

    def play(asynchronous: bool) -> Any:
        def make() -> gymnasium.Env:
            return gymnasium.make(PUSHT, max_steps=32)

        return rollout(policy, make, seeds, 1, num_envs=count, batch_size=count, asynchronous=asynchronous)

    watch = Watch(os.getpid())
    started = time.perf_counter()
    apart = play(True)
    seconds = time.perf_counter() - started
    watch.end()
    together = play(False)
    same = all(a.score == b.score and a.length == b.length for a, b in zip(apart, together, strict=True))
    left = [child for child in psutil.Process().children(recursive=True) if child.status() != "zombie"]
    return {
        "environments": count,
        "processes_seen": watch.most - 1,
        "processes_left": len(left),
        "peak_pss_mb": watch.peak_mb,
        "seconds": round(seconds, 1),
        "results_of_one_process": same,
        "holds": same and watch.most > count and not left,
    }


class Watch:
    """How many processes there are below one, and how much memory they hold together."""

    def __init__(self, pid: int) -> None:
        self.pid, self.most, self.peak_mb, self._ended = pid, 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.5):
            family = [psutil.Process(self.pid), *psutil.Process(self.pid).children(recursive=True)]
            self.most = max(self.most, len(family))
            total = 0
            for process in family:
                try:
                    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                except OSError:
                    continue  # it has ended
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            self.peak_mb = max(self.peak_mb, total // 1024)

    def end(self) -> None:
        """Stop looking."""
        self._ended.set()
        self._thread.join()


TINY = (
    *(
        "task=pusht",
        "backbone=unet_small",
        "backbone.down_dims=[16,32]",
        "backbone.embedding_dim=16",
        "cpu=true",
    ),
    *(
        "trainer.max_steps=30",
        "trainer.batch_size=16",
        "trainer.warmup_steps=2",
        "trainer.checkpoint_every=10",
    ),
    *("trainer.validate_every=15", "trainer.precision=fp32", "trainer.threads=1"),
)


def commands() -> dict[str, Any]:
    """Commands that work in one folder at the same time."""
    with tempfile.TemporaryDirectory() as folder:
        train = ["train", *TINY]
        alone = [
            run_command(folder, [*train, f"seed={seed}", f"output=alone{seed}"]).wait() for seed in (0, 1)
        ]
        given = [
            [*train, "seed=0", "output=runs/a"],
            [*train, "seed=1", "output=runs/b"],
            ["collect", "expert=pusht", "episodes=3", "output=made.zarr"],
            [
                *("benchmark", "output=compared", "episodes=2", "+env.max_steps=16", "compute_rounds=1"),
                "entries=[{name: a, checkpoint: alone0, steps: [1]},"
                "{name: b, checkpoint: alone1, steps: [1]}]",
            ],
        ]
        started = time.perf_counter()
        running = [run_command(folder, command) for command in given]
        codes = [process.wait() for process in running]
        seconds = time.perf_counter() - started
        notes = {
            command[0]: process.stderr.read().decode().strip().splitlines()[-1:]
            for command, process in zip(given, running, strict=True)
            if process.returncode and process.stderr is not None
        }
        same = not any(codes) and all(
            weights_hash(load_policy(Path(folder, f"alone{seed}")))
            == weights_hash(load_policy(Path(folder, run)))
            for seed, run in ((0, "runs/a"), (1, "runs/b"))
        )
    return {
        "commands": [command[0] for command in given],
        "ended_with": [*alone, *codes],
        **({"errors": notes} if notes else {}),
        "weights_as_alone": same,
        "seconds": round(seconds, 1),
        "holds": same and not any([*alone, *codes]),
    }


def run_command(folder: str, command: list[str]) -> subprocess.Popen[bytes]:
    """A command of the command line, in a folder."""
    script = ROOT / "scripts" / f"{command[0]}.py"
    return subprocess.Popen(
        [sys.executable, str(script), *command[1:]],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def episodes(count: int) -> dict[str, Any]:
    """Short episodes, fifty at a time, in ten rounds; the first is the warm-up."""
    policy = tiny_policy({"state": Field("state", shape=(2,))}, Field("action", shape=(2,)), -1, 1)
    rounds, each = [], count // 10
    started = time.perf_counter()
    for number in range(10):
        seeds = range(number * each, (number + 1) * each)
        results = rollout(policy, Point, seeds, 1, num_envs=50, batch_size=50)
        assert len(results) == each and not any(result.error for result in results)
        del results
        rounds.append(state())
    first, last = rounds[0], rounds[-1]
    grown = {key: last[key] - first[key] for key in first}
    return {
        "episodes": 10 * each,
        "after_warm_up": first,
        "at_the_end": last,
        "grown": grown,
        "seconds": round(time.perf_counter() - started, 1),
        "holds": grown["open_files"] <= MORE_FILES and grown["rss_mb"] <= MORE_MB and grown["threads"] <= 0,
    }


def state() -> dict[str, int]:
    """Of this process."""
    process = psutil.Process()
    return {
        "rss_mb": process.memory_info().rss // 2**20,
        "open_files": process.num_fds(),
        "threads": process.num_threads(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=("processes", "commands", "episodes"), default=None)
    parser.add_argument("--processes", type=int, default=50)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "episodes": lambda: episodes(given.episodes),
        "processes": lambda: processes(given.processes),
        "commands": commands,
    }
    results = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {}
    for name in given.only or parts:
        results[name] = {
            **parts[name](),
            "commit": commit(),
            "command": command_line(),
            "date": datetime.now(UTC).date().isoformat(),
        }
        print(name, results[name], flush=True)
        results["device"], results["versions"] = device_name(torch.device("cpu")), library_versions()
        write_atomic(given.output, json.dumps(results, indent=2) + "\n")
    if not all(results[name]["holds"] for name in given.only or parts):
        sys.exit(1)


if __name__ == "__main__":
    main()
