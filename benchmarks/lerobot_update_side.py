"""CPU seconds of the parts of an update in LeRobot, in an interpreter that has it, for `lerobot_update.py`.

    python lerobot_update_side.py DATA POLICIES.json ROUNDS BATCH

DATA: the folder of a LeRobot data set. POLICIES: name -> settings of a policy, ``type`` among them. Prints a
JSON object, name -> part -> seconds of each round. The policies take turns. CPU time of one thread is hardly
changed by other work on the machine, unlike the time on the wall.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from lerobot.datasets.factory import resolve_delta_timestamps
from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.policies import make_policy, make_policy_config, make_pre_post_processors
from lerobot.utils.import_utils import register_third_party_plugins
from torch.utils.data import DataLoader

#: Updates of the training of which the measured ones are the first.
UPDATES = 1000


class Training:
    """What LeRobot's loop does with one policy, part by part.

    Args:
        data: Folder of the data set.
        settings: Of the policy.
        batch: Rows of a batch.
    """

    def __init__(self, data: Path, settings: dict[str, Any], batch: int) -> None:
        metadata = LeRobotDatasetMetadata("local/data", root=data)
        config = make_policy_config(settings.pop("type"), device="cpu", push_to_hub=False, **settings)
        torch.manual_seed(0)
        self.policy = make_policy(config, ds_meta=metadata)
        self.before, _ = make_pre_post_processors(config, dataset_stats=metadata.stats)
        deltas = resolve_delta_timestamps(config, metadata)
        dataset = LeRobotDataset("local/data", root=data, delta_timestamps=deltas)
        sampler = EpisodeAwareSampler(
            metadata.episodes["dataset_from_index"],
            metadata.episodes["dataset_to_index"],
            drop_n_last_frames=config.drop_n_last_frames,
            shuffle=True,
        )
        self.batches = iter(DataLoader(dataset, batch, sampler=sampler))
        preset = config.get_optimizer_preset()
        self.optimizer = preset.build(self.policy.get_optim_params())
        self.schedule = config.get_scheduler_preset().build(self.optimizer, UPDATES)
        self.norm, self.accelerator = preset.grad_clip_norm, Accelerator(cpu=True)
        self.seconds: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the CPU time of what happens inside."""
        started = time.process_time()
        yield
        self.seconds[name].append(time.process_time() - started)

    def update(self) -> None:
        """One update."""
        with self.part("batch"):
            batch = self.before(next(self.batches))
        self.policy.train()
        with self.part("loss"):
            loss, _ = self.policy.forward(batch)
        with self.part("gradient"):
            self.accelerator.backward(loss)
        with self.part("clipping"):
            self.accelerator.clip_grad_norm_(self.policy.parameters(), self.norm)
        with self.part("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()
        with self.part("averaged weights"):
            if hasattr(self.policy, "update"):
                self.policy.update()


def main(data: str, policies: str, rounds: str, batch: str) -> None:
    """Measure, print."""
    torch.set_num_threads(1)
    register_third_party_plugins()
    given = json.loads(Path(policies).read_text())
    trainings = {name: Training(Path(data), settings, int(batch)) for name, settings in given.items()}
    for _ in range(int(rounds)):
        for training in trainings.values():
            training.update()
    print(json.dumps({name: training.seconds for name, training in trainings.items()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
