"""How fast batches of images come from each place, on the frames of Push-T's human data (25,650 of 96 x 96).

    python scripts/download.py dataset=pusht
    python benchmarks/image_data.py --lerobot-python /tmp/lerobot/bin/python

Windows of two frames and sixteen actions, in batches of 64, with a random crop to 84 x 84, on one core. Rows:

- memory, disk: `DemonstrationDataset`, with the images in memory and in a file (see `data.memory_limit_mb`);
- lerobot: LeRobotDataset and a DataLoader, on the same frames as PNG (see `image_data_lerobot.py`);
- naive: a DataLoader whose items are read window by window from the store.

Each is a process of its own. ``ready_s`` is from the opening to the first batch, without the imports, and
``ready_cpu_s`` what it computed meanwhile, on a machine with other work less; ``ready_again_s`` is the second
time, with the decoded file there. ``windows_per_s_cold`` is read from the disk and not from the system's
memory, and ``windows_per_s_frames_alone`` is without the actions, which LeRobot takes long for. ``rss_mb`` is
the most memory that was resident, in MiB; ``rss_start_mb`` of it was there before the data were opened.

LeRobot needs Python 3.12 and an environment of its own:

    python3.12 -m venv /tmp/lerobot && /tmp/lerobot/bin/pip install 'lerobot[dataset]==0.6.1'
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

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from shortcut_policy.data import DemonstrationDataset, Field, ZarrSource
from shortcut_policy.data.windows import create_windows
from shortcut_policy.paths import cache_folder, write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name

STORE = Path(os.environ.get("SHORTCUT_POLICY_DATA", "data"), "pusht_cchi_v7_replay.zarr")
OUTPUT = Path("results/image_data/results.json")
BATCH, CROP = 64, 84
SIZES = {"horizon": 16, "n_obs_steps": 2, "n_action_steps": 8}
FIELDS = {"obs": {"img": Field("img", (96, 96, 3), normalize="image")}, "action": Field("action", (2,))}
LIBRARIES = ("torch", "numpy", "zarr", "numcodecs")
#: Rows, in the order in which they are measured, and batches of each.
ROWS = {"memory": 300, "disk": 300, "naive": 6}


def crop(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random square of each window, (B, T, H, W, C) -> (B, T, CROP, CROP, C)."""
    height, width = images.shape[2] - CROP + 1, images.shape[3] - CROP + 1
    tops = torch.randint(height, (len(images),), generator=generator).tolist()
    lefts = torch.randint(width, (len(images),), generator=generator).tolist()
    cropped = images.new_empty((*images.shape[:2], CROP, CROP, images.shape[-1]))
    for number, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        cropped[number] = images[number, :, top : top + CROP, left : left + CROP]
    return cropped


class Naive(torch.utils.data.Dataset):
    """Windows read from the store one by one."""

    def __init__(self, path: Path) -> None:
        self.source = ZarrSource(path)
        before, after = SIZES["n_obs_steps"] - 1, SIZES["n_action_steps"] - 1
        self.windows = create_windows(self.source.episode_ends, SIZES["horizon"], before, after)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start, lo, hi = self.windows[index]
        steps = np.clip(start + np.arange(SIZES["horizon"]), lo, hi - 1)
        first, seen = int(steps[0]), steps[: SIZES["n_obs_steps"]]
        images = self.source.read("img", first, int(seen[-1]) + 1)[seen - first]
        actions = self.source.read("action", first, int(steps[-1]) + 1)[steps - first]
        return {"img": images.astype(np.uint8), "action": actions}


