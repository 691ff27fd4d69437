"""What the default training costs beside an older one: same data, same seeds, side by side, a core each.

    git worktree add /tmp/old 28240b4
    OMP_NUM_THREADS=1 python benchmarks/training_cost.py --old /tmp/old --part 0.5 --old-part 1

The default recipe of an older checkout trains on one core, seed after seed. On the other one the default of
this checkout does, and after it flow matching for as many updates; with ``--swap`` both change cores. Each
policy plays the same held-out starts with one step as soon as it is trained, so that the cores stay busy.
Seconds are of the training alone, without start, validation and rollouts; ``ratio`` is the median of the
default's seconds to the median of the older one's. An interrupted run goes on: what is complete is not done
again. More seeds later are added in the same way, on the same machine.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from checkouts import commit_of, environment_of, text_of

from shortcut_policy.checkpoint import find_checkpoint, read_metadata
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.rollout.statistics import bootstrap_interval, success_interval

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = Path("results/training_cost/results.json")
#: What both trainings leave out of their time: validation, and all checkpoints but the last one.
QUIET = ["trainer.validate_every=0", "trainer.checkpoint_every=100000000"]


@dataclass(frozen=True)
class Training:
    """One training and where it is made."""

    name: str
    checkout: Path
    seed: int
    updates: int
    overrides: tuple[str, ...] = ()


def main() -> None:
    """Train, play, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the older version")
    parser.add_argument("--part", type=float, default=1.0, help="of the default number of updates")
    parser.add_argument("--old-part", type=float, help="of those of the older version; --part by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--old-seeds", type=int, nargs="+", help="of the older version; --seeds by default")
    parser.add_argument("--flow-seeds", type=int, nargs="*", help="of flow matching; --seeds by default")
    parser.add_argument("--swap", action="store_true", help="the older version takes the other core")
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--task", default="pusht", help="pusht is bundled; pusht_human")
    parser.add_argument("--folder", type=Path, default=Path("outputs/training_cost"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    cores = sorted(psutil.Process().cpu_affinity())[:2]
    if len(cores) < 2:
        parser.error("two cores are needed, one for each of two trainings side by side")
    if options.old_part is None:
        options.old_part = options.part
    old_name = "default_" + commit_of(options.old)
    updates = scaled(ROOT, options.part, options.task)
    old_updates = scaled(options.old, options.old_part, options.task)
    old_seeds = options.seeds if options.old_seeds is None else options.old_seeds
    flow_seeds = options.seeds if options.flow_seeds is None else options.flow_seeds
    flow = ("objective=flow_matching",)
    queues = [
        [Training(old_name, options.old, seed, old_updates) for seed in old_seeds],
        [Training("default", ROOT, seed, updates) for seed in options.seeds]
        + [Training("flow_matching", ROOT, seed, updates, flow) for seed in flow_seeds],
    ]
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(len(queues)) as pool:
        sides = reversed(cores) if options.swap else cores
        running = [
            pool.submit(work_off, queue, core, options, rows)
            for queue, core in zip(queues, sides, strict=True)
        ]
        for each in running:
            each.result()
    order = [(training.name, training.seed) for queue in reversed(queues) for training in queue]
    rows.sort(key=lambda row: order.index((row["name"], row["seed"])))
    write(options, rows, old_name)


def work_off(
    trainings: Sequence[Training], core: int, options: argparse.Namespace, rows: list[dict[str, Any]]
) -> None:
    """Train and play one after the other on a core; their rows are added to those that are there."""
    for one in trainings:
        folder = options.folder / f"seed{one.seed}" / one.name
        train(one, folder, core, options.task)
        seconds = read_metadata(find_checkpoint(folder))["train_seconds"]
        episodes = play(folder, core, options.starts)
        row = {"name": one.name, "seed": one.seed, "seconds": seconds, "updates": one.updates}
        row |= {key: statistics.mean(found) for key, found in episodes.items()}
        print(row, flush=True)
        rows.append({**row, "episodes": episodes})


def scaled(checkout: Path, part: float, task: str) -> int:
    """This part of the default number of updates of a checkout."""
    text = text_of([sys.executable, "scripts/train.py", f"task={task}", "--cfg", "job"], checkout)
    block = text[text.index("\ntrainer:") :]
    whole = next(line for line in block.splitlines() if line.strip().startswith("max_steps:"))
    return round(part * int(whole.split(":")[1]))


def train(training: Training, output: Path, core: int, task: str) -> None:
    """A training of a checkout on a core, which has to end well; one that was complete ends at once."""
    command = [sys.executable, "scripts/train.py", f"task={task}", f"seed={training.seed}", "cpu=true"]
    command += ["resume=true", f"trainer.max_steps={training.updates}", f"output={output.resolve()}", *QUIET]
    log = output.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as lines:
        process = subprocess.Popen(
            [*command, *training.overrides],
            cwd=training.checkout,
            env=environment_of(training.checkout),
            stdout=lines,
            stderr=subprocess.STDOUT,
        )
        psutil.Process(process.pid).cpu_affinity([core])
        if process.wait():
            raise SystemExit(f"{process.args!r} ended with status {process.returncode}; see {log}")


def play(run: Path, core: int, starts: int) -> dict[str, list[float]]:
    """Score and strict success of one step in each episode, played by this checkout."""
    output = run / "played"
    command = [sys.executable, "scripts/rollout.py", f"checkpoint={run.resolve()}", "steps=[1]"]
    command += [f"episodes={starts}", "num_envs=25", f"output={output.resolve()}"]
    text_of(["taskset", "--cpu-list", str(core), *command], ROOT)
    (file,) = output.rglob("episodes.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    return {key: [float(episode[key]) for episode in episodes] for key in ("score", "success")}


def write(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]], old_name: str) -> None:
    """The trainings, and for each name the means over its seeds with 95% intervals over seeds and starts."""
    named = {
        name: [row for row in rows if row["name"] == name]
        for name in dict.fromkeys(row["name"] for row in rows)
    }
    seconds = {name: statistics.median(row["seconds"] for row in own) for name, own in named.items()}
    ratio = seconds["default"] / seconds[old_name]
    document = {
        "command": command_line(),
        "commit": commit(),
        "versions": library_versions(),
        "device": device_name(torch.device("cpu")),
        "task": options.task,
        "part_of_the_default_updates": options.part,
        "part_of_the_older_updates": options.old_part,
        "starts": options.starts,
        "ratio": ratio,
        "rows": [summary(name, own) for name, own in named.items()],
        "trainings": [{key: row[key] for key in row if key != "episodes"} for row in rows],
    }
    write_atomic(options.output, json.dumps(document, indent=2) + "\n")
    print(f"the default takes {ratio:.2f} of the time of {old_name}")


def summary(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The row of one name."""
    values = {key: np.array([row["episodes"][key] for row in rows]) for key in ("score", "success")}
    return {
        "name": name,
        "seconds": statistics.mean(row["seconds"] for row in rows),
        "updates": rows[0]["updates"],
        "score": float(values["score"].mean()),
        "score_ci": bootstrap_interval(values["score"]),
        "success": float(values["success"].mean()),
        "success_ci": success_interval(values["success"])[0],
        "seeds": len(rows),
    }


if __name__ == "__main__":
    main()
