"""How long a program waits for ``import shortcut_policy``, as a multiple of what ``import torch`` takes.

    python benchmarks/import_time.py

Fresh interpreters, in turns, and medians. The names are lazy, so it is measured with them: those that load a
policy and act, all of them, and what the command of rollouts imports. Prints the times in milliseconds and
the ratios; --output writes JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit

PROGRAMS = {
    "import torch": "import torch",
    "from shortcut_policy import load_policy, Policy": "from shortcut_policy import load_policy, Policy",
    "from shortcut_policy import *": "from shortcut_policy import *",
    "scripts/rollout.py": "import shortcut_policy.commands.rollout",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    milliseconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for turn in range(arguments.rounds + 1):  # the first one fills the file cache
        for name, program in PROGRAMS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", program], check=True)
            if turn:
                milliseconds[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in milliseconds.items()}
    alone = medians["import torch"]
    for name, value in medians.items():
        print(f"{value:8.0f} ms  {value / alone:5.2f}x  {name}")
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    if arguments.output:
        record = {
            "milliseconds": milliseconds,
            "load_average": os.getloadavg()[0],
            "commit": commit(),
            "command": command_line(),
        }
        write_atomic(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
