"""Observations scaled by the demonstrations of their task."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shortcut_policy.commands.train import make_dataset, read_training
from shortcut_policy.data import DemonstrationDataset, EpisodeWriter
from shortcut_policy.encoders import PerTaskEncoder
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.training.parts import make_model

SHAPES = {"hand": (2,), "task": (3,)}


def block(task: int, rows: list[list[float]]) -> dict[str, torch.Tensor]:
    """Rows of a task as windows of one observed step."""
    hand = torch.tensor(rows)[:, None]
    return {"hand": hand, "task": torch.eye(3)[task].expand(len(hand), 1, 3)}


def test_each_task_fills_the_range_whatever_the_others_do():
    encoder = PerTaskEncoder(SHAPES, n_obs_steps=1)
    small, large = [[0.50, 0.2], [0.52, 0.2]], [[-1.0, -1.0], [1.0, 1.0]]
    encoder.fit([block(0, small), block(1, large[:1]), block(1, large[1:])])
    assert encoder.cond_dim == 5
    found = encoder(block(0, small))
    assert torch.allclose(found[:, :2], torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), atol=1e-5)
    assert found[:, 2:].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert torch.allclose(encoder(block(1, large))[:, :2], torch.tensor(large))
    assert torch.equal(encoder(block(2, small))[:, :2], torch.tensor(small)), "no demonstrations: as it is"


def test_what_hardly_varies_in_a_task_is_not_blown_up():
    """A hundredth of the range over all tasks is the least that is scaled to [-1, 1]."""
    encoder = PerTaskEncoder(SHAPES, n_obs_steps=1)
    encoder.fit(
        [
            block(0, [[0.5, 0.2], [0.5024, 0.2]]),  # 0.0012 to each side: a few times what counts as constant
            block(1, [[-1.0, -1.0], [1.0, 1.0]]),
            block(2, [[0.0, 0.0], [0.04, 0.0018]]),
        ]
    )
    low, high, moved = encoder(block(0, [[0.5, 0.2], [0.5024, 0.2], [0.6, 0.2]]))[:, 0].tolist()
    assert (low, high) == (pytest.approx(-0.12, abs=1e-3), pytest.approx(0.12, abs=1e-3))
    assert moved == pytest.approx(9.88, abs=1e-2), "not 82"
    assert encoder(block(2, [[0.0, 0.5], [0.04, 0.5]]))[:, :2].tolist() == [[-1, 0], [1, 0]]


def test_a_limit_to_the_size_of_observations_holds_for_what_the_network_gets(tmp_path: Path, compose_config):
    policy = mt10_policy(tmp_path, compose_config)[0]
    far = {name: torch.zeros(1, 2, *shape) for name, shape in policy.obs_shapes.items()}
    far["task"][..., 0] = 1
    far["hand"] += 9.0  # far from what task 0 shows, and within what task 9 does
    numbers = slice(2 * 4)
    assert policy.encode(far)[:, numbers].amax() > 10
    policy.obs_clamp = 1.5
    assert policy.encode(far)[:, numbers].amax() == 1.5
    again = Policy.from_spec(policy.spec)
    again.load_state_dict(policy.state_dict())
    assert torch.equal(again.encode(far), policy.encode(far)), "also where it is loaded"
    policy.obs_clamp = None
    assert policy.encode(far)[:, numbers].amax() > 10


def test_without_statistics_there_are_no_numbers():
    assert PerTaskEncoder(SHAPES, n_obs_steps=1)(block(0, [[0.5, 0.2]]))[:, :2].isnan().all()


@pytest.mark.parametrize("task", ["goal", "picture"])
def test_the_task_must_be_told_by_an_observation(task: str):
    with pytest.raises(InputError, match=f"encoder.task={task} must be .*; there are hand"):
        PerTaskEncoder({**SHAPES, "picture": (4, 4, 3)}, n_obs_steps=1, task=task)


@pytest.mark.parametrize("told", [[1.0, -1.0, -1.0], [0.7, 0.3, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
def test_the_task_is_told_by_a_one_and_zeros(told: list[float]):
    """Which ``normalize: limits`` makes 1 and -1 of: sums of the scales of all tasks, in silence."""
    with pytest.raises(InputError, match="give its field normalize: identity"):
        PerTaskEncoder(SHAPES, n_obs_steps=1).fit([block(0, [[0.5, 0.2]]) | {"task": torch.tensor([[told]])}])


def mt10_policy(tmp_path: Path, compose_config) -> tuple[Policy, DemonstrationDataset]:
    """An untrained policy, and demonstrations in which task k reaches k + 1 times as far as task 0."""
    path, draws = tmp_path / "mt10.zarr", np.random.default_rng(0)
    with EpisodeWriter(path, attributes={"task": "mt10"}) as writer:
        for number in range(20):
            sizes = {"hand": 4, "objects": 14, "goal": 3, "action": 4}
            rows = {key: draws.uniform(0, 1 + number % 10, (30, size)) for key, size in sizes.items()}
            rows["task"] = np.tile(np.eye(10)[number % 10], (30, 1))
            writer.add_episode({key: value.astype(np.float32) for key, value in rows.items()})
    config = read_training(
        compose_config(
            "task=metaworld/mt10",
            f"task.source.path={path}",
            "encoder=per_task",
            f"output={tmp_path / 'run'}",
        )
    )
    dataset = make_dataset(config)
    return make_model(config, dataset).eval(), dataset


def test_it_is_fitted_saved_and_loaded_with_its_policy(tmp_path: Path, compose_config):
    policy, dataset = mt10_policy(tmp_path, compose_config)
    obs = dataset.batch(dataset.train[:64])["obs"]
    numbers = policy.encode(obs)[:, : 2 * 4]
    assert numbers.isfinite().all() and numbers.abs().max() <= 1 + 1e-4
    policy.save_pretrained(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    assert torch.equal(again.encode(obs), policy.encode(obs))
