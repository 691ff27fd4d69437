"""Whether images far beyond the memory train in little of it: a store of 20 GB, one and two processes.

    OMP_NUM_THREADS=1 python benchmarks/large_store.py
    OMP_NUM_THREADS=1 python benchmarks/large_store.py --gigabytes 0.2 --updates 20 --output /tmp/results.json

Writes a store of random pictures of 96 x 96 from two cameras, which no codec makes smaller, and 600 numbers a
step, which fit into the memory limit as it comes (1 GiB) and so are held in memory by one. On it a small
policy is trained with ``scripts/train.py``, first by one process, which decodes the pictures, then by two,
which read what was decoded. The folder needs twice the size of the store and is deleted.

Rows: ``peak_mb`` is the most memory that all processes of a training held together, in MiB: ``RssAnon`` and
``RssShmem`` of /proc/<pid>/status, ten times a second, so without pages of files, which the system drops when
it needs them. ``peak_pss_mb`` counts those that are mapped too, shared ones once (``Pss`` of smaps_rollup),
once a second. ``ready_s`` is from the start of the command to the first update, ``updates_s`` from there to
the end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import zarr

from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name

OUTPUT = Path("results/large_store/results.json")
TRAIN = Path(__file__).resolve().parents[1] / "scripts/train.py"
CAMERAS, SHAPE = ("front", "wrist"), (96, 96, 3)
#: Numbers of a step.
TOUCH = 600
#: Steps of an episode; rows of a chunk file; rows that are written at a time.
EPISODE, CHUNK, BLOCK = 200, 512, 1024
BATCH = 32
LIBRARIES = ("torch", "numpy", "zarr", "numcodecs")

TASK = """\
# @package task
name: large_store
source: {{_target_: shortcut_policy.data.ZarrSource, path: {path}}}
obs:
  front: {{_target_: shortcut_policy.data.Field, key: front, shape: [96, 96, 3], normalize: image}}
  wrist: {{_target_: shortcut_policy.data.Field, key: wrist, shape: [96, 96, 3], normalize: image}}
  touch: {{_target_: shortcut_policy.data.Field, key: touch, shape: [600], normalize: limits}}
