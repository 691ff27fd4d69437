"""Writes demonstrations as a LeRobot data set, in an interpreter that has LeRobot, for `lerobot_training.py`.

    python lerobot_training_data.py INPUT.npz FOLDER

INPUT: `keypoint` (N, 9, 2), `agent_pos` (N, 2), `action` (N, 2), `episode_ends` (E,). The data set has the
keypoints as `observation.environment_state`, (18,), and the agent's position as `observation.state`.
"""

import sys

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS = 10
KEYS = {"observation.environment_state": "keypoint", "observation.state": "agent_pos", "action": "action"}


def main(source: str, target: str) -> None:
    """Read `source`, write `target`."""
    given = np.load(source)
    columns = {
        key: given[name].reshape(len(given[name]), -1).astype(np.float32) for key, name in KEYS.items()
    }
    features = {
        key: {"dtype": "float32", "shape": (column.shape[1],), "names": None}
        for key, column in columns.items()
    }
    dataset = LeRobotDataset.create("local/pusht", fps=FPS, features=features, root=target, use_videos=False)
    for start, stop in zip([0, *given["episode_ends"][:-1]], given["episode_ends"], strict=True):
        for row in range(start, stop):
            dataset.add_frame({key: column[row].copy() for key, column in columns.items()} | {"task": "push"})
        dataset.save_episode()
    dataset.finalize()


if __name__ == "__main__":
    main(*sys.argv[1:])
