"""What the default training costs beside an older one: same data, same seeds, side by side, a core each.

    git worktree add /tmp/old 28240b4
    OMP_NUM_THREADS=1 python benchmarks/training_cost.py --old /tmp/old --part 0.25

For each seed the default recipe of this checkout trains on one core while the default of the older one trains
on another; then they change cores for the next seed. Flow matching for as many updates as the default follows
on the core that is free first. Each policy plays the same held-out starts with one step. Seconds are of the
training alone, without start, validation and rollouts; ``ratio`` is the median over seeds of the default's
seconds to the older one's. An interrupted run goes on: what is complete is not done again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch

from shortcut_policy.checkpoint import find_checkpoint, read_metadata
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = Path("results/training_cost/results.json")
#: What both trainings leave out of their time: validation, and all checkpoints but the last one.
QUIET = ["trainer.validate_every=0", "trainer.checkpoint_every=100000000"]


def main() -> None:
    """Train, play, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the older version")
    parser.add_argument("--part", type=float, default=1.0, help="of the default number of updates, of both")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--task", default="pusht", help="pusht is bundled; pusht_human")
    parser.add_argument("--folder", type=Path, default=Path("outputs/training_cost"))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    cores = sorted(psutil.Process().cpu_affinity())[:2]
    if len(cores) < 2:
        parser.error("two cores are needed, one for each of two trainings side by side")
    options.folder.mkdir(parents=True, exist_ok=True)
    old_name = "default_" + run_text(["git", "rev-parse", "--short=7", "HEAD"], options.old)
    rows: list[dict[str, Any]] = []
    for number, seed in enumerate(options.seeds):
        first, second = cores if number % 2 == 0 else reversed(cores)
        folder = options.folder / f"seed{seed}"
        updates = {
            "default": scaled(ROOT, options.part, options.task),
            old_name: scaled(options.old, options.part, options.task),
        }
        updates["flow_matching"] = updates["default"]
        old = start(options.old, folder / old_name, second, options.task, seed, updates[old_name])
        new = start(ROOT, folder / "default", first, options.task, seed, updates["default"])
        finish(new)
        flow = start(
            ROOT,
            folder / "flow_matching",
            first,
            options.task,
            seed,
            updates["flow_matching"],
            "objective=flow_matching",
        )
        finish(flow)
        finish(old)
        for name, count in updates.items():
            seconds = read_metadata(find_checkpoint(folder / name))["train_seconds"]
            played = play(folder / name, options.starts)
            rows.append({"name": name, "seed": seed, "seconds": seconds, "updates": count, **played})
            print(rows[-1], flush=True)
        write(options, rows, old_name)


def scaled(checkout: Path, part: float, task: str) -> int:
    """This part of the default number of updates of a checkout."""
    text = run_text([sys.executable, "scripts/train.py", f"task={task}", "--cfg", "job"], checkout)
    block = text[text.index("\ntrainer:") :]
    whole = next(line for line in block.splitlines() if line.strip().startswith("max_steps:"))
    return round(part * int(whole.split(":")[1]))


def start(
    checkout: Path, output: Path, core: int, task: str, seed: int, updates: int, *more: str
) -> subprocess.Popen[bytes]:
    """A training of a checkout on a core; one that was complete ends at once."""
    command = [sys.executable, "scripts/train.py", f"task={task}", f"seed={seed}", "cpu=true", "resume=true"]
    command += [f"trainer.max_steps={updates}", f"output={output.resolve()}", *QUIET, *more]
    log = output.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        command, cwd=checkout, env=environment(checkout), stdout=log.open("ab"), stderr=subprocess.STDOUT
    )
    psutil.Process(process.pid).cpu_affinity([core])
    return process


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for a training, which has to end well."""
    if process.wait():
        raise SystemExit(f"{process.args!r} ended with status {process.returncode}; see its log")


def play(checkpoint: Path, starts: int) -> dict[str, float]:
    """Score and strict success of one step, played by this checkout."""
    output = checkpoint / "played"
    run_text(
        [
            sys.executable,
            "scripts/rollout.py",
            f"checkpoint={checkpoint.resolve()}",
            "steps=[1]",
            f"episodes={starts}",
            "num_envs=25",
            f"output={output.resolve()}",
        ],
        ROOT,
    )
    (row,) = json.loads((output / "results.json").read_text())
    return {"score": row["score"], "success": row["success"]}


def write(options: argparse.Namespace, rows: Sequence[Mapping[str, Any]], old_name: str) -> None:
    """The rows, and the means over seeds."""
    ratios = [
        of(rows, "default", row["seed"])["seconds"] / row["seconds"]
        for row in rows
        if row["name"] == old_name
    ]
    means = [
        {
            "name": name,
            **{
                key: statistics.mean(row[key] for row in rows if row["name"] == name)
                for key in ("seconds", "updates", "score", "success")
            },
            "seeds": len(ratios),
        }
        for name in dict.fromkeys(row["name"] for row in rows)
    ]
    document = {
        "command": command_line(),
        "commit": commit(),
        "versions": library_versions(),
        "device": device_name(torch.device("cpu")),
        "task": options.task,
        "part_of_the_default_updates": options.part,
        "starts": options.starts,
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "rows": means,
        "trainings": list(rows),
    }
    write_atomic(options.output, json.dumps(document, indent=2) + "\n")
    print(f"the default takes {statistics.median(ratios):.2f} of the time of {old_name}")


def of(rows: Sequence[Mapping[str, Any]], name: str, seed: int) -> Mapping[str, Any]:
    """The row of a name and a seed."""
    return next(row for row in rows if row["name"] == name and row["seed"] == seed)


def environment(checkout: Path) -> dict[str, str]:
    """The environment's variables with a checkout's own packages and one thread."""
    packages = os.pathsep.join(str(checkout.resolve() / part) for part in ("", "envs"))
    return {**os.environ, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1"}


def run_text(command: Sequence[str], checkout: Path) -> str:
    """What a command prints, run in a checkout."""
    done = subprocess.run(
        command, cwd=checkout, env=environment(checkout), check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