action: {{_target_: shortcut_policy.data.Field, key: action, shape: [2], normalize: limits}}
horizon: 16
n_obs_steps: 2
n_action_steps: 8
env: null
"""


def write_store(path: Path, gigabytes: float) -> int:
    """Random frames, as they are; returns the number of rows."""
    rows = max(1, int(gigabytes * 1e9 / len(CAMERAS) / np.prod(SHAPE)) // EPISODE) * EPISODE
    rng = np.random.default_rng(0)
    group = zarr.create_group(path, zarr_format=2)
    # Parts of the same bytes from other places: to draw all of them takes as long as to write them.
    noise = np.frombuffer(rng.bytes(2 * BLOCK * int(np.prod(SHAPE))), np.uint8)
    for camera in CAMERAS:
        array = group.create_array(
            f"data/{camera}", shape=(rows, *SHAPE), chunks=(CHUNK, *SHAPE), dtype=np.uint8, compressors=None
        )
        for start in range(0, rows, BLOCK):
            count, offset = min(BLOCK, rows - start) * int(np.prod(SHAPE)), int(rng.integers(len(noise) // 2))
            array[start : start + BLOCK] = noise[offset : offset + count].reshape(-1, *SHAPE)
    for key, size in (("touch", TOUCH), ("action", 2)):
        array = group.create_array(
            f"data/{key}", shape=(rows, size), chunks=(BLOCK, size), dtype=np.float32, compressors=None
        )
        for start in range(0, rows, BLOCK):
            array[start : start + BLOCK] = rng.normal(size=(min(BLOCK, rows - start), size))
    ends = np.arange(EPISODE, rows + 1, EPISODE)
    group.create_array("meta/episode_ends", data=ends)
    return int(rows)


def memory(processes: list[psutil.Process], name: str, keys: tuple[str, ...]) -> int:
    """Sum of lines of a file of /proc, in KiB, over the processes that are still there."""
    total = 0
    for process in processes:
        try:
            lines = Path("/proc", str(process.pid), name).read_text().splitlines()
        except OSError:
            continue  # it has ended
        total += sum(int(line.split()[1]) for line in lines if line.partition(":")[0] in keys)
    return total


def family(pid: int) -> list[psutil.Process]:
    """A process and all that it started."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def peaks(started: subprocess.Popen[str]) -> Iterator[tuple[int, int]]:
    """While a command runs: its memory without files' pages, and with those that are mapped, in KiB."""
    mapped, looked = 0, 0.0
    while started.poll() is None:
        processes = family(started.pid)
        if time.monotonic() - looked > 1:
            mapped, looked = memory(processes, "smaps_rollup", ("Pss",)), time.monotonic()
        yield memory(processes, "status", ("RssAnon", "RssShmem")), mapped
        time.sleep(0.1)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The lines of a training's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def train(folder: Path, processes: int, updates: int) -> dict[str, Any]:
    """One row."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    run = folder / f"run_{processes}"
    command = [
        sys.executable,
        *(torchrun if processes > 1 else []),
        str(TRAIN),
        "--config-dir",
        str(folder / "configs"),
        "task=large_store",
        "encoder=image_light",
        "objective=flow_matching",
        "backbone=unet_small",
        f"data.cache={folder / 'cache'}",
        f"trainer.max_steps={updates}",
        f"trainer.batch_size={BATCH}",
        "trainer.warmup_steps=10",
        "trainer.log_every=10",
        f"trainer.validate_every={updates // 2}",
        "trainer.threads=1",
        f"output={run}",
        "cpu=true",
    ]
    begun = time.time()
    with (folder / f"log_{processes}").open("w") as log:
        started = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True)
        held, mapped = (max(values) for values in zip(*peaks(started), strict=True))
    ended = time.time()
    if started.returncode:
        sys.exit((folder / f"log_{processes}").read_text()[-4000:])
    (last,) = (line for line in read_log(run) if line["kind"] == "train" and line["step"] == updates)
    return {
        "processes": processes,
        "updates": updates,
        "peak_mb": round(held / 1024),
        "peak_pss_mb": round(mapped / 1024),
        "ready_s": round(ended - begun - last["seconds"], 1),
        "updates_s": round(last["seconds"], 1),
    }


def main() -> None:
    """Write the store, train on it, print and write the rows, delete what was written."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, default=20, help="of frames")
    parser.add_argument("--updates", type=int, default=300, help="of each training")
    parser.add_argument("--folder", type=Path, help="for the store and what is decoded; the system's /tmp")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="large_store_") as name:
        folder = Path(name)
        begun = time.time()
        rows = write_store(folder / "large.zarr", arguments.gigabytes)
        written = round(time.time() - begun, 1)
        task = folder / "configs/task/large_store.yaml"
        task.parent.mkdir(parents=True)
        task.write_text(TASK.format(path=folder / "large.zarr"))
        trainings = []
        for processes in (1, 2):
            trainings.append(train(folder, processes, arguments.updates))
            print(json.dumps(trainings[-1]), flush=True)
    record = {
        "rows": trainings,
        "store": f"{rows} steps of {len(CAMERAS)} pictures of {SHAPE[0]} x {SHAPE[1]} and {TOUCH} numbers",
        "store_gb": round(rows * len(CAMERAS) * int(np.prod(SHAPE)) / 1e9, 2),
        "written_s": written,
        "batch": f"{BATCH} windows of 2 x {len(CAMERAS)} frames and 16 actions, shared by the processes",
        "device": device_name(torch.device("cpu")),
        "versions": library_versions(*LIBRARIES),
        "commit": commit(),
        "command": command_line(),
    }
    write_atomic(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
