"""What `lerobot_read.py` starts with an interpreter that has LeRobot 0.6.1.

python lerobot_read_side.py write FOLDER     writes the dataset
python lerobot_read_side.py read FOLDER      reads it as LeRobot's training does, and prints the row as
JSON
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.utils.import_utils import get_safe_default_video_backend

FPS, SIDE, EPISODES, LENGTH = 10, 96, 20, 200
BATCH, BATCHES = 64, 15
CAMERA = "observation.images.top"


def picture(episode: int, step: int) -> np.ndarray:
    """A block on its way over a textured table, (SIDE, SIDE, 3) uint8."""
    down, right = np.mgrid[0:SIDE, 0:SIDE]
    table = 128 + 40 * np.sin(0.3 * down + episode) + 40 * np.cos(0.2 * right)
    image = np.stack([table, table[::-1], 255 - table], axis=-1)
    angle = 0.05 * step + episode
    top, left = (int(40 + 30 * wave(angle)) for wave in (np.sin, np.cos))
    image[top : top + 16, left : left + 16] = (230, 220, 40)
    return image.astype(np.uint8)


def write(folder: Path) -> None:
    """Write the dataset with LeRobot's own settings."""
    axes = ["height", "width", "channel"]
    features = {
        CAMERA: {"dtype": "video", "shape": (SIDE, SIDE, 3), "names": axes},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    }
    dataset = LeRobotDataset.create("local/table", fps=FPS, features=features, root=folder)
    random = np.random.default_rng(0)
    for episode in range(EPISODES):
        for step in range(LENGTH):
            numbers = {
                key: random.normal(size=2).astype(np.float32) for key in ("observation.state", "action")
            }
            dataset.add_frame({CAMERA: picture(episode, step), **numbers, "task": "push"})
        dataset.save_episode()
    dataset.finalize()


def read(folder: Path) -> dict:
    """Windows a second of its data loader, on the frames and actions that a policy needs."""
    torch.set_num_threads(1)
    begun = time.perf_counter()
    times = {key: [-1 / FPS, 0.0] for key in (CAMERA, "observation.state")}
    times["action"] = [i / FPS for i in range(-1, 15)]
    dataset = LeRobotDataset("local/table", root=folder, delta_timestamps=times)
    order = torch.Generator().manual_seed(0)
    loader = iter(torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, num_workers=0, generator=order))
    next(loader)
    ready, begun, computed = time.perf_counter() - begun, time.perf_counter(), time.process_time()
    for _ in range(BATCHES):
        batch = next(loader)
    seconds, computed = time.perf_counter() - begun, time.process_time() - computed
    assert batch[CAMERA].shape == (BATCH, 2, 3, SIDE, SIDE) and batch["action"].shape == (BATCH, 16, 2)
    return {
        "name": "lerobot",
        "ready_s": round(ready, 2),
        "windows_per_s": round(BATCH * BATCHES / seconds, 1),
        "windows_per_cpu_s": round(BATCH * BATCHES / computed, 1),
        "decoder": get_safe_default_video_backend(),
        "versions": {name: version(name) for name in ("lerobot", "torch", "datasets", "av", "numpy")},
    }


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        print(json.dumps(read(Path(sys.argv[2]))))
