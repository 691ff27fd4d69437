"""How fast windows come from a LeRobot dataset: through this library, and through LeRobot itself.

    python3.12 -m venv /tmp/lerobot && /tmp/lerobot/bin/pip install 'lerobot[dataset]==0.6.1'
    python benchmarks/lerobot_read.py --lerobot /tmp/lerobot/bin/python

LeRobot writes 20 episodes of 200 steps with a camera of 96 x 96 as it does by itself (AV1), see
`lerobot_read_side.py`. Windows are two frames, two states and sixteen actions, in random batches of 64, on
one core and in one process. Rows:

- memory, disk: `DemonstrationDataset` as the trainer reads it, with the decoded frames in memory and in their
file; - items: the same data set, from its file, through a DataLoader of torch, window by window;
- lerobot: LeRobotDataset and a DataLoader, which decode the video for every window.

``ready_s`` is from the opening to the first batch, without imports: the first row, disk, decodes the video.
``windows_per_cpu_s`` counts the seconds that were computed, which other work of the machine does not stretch;
``times_as_fast`` compares these. LeRobot decodes with torchcodec where FFmpeg's libraries are installed, and
with PyAV otherwise: ``decoder`` says which.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from shortcut_policy.data import DemonstrationDataset, Field, LeRobotSource
from shortcut_policy.paths import cache_folder, write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name

OUTPUT = Path("results/lerobot_data/results.json")
SIDE_SCRIPT = Path(__file__).with_name("lerobot_read_side.py")
BATCH = 64
SIZES = {"horizon": 16, "n_obs_steps": 2, "n_action_steps": 8}
OBS = {
    "image": Field("observation.images.top", (96, 96, 3), normalize="image"),
    "state": Field("observation.state", (2,)),
}
#: Rows in the order in which they are measured; largest field in memory (MiB), and batches of each.
ROWS = {"disk": (1, 300), "memory": (1024, 300), "items": (1, 30)}


def measure(name: str, folder: str) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(1)
    limit, count = ROWS[name]
    begun = time.perf_counter()
    dataset = DemonstrationDataset(
        LeRobotSource(folder), OBS, Field("action", (2,)), **SIZES, memory_limit_mb=limit
    )
    draw = items(dataset) if name == "items" else batches(dataset)
    assert draw()["obs"]["image"].shape == (BATCH, 2, 96, 96, 3)
    ready, begun, computed = time.perf_counter() - begun, time.perf_counter(), time.process_time()
    for _ in range(count):
        draw()
    seconds, computed = time.perf_counter() - begun, time.process_time() - computed
    return {
        "name": name,
        "ready_s": round(ready, 2),
        "windows_per_s": round(BATCH * count / seconds, 1),
        "windows_per_cpu_s": round(BATCH * count / computed, 1),
    }


def batches(dataset: DemonstrationDataset) -> Callable[[], Any]:
    """Draws random batches as the trainer does."""
    generator = torch.Generator().manual_seed(0)
    return lambda: dataset.batch(
        dataset.train[torch.randint(len(dataset.train), (BATCH,), generator=generator)]
    )


def items(dataset: DemonstrationDataset) -> Callable[[], Any]:
    """Draws batches of a DataLoader."""
    loader = iter(DataLoader(dataset, BATCH, shuffle=True, generator=torch.Generator().manual_seed(0)))
    return lambda: next(loader)


def run(command: list[str], cache: str) -> str:
    """Standard output of a process on one core, the same for all."""
    core = str(min(os.sched_getaffinity(0)))
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "SHORTCUT_POLICY_CACHE": cache,
    }
    done = subprocess.run(
        ["taskset", "-c", core, *command], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return done.stdout


def main() -> None:
    """Write the dataset, measure all rows, print and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lerobot", help="interpreter of the environment with LeRobot")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--row", nargs=2, metavar=("NAME", "FOLDER"), help="measure one row in this process")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(*arguments.row)))
        return
    if not arguments.lerobot:
        parser.error("--lerobot PYTHON is needed: LeRobot writes the dataset")
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="lerobot_read_") as temporary:
        folder, cache = f"{temporary}/table", f"{temporary}/cache"
        run([arguments.lerobot, str(SIDE_SCRIPT), "write", folder], cache)
        commands = [[sys.executable, __file__, "--row", name, folder] for name in ROWS]
        commands.append([arguments.lerobot, str(SIDE_SCRIPT), "read", folder])
        rows = [json.loads(run(command, cache).splitlines()[-1]) for command in commands]
    speeds = {row["name"]: row["windows_per_cpu_s"] for row in rows}
    for row in rows:
        print(json.dumps(row))
    record = {
        "rows": rows,
        "times_as_fast": {name: round(speeds[name] / speeds["lerobot"], 1) for name in ROWS},
        "frames": "20 episodes of 200 frames of 96 x 96 x 3, in AV1 as LeRobot writes them",
        "batch": f"{BATCH} windows of 2 frames, 2 states and 16 actions",
        "device": device_name(torch.device("cpu")),
        "threads": 1,
        "versions": library_versions("torch", "numpy", "av", "pyarrow"),
        "commit": commit(),
        "command": command_line(),
    }
    write_atomic(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
