"""Where the time of an update in LeRobot goes: its own diffusion policy, and ours in the plugin.

    python benchmarks/lerobot_update.py --lerobot ENV/bin/python

where ENV is as for `lerobot_training.py`, whose data and networks these are; with ``--large`` networks have
Diffusion Policy's 66M parameters. Prints and writes results/lerobot_training/update.json: CPU seconds of each
part, the median of several updates, in one thread.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median

from lerobot_training import POLICIES, ROOT, SIZES, write_data, write_report

#: What is other than in `POLICIES`: parameters of LeRobot's, of the plugin's.
LARGE = {"down_dims": [256, 512, 1024], "kernel_size": 5}, {"backbone": "unet_large"}

#: The first updates are of a start: caches, and the first call of everything.
START = 3


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lerobot", required=True, help="interpreter that has LeRobot and the plugin")
    parser.add_argument("--rounds", type=int, default=15, help=f"updates of each, the first {START} left out")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--large", action="store_true", help="networks of 66M parameters, not of 4.5M")
    parser.add_argument("--output", type=Path, default=ROOT / "results/lerobot_training/update.json")
    given = parser.parse_args()

    policies = {name: {**settings, **SIZES} for name, settings in POLICIES.items()}
    for settings in policies.values():
        if "down_dims" in settings:
            settings["down_dims"] = json.loads(settings["down_dims"])
    policies["plugin diffusion, AdamW"] = {**policies["plugin diffusion"], "optimizer": "adamw"}
    policies["plugin shortcut, with self-consistency"] = {
        **policies["plugin shortcut"],
        "objective_settings": {"bootstrap_from": 0.0},
    }
    if given.large:
        for settings in policies.values():
            settings |= LARGE[settings["type"] == "shortcut"]
    with tempfile.TemporaryDirectory() as folder:
        write_data(given.lerobot, Path(folder))
        Path(folder, "policies.json").write_text(json.dumps(policies))
        side = Path(__file__).with_name("lerobot_update_side.py")
        arguments = [str(Path(folder, "data")), str(Path(folder, "policies.json"))]
        done = subprocess.run(
            [given.lerobot, "-W", "ignore", str(side), *arguments, str(given.rounds), str(given.batch)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    measured = json.loads(done.stdout.splitlines()[-1])
    rows = []
    for name, parts in measured.items():
        seconds = {part: median(values[START:]) for part, values in parts.items()}
        seconds["sum"] = sum(seconds.values())
        rows.append({"policy": name, "cpu_seconds": {part: round(x, 4) for part, x in seconds.items()}})
    more = " --large" if given.large else ""
    write_report(rows, given.rounds - START, given.batch, Path(__file__).name, given.output, more)


if __name__ == "__main__":
    main()
