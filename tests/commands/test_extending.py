"""An objective, a backbone, an encoder, a source and a task from outside: one file and one yaml each."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shortcut_policy.commands import cli

FILES = {
    "own_objective.py": """
import torch
from shortcut_policy.objectives import Objective
from shortcut_policy.objectives.base import check_step_range


class Direct(Objective):
    def loss(self, net, x_1, cond, context):
        return (self.sample(net, x_1, cond, 1) - x_1).square().flatten(1).mean(1), {}

    def sample(self, net, noise, cond, steps, generator=None):
        start = noise.new_zeros(len(noise))
        return net(torch.zeros_like(noise), start, start + 1, cond)

    def check_steps(self, steps):
        check_step_range(steps, 1, "Direct")

    def network_evaluations(self, steps):
        return 1
""",
    "own_backbone.py": """
from torch import nn


class OneLayer(nn.Module):
    def __init__(self, action_dim, horizon, cond_dim, bias=True):
        super().__init__()
        self.layer = nn.Linear(cond_dim, horizon * action_dim, bias)

    def forward(self, x, t, d, cond):
        return self.layer(cond).reshape(x.shape)
""",
    "own_encoder.py": """
from torch import nn


class Newest(nn.Module):
    def __init__(self, obs_shapes, n_obs_steps, name):
        super().__init__()
        self.name, (self.cond_dim,) = name, obs_shapes[name]

    def forward(self, obs):
        return obs[self.name][:, -1]
""",
    "own_source.py": """
import numpy as np


class Walks:
    def __init__(self, episodes):
        steps = np.random.default_rng(0).uniform(-1, 1, (10 * episodes, 2)).astype(np.float32)
        self.path = "walks"
        self.rows = {"place": np.cumsum(steps, 0), "step": steps}
        self.keys = tuple(self.rows)
        self.shapes = {key: rows.shape[1:] for key, rows in self.rows.items()}
        self.dtypes = {key: rows.dtype for key, rows in self.rows.items()}
        self.episode_ends = np.arange(10, 10 * episodes + 1, 10)

    def read(self, key, start, stop):
        return self.rows[key][start:stop]
""",
    "own_task.py": """
import gymnasium
import numpy as np
from gymnasium import spaces


class Walk(gymnasium.Env):
    observation_space = spaces.Dict({"place": spaces.Box(-np.inf, np.inf, (2,), np.float32)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, max_steps):
        self.max_steps = max_steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.taken, self.place = 0, np.zeros(2, np.float32)
        return {"place": self.place}, {}

    def step(self, action):
        self.taken, self.place = self.taken + 1, self.place + action
        over = self.taken >= self.max_steps
        return {"place": self.place}, 0.5, False, over, {"is_success": over}
""",
    "configs/objective/direct.yaml": "_target_: own_objective.Direct\n",
    "configs/backbone/one_layer.yaml": "_target_: own_backbone.OneLayer\nbias: false\n",
    "configs/encoder/newest.yaml": "_target_: own_encoder.Newest\nname: place\n",
    "configs/source/walks.yaml": "_target_: own_source.Walks\nepisodes: 6\n",
    "configs/task/walk.yaml": """
defaults: [{/source@source: walks}, _self_]
name: walk
obs:
  place: {_target_: shortcut_policy.data.Field, key: place, shape: [2]}
action: {_target_: shortcut_policy.data.Field, key: step, shape: [2]}
horizon: 4
n_obs_steps: 1
n_action_steps: 2
env: {_target_: own_task.Walk, max_steps: 6}
""",
}
TRAINING = (
    "objective=direct",
    "backbone=one_layer",
    "encoder=newest",
    "task=walk",
    "output=run",
    "data.val_fraction=0.2",
    "trainer.max_steps=2",
    "trainer.batch_size=8",
    "trainer.warmup_steps=1",
    "trainer.precision=fp32",
    "trainer.validate_every=2",
    "trainer.rollout_every=2",
    "trainer.rollout_episodes=1",
    "cpu=true",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's folder with modules and configs, which is where the command is given."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_parts_from_outside_train_together(folder: Path, give: Callable[..., None]):
    give(cli.train, "--config-dir", "configs", *TRAINING)
    saved = json.loads((folder / "run/checkpoints/step_00000002/policy.json").read_text())
    targets = {name: saved["policy"][name]["_target_"] for name in ("objective", "backbone", "encoder")}
    assert targets == {
        "objective": "own_objective.Direct",
        "backbone": "own_backbone.OneLayer",
        "encoder": "own_encoder.Newest",
    }
    assert (saved["metadata"]["method"], saved["metadata"]["dataset"]) == ("direct", "walks")
    records = [json.loads(line) for line in (folder / "run/log.jsonl").read_text().splitlines()]
    (rollouts,) = [record for record in records if record["kind"] == "rollout"]
    assert (rollouts["score_1"], rollouts["success_1"]) == (0.5, 1.0)
    assert any(record["kind"] == "validation" for record in records)
