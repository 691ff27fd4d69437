"""What training on a CPU loses while other programs keep cores busy, with and without adapting its threads.

    python benchmarks/busy_core.py --seconds 30

For a quiet machine: what else runs on it is measured, too. Prints updates a second; --output writes JSON.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from training_step import make_trainer

from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.training.threads import Threads
from shortcut_policy.training.trainer import Trainer

NETWORK = ("objective=shortcut", "backbone.down_dims=[64,128,256]", "trainer.batch_size=128", "cpu=true")


@contextlib.contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """So many other programs that never rest."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def updates_a_second(trainer: Trainer, threads: Threads, seconds: float) -> float:
    """Of the trainer with these threads, the first ones left out: they find out what the machine does."""
    counts = []
    for span in (min(seconds, 10), seconds):
        count, start = 0, time.perf_counter()
        while time.perf_counter() < start + span:
            with threads:
                trainer._update()
            trainer.step, count = trainer.step + 1, count + 1
        counts.append(count / (time.perf_counter() - start))
    threads.close()
    return counts[-1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--busy", type=int, default=1, help="other programs that keep a core busy each")
    parser.add_argument("--settings", nargs="+", help="of threads, instead of all")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    trainer, most = make_trainer(*NETWORK), torch.get_num_threads()
    settings = [int(one) if one.isdigit() else one for one in arguments.settings or (str(most), "1", "auto")]
    updates_a_second(trainer, Threads(1, trainer.device), 3)
    measured = []
    for busy in (0, arguments.busy):
        for setting in settings:
            before = os.getloadavg()[0]
            with busy_cores(busy):
                threads = Threads(setting, trainer.device)
                rate = updates_a_second(trainer, threads, arguments.seconds)
            found = {"busy": busy, "threads": setting, "rate": rate, "load_average_before": before}
            measured.append(found)
            print(f"{rate:6.2f} updates/s  threads={setting}, {busy} other programs (load {before:.1f})")
    if arguments.output:
        record = {"measured": measured, "most": most, "commit": commit(), "command": command_line()}
        write_atomic(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
