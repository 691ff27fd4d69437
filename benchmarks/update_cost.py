"""CPU time of an update of the default training beside that of an older version, both parts of the training.

    git worktree add /tmp/old 28240b4
    OMP_NUM_THREADS=1 python benchmarks/update_cost.py --old /tmp/old

Versions take turns, each time in a process of its own; an update is forward, backward and optimizer step of
128 rows of the bundled demonstrations in fp32. The mean weighs the part before self-consistency begins and
the rest as the training has them. CPU time of one thread is hardly changed by other work on the machine. How
long whole trainings take, and what comes of them, is measured by ``training_cost.py``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from checkouts import commit_of, environment_of

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = Path("results/training_cost/update.json")
SETTINGS = ("task=pusht", "cpu=true", "trainer.precision=fp32")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--old", type=Path, required=True, help="a checkout of the older version")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each version")
    parser.add_argument("--updates", type=int, default=7, help="of each part in a process")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--side", action="store_true", help="own use: measure what is on the path")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measured(options.updates)))
        return
    from shortcut_policy.paths import write_atomic
    from shortcut_policy.provenance import command_line, commit, library_versions
    from shortcut_policy.rollout.latency import device_name

    places = {"default": ROOT, f"default_{commit_of(options.old)}": options.old.resolve()}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in places}
    for _ in range(options.rounds):
        for name, place in places.items():
            found[name].append(in_checkout(place, options.updates))
            print(name, found[name][-1], flush=True)
    rows = [row(name, own) for name, own in found.items()]
    document = {
        "command": command_line(),
        "commit": commit(),
        "versions": library_versions(),
        "device": device_name(torch.device("cpu")),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "ratio": rows[0]["mean_ms"] / rows[1]["mean_ms"],
        "rows": rows,
    }
    write_atomic(options.output, json.dumps(document, indent=2) + "\n")
    print(f"an update of the default takes {document['ratio']:.2f} of the time of {rows[1]['name']}'s")


def row(name: str, processes: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the processes, and the mean over a training."""
    first, rest = (
        statistics.median(value for one in processes for value in one[part]) for part in ("first", "rest")
    )
    begins = processes[0]["begins"]
    mean = begins * first + (1 - begins) * rest
    return {"name": name, "begins": begins, "first_ms": first, "rest_ms": rest, "mean_ms": mean}


def in_checkout(place: Path, updates: int) -> dict[str, Any]:
    """What `measured` gives with the code of a checkout."""
    command = [sys.executable, str(ROOT / "benchmarks/update_cost.py"), "--old", str(place), "--side"]
    done = subprocess.run(
        [*command, "--updates", str(updates)],
        cwd=place,
        env=environment_of(place, last=["benchmarks"]),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measured(updates: int) -> dict[str, Any]:
    """Where self-consistency begins, a part of the training, and milliseconds of updates before and after."""
    # The folder of this script comes first on the path, and it has another version's modules.
    sys.path.pop(0)
    from training_step import bare_update, make_trainer

    trainer = make_trainer(*SETTINGS)
    parts = {"first": bare_update(trainer, 0.01), "rest": bare_update(trainer, 0.99)}
    times: dict[str, list[float]] = {part: [] for part in parts}
    for number in range(2 + updates):
        for part, update in parts.items():
            start = time.process_time()
            update()
            if number >= 2:
                times[part].append(1000 * (time.process_time() - start))
    return {"begins": trainer.model.objective.bootstrap_from, **times}


if __name__ == "__main__":
    main()
