"""Classifier-free guidance: what the targets are made of, what the network is told, what is chosen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from shortcut_policy import save_policy
from shortcut_policy.commands.rollout import run as run_rollouts
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import FlowMatching, Shortcut
from shortcut_policy.objectives.guidance import Guidance
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy
from shortcut_policy.recipes import recipe
from tests.step_maps import Affine, Counting, context

RANGE = (1.0, 3.0)


class Told:
    """Remembers what it is asked, and answers 5 with the condition, 2 without."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        self.asked.append((d, cond))
        return (2 + 3 * cond[:, 3:4]).expand_as(x)


def test_targets_are_guided_where_they_come_from_velocities_and_nowhere_else():
    net, cond = Told(), torch.rand(3, 3)
    guided = Guidance(scale=1.5).guided(net, torch.full((3,), 1.5))
    d = torch.tensor([1 / 128, 1 / 64, 1.0])
    target = Shortcut(max_steps=128).bootstrap_target(guided, torch.zeros(3, 2), torch.zeros(3), d, cond)
    torch.testing.assert_close(target[:, 0], torch.tensor([2 + 1.5 * 3, 5.0, 5.0]))
    assert [len(d) for d, _ in net.asked] == [3, 1, 3, 1], "the second question is for the row at d = 0 alone"
    without = net.asked[1][1]
    assert (without == 0).all()
    assert torch.equal(net.asked[0][1], torch.cat([cond, torch.ones(3, 1)], dim=1))


def test_more_steps_than_guidance_has_reached_are_refused():
    objective = Shortcut(level_weights=[6, 1, 2], target_steps=4, guidance=Guidance(scale=RANGE))
    for steps in (1, 2, 4):
        objective.check_steps(steps)
    with pytest.raises(InputError, match=r"steps=8 cannot be sampled with guidance: .* give at most 4"):
        objective.check_steps(8)


def test_a_scale_of_one_is_the_flow_under_the_condition():
    net, x = Told(), torch.zeros(4, 2)
    zero, cond = torch.zeros(4), torch.rand(4, 3)
    assert (Guidance(scale=1.0).guided(net, torch.ones(4))(x, zero, zero, cond) == 5).all()
    assert (Guidance(scale=0.0).guided(net, torch.zeros(4))(x, zero, zero, cond) == 2).all()


def test_flow_rows_lose_their_condition_as_often_as_configured_and_bootstrapped_rows_never():
    net, cond = Told(), torch.rand(4000, 3) + 0.1
    objective = Shortcut(guidance=Guidance(dropout=0.2, scale=RANGE), target_weights="ema")
    objective.loss(net, torch.randn(4000, 2), cond, context(Told(), cond))
    ((d, seen),) = net.asked
    n = 1000
    present = seen[:, 3] == 1
    assert present[:n].all() and present[n:].float().mean().item() == pytest.approx(0.8, abs=0.03)
    assert (seen[~present, :3] == 0).all() and torch.equal(seen[present, :3], cond[present])
    assert (seen[n:, 4] == 0).all(), "velocities are learned at scale 1"
    told = seen[:n, 4] + 1
    assert told.min() >= 1 and told.max() <= 3 and told.mean().item() == pytest.approx(2, abs=0.1)
    assert (d[:n] > 0).all() and (d[n:] == 0).all()


def test_a_row_is_told_the_scale_that_its_target_has():
    """With velocities 5 and 2 the guided velocity of scale w is 2 + 3 w, at every size built from them."""
    targets = {}

    class Net(Told):
        def __call__(self, x, t, d, cond):
            answer = super().__call__(x, t, d, cond)
            # Larger sizes have learned what the smallest is taught.
            return torch.where((d > 0)[:, None], 2 + 3 * (cond[:, 4:5] + 1), answer).expand_as(x)

    def error(prediction: Tensor, target: Tensor) -> Tensor:
        targets.update(prediction=prediction, target=target)
        return (prediction - target).square().mean(1)

    net, cond = Net(), torch.rand(64, 3)
    objective = Shortcut(guidance=Guidance(scale=RANGE))
    objective.error = error
    objective.loss(net, torch.randn(64, 2), cond, context(net, cond))
    torch.testing.assert_close(targets["target"][:16], targets["prediction"][:16])
    assert targets["target"][:16].std() > 0.5


def test_sampling_takes_the_chosen_scale_and_costs_nothing_more():
    objective, cond = Shortcut(guidance=Guidance(scale=RANGE)), torch.rand(3, 4)
    seen = objective.sampling_cond(cond, 2.5)
    assert torch.equal(seen, torch.cat([cond, torch.tensor([[1.0, 1.5]] * 3)], dim=1))
    assert torch.equal(objective.sampling_cond(cond), objective.sampling_cond(cond, 1.0))
    net = Counting(Affine())
    objective.sample(net, torch.randn(3, 2), seen, 4)
    assert net.calls == 4 and net.rows == 12


@pytest.mark.parametrize("scale", [0.5, 3.5])
def test_scales_that_were_not_trained_are_refused(scale):
    with pytest.raises(InputError, match=rf"guidance={scale} .*scales of 1.0 to 3.0"):
        Shortcut(guidance=Guidance(scale=RANGE)).sampling_cond(torch.rand(3, 4), scale)
    with pytest.raises(InputError, match=rf"guidance={scale} .*1.5 alone"):
        Shortcut(guidance=Guidance(scale=1.5)).sampling_cond(torch.rand(3, 4), scale)


