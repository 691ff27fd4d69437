"""The row of LeRobot for `image_data.py`, which starts this file with an interpreter that has LeRobot 0.6.1.

    python image_data_lerobot.py FOLDER

FOLDER holds frames.npz: img (N, 96, 96, 3) uint8, action (N, 2), episode_ends (E,). The data set is written
there, with images as PNG inside its Parquet files, and read back in a process of its own, so that the memory
of one is not counted for the other. Prints the row as JSON.
"""

import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS, BATCH, CROP, BATCHES = 10, 64, 84, 20


def write(folder: Path) -> float:
    """Write the data set; seconds."""
    begun = time.perf_counter()
    stored = np.load(folder / "frames.npz")
    images, actions, ends = stored["img"], stored["action"], stored["episode_ends"]
    features = {
        "observation.image": {
            "dtype": "image",
            "shape": (96, 96, 3),
            "names": ["height", "width", "channel"],
        },
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    }
    dataset = LeRobotDataset.create(
        "local/pusht", fps=FPS, features=features, root=folder / "lerobot", use_videos=False
    )
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        for row in range(start, stop):
            frame = {"observation.image": images[row].copy(), "action": actions[row].astype(np.float32)}
            dataset.add_frame(frame | {"task": "push"})
        dataset.save_episode()
    dataset.finalize()
    return round(time.perf_counter() - begun, 1)


def crop(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A random square of each window, (B, T, C, H, W), as in `image_data.py`."""
    height, width = images.shape[3] - CROP + 1, images.shape[4] - CROP + 1
    tops = torch.randint(height, (len(images),), generator=generator).tolist()
    lefts = torch.randint(width, (len(images),), generator=generator).tolist()
    cropped = images.new_empty((*images.shape[:3], CROP, CROP))
    for number, (top, left) in enumerate(zip(tops, lefts, strict=True)):
        cropped[number] = images[number, :, :, top : top + CROP, left : left + CROP]
    return cropped


def rate(dataset: LeRobotDataset) -> tuple[float, float]:
    """Seconds until the first batch, and then windows a second."""
    begun = time.perf_counter()
    order = torch.Generator().manual_seed(0)
    loader = iter(torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=0, generator=order))
    next(loader)
    ready, begun = time.perf_counter() - begun, time.perf_counter()
    generator = torch.Generator().manual_seed(1)
    for _ in range(BATCHES):
        images = crop(next(loader)["observation.image"], generator)
    assert images.shape == (BATCH, 2, 3, CROP, CROP)
    return ready, round(BATCH * BATCHES / (time.perf_counter() - begun), 1)


def resident() -> int:
    """The most memory that was resident so far, MiB; see `image_data.py`."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return round(int(line.split()[1]) / 1024)


def read(folder: Path) -> dict:
    """Measure batches of its data loader."""
    torch.set_num_threads(1)
    before, begun = resident(), time.perf_counter()
    frames = {"observation.image": [-1 / FPS, 0.0]}
    actions = {"action": [i / FPS for i in range(-1, 15)]}
    place = {"repo_id": "local/pusht", "root": folder / "lerobot"}
    dataset = LeRobotDataset(**place, delta_timestamps=frames | actions)
    opened = time.perf_counter() - begun
    first, speed = rate(dataset)
    row = {"name": "lerobot", "ready_s": round(opened + first, 2), "windows_per_s": speed}
    row |= {"rss_mb": resident(), "rss_start_mb": before}
    row["windows_per_s_frames_alone"] = rate(LeRobotDataset(**place, delta_timestamps=frames))[1]
    return row | {"versions": {name: version(name) for name in ("lerobot", "torch", "datasets", "numpy")}}


def main() -> None:
    """Write in this process, read in another."""
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        print(json.dumps(read(folder)))
        return
    seconds = write(folder)
    print(f"written in {seconds} s", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, __file__, str(folder), "read"], stdout=subprocess.PIPE, text=True, check=True
    )
    print(json.dumps(json.loads(done.stdout.splitlines()[-1]) | {"written_s": seconds}))


if __name__ == "__main__":
    main()
