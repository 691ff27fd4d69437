"""What several tests need: small demonstrations, a small untrained policy, the composed configuration."""

import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from shortcut_envs.pusht.physics import KEYPOINTS, PushTSimulator, PushTState, sample_start, transform_points
from shortcut_policy.commands.train import make_dataset, read_training
from shortcut_policy.data import DemonstrationDataset, EpisodeWriter
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy
from shortcut_policy.training.parts import make_model


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is left in, or taken from, the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHORTCUT_POLICY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Give a command of the command line, in this process: ``give(cli.train, "task=pusht")``."""

    def give_command(command: Callable[[], None], *arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", [command.__name__, *arguments])
        monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
        GlobalHydra.instance().clear()
        command()

    return give_command


TINY = (
    "backbone.down_dims=[16,32]",
    "backbone.embedding_dim=16",
    "trainer.max_steps=20",
    "trainer.batch_size=16",
    "trainer.warmup_steps=2",
    "trainer.checkpoint_every=10",
    "trainer.log_every=5",
    "trainer.validate_every=10",
    "trainer.precision=fp32",
    "data.val_fraction=0.2",
    "cpu=true",
)

Compose = Callable[..., DictConfig]


@pytest.fixture(scope="session")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six short Push-T episodes of an agent that wanders about, in the format of real demonstrations."""
    path = tmp_path_factory.mktemp("data") / "wandering.zarr"
    with EpisodeWriter(path) as writer:
        for seed in range(6):
            writer.add_episode(_wander(np.random.RandomState(seed), steps=30 + seed))
    return path


@pytest.fixture(scope="session")
def compose_config(demonstrations: Path) -> Compose:
    """Compose ``configs/train.yaml`` for a tiny network on the small demonstrations, with more overrides."""

    def compose_tiny(*overrides: str) -> DictConfig:
        source = [
            "task=pusht_human",
            f"task.source.path={demonstrations}",
        ]
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            return compose("train", [*source, *TINY, *overrides])

    return compose_tiny


@pytest.fixture(scope="session")
def tiny_dataset(compose_config: Compose) -> DemonstrationDataset:
    """The small demonstrations as windows."""
    return make_dataset(read_training(compose_config()))


@pytest.fixture(scope="session")
def untrained_policy(compose_config: Compose, tiny_dataset: DemonstrationDataset) -> Policy:
    """An untrained shortcut policy for Push-T with keypoints, ready to act; not to be changed."""
    return make_model(read_training(compose_config()), tiny_dataset).eval()


@pytest.fixture
def tiny_policy(untrained_policy: Policy) -> Policy:
    """A copy of `untrained_policy` of one's own: an episode that one test begins is none of another test."""
    return deepcopy(untrained_policy)


def _wander(random: np.random.RandomState, steps: int) -> dict[str, np.ndarray]:
    simulator = PushTSimulator()
    simulator.set_state(PushTState.at_rest(sample_start(random)), legacy_order=True)
    states, actions = [], []
    for _ in range(steps):
        state = simulator.observed_state()
        action = np.clip(state[:2] + random.uniform(-60, 60, 2), 0, 512)
        states.append(state)
        actions.append(action)
        simulator.step(action)
    poses = np.array(states)
    keypoints = np.stack([transform_points(KEYPOINTS, pose[2:]) for pose in poses])
    return {
        "state": poses.astype(np.float32),
        "keypoint": keypoints.astype(np.float32),
        "action": np.array(actions, np.float32),
    }


def with_objective(policy: Policy, objective: dict[str, Any]) -> Policy:
    """The same weights under another objective; without the skip round the network, which not all have."""
    other = Policy.from_spec({**policy.spec, "precondition": None, "objective": objective})
    weights = policy.state_dict().items()
    other.load_state_dict({name.replace("backbone.network.", "backbone."): value for name, value in weights})
    return other
