"""What ``make demo`` ends with for several training seeds: ``results/demo/results.json``.

    python benchmarks/demo.py --seeds 0 1 2
    python benchmarks/demo.py --seeds 0 1 2 --side-by-side 3    # sooner, with one thread each

Rows are of ``{seed, method, steps, score, success, minutes}``; ``minutes`` is the wall-clock of a whole demo,
and ``side_by_side`` says how many shared the machine.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas
import torch

from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import commit
from shortcut_policy.rollout.latency import device_name

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Run the demo for each seed and write the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--side-by-side", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("outputs/demo_seeds"))
    parser.add_argument("--results", type=Path, default=ROOT / "results" / "demo" / "results.json")
    options = parser.parse_args()
    made_at = commit()
    with ThreadPoolExecutor(options.side_by_side) as pool:
        runs = pool.map(lambda seed: run(seed, options.output, options.side_by_side), options.seeds)
        rows = [row for own in runs for row in own]
    described = {
        "command": f"python benchmarks/demo.py --seeds {' '.join(map(str, options.seeds))}"
        f" --side-by-side {options.side_by_side}",
        "commit": made_at,
        "device": device_name(torch.device("cpu")),
        "side_by_side": options.side_by_side,
        "means": means(rows),
        "rows": rows,
    }
    write_atomic(options.results, json.dumps(described, indent=2) + "\n")
    for mean in described["means"]:
        print("{method}, {steps} steps: score {score:.3f}, strict success {success:.0%}".format(**mean))


def run(seed: int, output: Path, side_by_side: int) -> list[dict[str, Any]]:
    """The rows of one seed."""
    folder = output / f"seed_{seed}"
    command = [sys.executable, ROOT / "scripts" / "benchmark.py", "--config-name", "demo"]
    threads = {"OMP_NUM_THREADS": "1"} if side_by_side > 1 else {}
    start = time.monotonic()
    subprocess.run(
        [*command, f"training_seed={seed}", f"output={folder}"], check=True, env=os.environ | threads
    )
    minutes = round((time.monotonic() - start) / 60, 2)
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return [
        {"seed": seed, "method": row["name"]}
        | {key: row[key] for key in ("steps", "score", "success", "score_ci", "success_ci", "train_steps")}
        | {"minutes": minutes}
        for row in rows
    ]


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the seeds of each method and step count."""
    found = pandas.DataFrame(rows).groupby(["method", "steps"], sort=False)[["score", "success"]].mean()
    return found.reset_index().to_dict("records")


if __name__ == "__main__":
    main()