@pytest.mark.parametrize("objective", [FlowMatching(), Shortcut()])
def test_without_guidance_there_is_no_scale_to_choose(objective):
    cond = torch.rand(3, 4)
    assert objective.sampling_cond(cond) is cond and objective.extra_cond_dim == 0
    with pytest.raises(InputError, match=r"guidance=2 cannot be chosen: .*shortcut_guided"):
        objective.sampling_cond(cond, 2)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"dropout": 0}, "dropout"),
        ({"dropout": 1}, "dropout"),
        ({"scale": -1}, "scale"),
        ({"scale": [3, 1]}, "scale"),
        ({"scale": [1, 2, 3]}, "scale"),
    ],
)
def test_settings_without_meaning_are_refused(arguments, named):
    with pytest.raises(InputError, match=f"objective.guidance.{named}"):
        Guidance(**arguments)


@pytest.fixture
def policy(tiny_policy: Policy) -> Policy:
    """Untrained, with a range of scales."""
    guidance = {"_target_": "shortcut_policy.objectives.guidance.Guidance", "scale": [1.0, 3.0]}
    torch.manual_seed(0)
    objective = recipe("objective", "shortcut", guidance=guidance)
    guided = Policy.from_spec({**tiny_policy.spec, "objective": objective})
    guided.metadata = {**tiny_policy.metadata, "train_steps": 0}
    guided.normalizer.load_state_dict(tiny_policy.normalizer.state_dict())
    return guided


def test_rollouts_play_and_keep_every_scale_for_itself(policy: Policy, tmp_path: Path, monkeypatch):
    plan, told = Policy.predict_with_cost, []

    def remember(self, obs, steps, generator, guidance=None, prefix=None):
        told.append(guidance)
        return plan(self, obs, steps, generator, guidance, prefix)

    monkeypatch.setattr(Policy, "predict_with_cost", remember)
    save_policy(policy, tmp_path / "guided")

    def play(*more: str) -> dict[str, Any]:
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            run_rollouts(
                compose(
                    "rollout",
                    [f"checkpoint={tmp_path}/guided", f"output={tmp_path}/out", "episodes=2", "batch_size=2",
                     "plot=false", "+env.max_steps=20", *more],
                )
            )  # fmt: skip
        (row,) = json.loads((tmp_path / "out" / "results.json").read_text())
        return row

    rows = [play(), play("guidance=1.0"), play("guidance=2.5")]
    assert [row.get("guidance") for row in rows] == [None, 1.0, 2.5]
    folders = sorted((tmp_path / "out" / "guided").iterdir())
    assert [folder.name for folder in folders] == ["steps_001", "steps_001_w_1", "steps_001_w_2.5"]
    assert set(told) == {None, 1.0, 2.5}
    with pytest.raises(InputError, match="guidance=5"):
        play("guidance=5")


def test_a_policy_acts_at_the_scale_that_is_asked_for(policy: Policy, tiny_policy: Policy):
    obs = {name: torch.full((2, 2, *shape), 256.0) for name, shape in policy.obs_shapes.items()}

    def act(scale: float | None) -> Tensor:
        return policy.act(obs, 1, torch.Generator().manual_seed(0), guidance=scale)

    assert torch.equal(act(None), act(1.0)) and not torch.equal(act(1.0), act(2.0))
    with pytest.raises(InputError, match="guidance=4"):
        act(4)
    with pytest.raises(InputError, match="guidance=2"):
        tiny_policy.act(obs, guidance=2)


def test_guided_shortcuts_are_learned_and_follow_the_condition_further():
    """Data at +1 or -1 by the condition: without it the flow goes between, with scale 2 it goes beyond."""
    torch.manual_seed(0)
    objective = Shortcut(
        max_steps=4, target_weights="online", guidance=Guidance(dropout=0.3, scale=[1.0, 2.0])
    )
    net = torch.nn.Sequential(
        torch.nn.Linear(1 + 2 + 3, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(),
        torch.nn.Linear(64, 1),
    )  # fmt: skip

    def step_map(x, t, d, cond):
        return net(torch.cat([x, t[:, None], d[:, None], cond], dim=1))

    optimizer = torch.optim.Adam(net.parameters(), 4e-3)
    for step in range(500):
        generator = torch.Generator().manual_seed(step)
        cond = torch.randint(2, (256, 1), generator=generator) * 2.0 - 1
        x_1 = cond + 0.5 * torch.randn(256, 1, generator=generator)
        losses, _ = objective.loss(step_map, x_1, cond, context(step_map, cond, step))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    noise, cond = torch.randn(1000, 1), torch.ones(1000, 1)
    with torch.no_grad():
        means = {
            scale: objective.sample(step_map, noise, objective.sampling_cond(cond, scale), 1).mean().item()
            for scale in (1.0, 2.0)
        }
    assert means[1.0] == pytest.approx(1.0, abs=0.2)
    assert means[2.0] > means[1.0] + 0.2