def resident() -> int:
    """The most memory that was resident so far, MiB; without that of the process that started this one."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return round(int(line.split()[1]) / 1024)


def rate(batch: Callable[[], Tensor], count: int) -> float:
    """Windows a second, of whole batches with their crops."""
    generator = torch.Generator().manual_seed(1)
    crop(batch(), generator)
    begun = time.perf_counter()
    for _ in range(count):
        crop(batch(), generator)
    return round(BATCH * count / (time.perf_counter() - begun), 1)


def batches(dataset: DemonstrationDataset) -> Callable[[], Tensor]:
    """Draws random batches of a data set as the trainer does."""
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        rows = torch.randint(len(dataset.train), (BATCH,), generator=generator)
        return dataset.batch(dataset.train[rows])["obs"]["img"]

    return draw


def ours(limit: float, folder: str) -> tuple[Callable[[], Tensor], float, float]:
    """Open; what draws batches, and the seconds until the first one: all, and computed."""
    begun, computed = time.perf_counter(), time.process_time()
    dataset = DemonstrationDataset(ZarrSource(STORE), **FIELDS, **SIZES, memory_limit_mb=limit, cache=folder)
    draw = batches(dataset)
    draw()
    return draw, round(time.perf_counter() - begun, 2), round(time.process_time() - computed, 2)


def measure(name: str) -> dict[str, Any]:
    """One row, in this process."""
    torch.set_num_threads(1)
    before = resident()
    row: dict[str, Any] = {"name": name}
    if name == "naive":
        begun = time.perf_counter()
        loader = iter(DataLoader(Naive(STORE), BATCH, shuffle=True, num_workers=0))
        next(loader)
        row["ready_s"] = round(time.perf_counter() - begun, 2)
        row["windows_per_s"] = rate(lambda: next(loader)["img"], ROWS[name])
        return row | {"rss_mb": resident(), "rss_start_mb": before}
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="image_data_") as folder:
        draw, row["ready_s"], row["ready_cpu_s"] = ours(1024 if name == "memory" else 100, folder)
        row["windows_per_s"] = rate(draw, ROWS[name])
        row |= {"rss_mb": resident(), "rss_start_mb": before}
        if name == "disk":
            row["ready_again_s"] = ours(100, folder)[1]
            (file,) = Path(folder).rglob("*.rows")
            with file.open("rb") as opened:  # forget what the system keeps of it
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            row["windows_per_s_cold"] = rate(draw, ROWS[name] // 10)
    return row


def lerobot(python: str) -> dict[str, Any]:
    """The row of LeRobot, with its interpreter."""
    source = ZarrSource(STORE)
    rows = int(source.episode_ends[-1])
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="image_data_") as folder:
        frames = np.empty((rows, 96, 96, 3), np.uint8)
        for start in range(0, rows, 161):
            frames[start : start + 161] = source.read("img", start, min(start + 161, rows))
        action = source.read("action", 0, rows)
        np.savez(Path(folder, "frames.npz"), img=frames, action=action, episode_ends=source.episode_ends)
        script = Path(__file__).with_name("image_data_lerobot.py")
        return _run([python, str(script), folder])


def _run(command: list[str]) -> dict[str, Any]:
    """What a process prints as its last line, as JSON; on one core, the same for all."""
    core = str(min(os.sched_getaffinity(0)))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        ["taskset", "-c", core, *command], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> None:
    """Measure all rows, print and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--lerobot-python", help="interpreter of the environment with LeRobot; no such row without"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--row", choices=ROWS, help="measure one row in this process and print it")
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.row)))
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    rows = [_run([sys.executable, __file__, "--row", name]) for name in ROWS]
    if arguments.lerobot_python:
        rows.append(lerobot(arguments.lerobot_python))
    speeds = {row["name"]: row["windows_per_s"] for row in rows}
    alone = "windows_per_s_frames_alone"
    speeds |= {f"{row['name']}_frames_alone": row[alone] for row in rows if alone in row}
    others = [name for name in speeds if name not in ("memory", "disk")]
    for row in rows:
        print(json.dumps(row))
    record = {
        "rows": rows,
        "times_as_fast": {
            name: {other: round(speeds[name] / speeds[other], 1) for other in others}
            for name in ("memory", "disk")
        },
        "frames": "25,650 of 96 x 96 x 3, in episodes as recorded",
        "batch": f"{BATCH} windows of 2 frames and 16 actions, cropped to {CROP} x {CROP}",
        "device": device_name(torch.device("cpu")),
        "threads": 1,
        "versions": library_versions(*LIBRARIES),
        "commit": commit(),
        "command": command_line(),
    }
    write_atomic(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
