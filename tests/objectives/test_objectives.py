"""What every objective promises, of those in ``configs/objective``."""

import copy
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from shortcut_policy import load_policy, save_policy
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws, Objective
from shortcut_policy.objectives.base import (
    loss_phase,
    teacher_phase,
)
from shortcut_policy.policy import Policy
from tests.step_maps import (
    CHUNKS,
    IMAGES,
    OBJECTIVES,
    Affine,
    Counting,
    Small,
    context,
    make,
    settings,
    takes,
)


@pytest.mark.parametrize("shape", [CHUNKS, IMAGES])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_are_finite_on_chunks_and_images(name, shape):
    net, cond = Affine(), torch.rand(shape[0], 3)
    losses, metrics = make(name).loss(net, torch.randn(shape), cond, context(net, cond))
    assert losses.shape == shape[:1]
    assert losses.isfinite().all()
    assert all(value.isfinite() and not value.requires_grad for value in metrics.values())
    losses.mean().backward()
    assert net.weights.grad.isfinite().all()
    assert (net.weights.grad[[3, 4]] != 0).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_is_a_function_of_the_generator(name):
    net, cond, x_1 = Affine(), torch.rand(6, 3), torch.randn(CHUNKS)
    first, again, other = (make(name).loss(net, x_1, cond, context(net, cond, seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (name == "regression")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_between_its_phases_a_loss_does_not_depend_on_the_progress(name):
    """What lets a GPU record an update once for each of them."""
    objective, net, cond, x_1 = make(name), Affine(), torch.rand(64, 3), torch.randn(64, 4)
    found: dict[int, list[Tensor]] = {}
    for progress in (i / 99 for i in range(100)):
        teacher = net if teacher_phase(objective, progress) else None
        losses, _ = objective.loss(net, x_1, cond, context(net, cond, 0, teacher, progress))
        found.setdefault(loss_phase(objective, progress), []).append(losses)
    for losses in found.values():
        assert all(torch.equal(losses[0], other) for other in losses)
    changes = [before[0] for before in found.values()]
    assert all(not torch.equal(a, b) for a, b in pairwise(changes))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_sampling_costs_the_stated_evaluations_and_is_deterministic(name):
    objective, cond, noise = make(name), torch.rand(6, 3), torch.randn(CHUNKS)
    allowed = []
    for steps in (1, 2, 3, 4, 16, 100, 128):
        if not takes(objective, steps):
            continue
        net = Counting(Affine())
        with torch.no_grad():
            sample = objective.sample(net, noise, cond, steps, torch.Generator().manual_seed(0))
            again = objective.sample(net.net, noise, cond, steps, torch.Generator().manual_seed(0))
        assert torch.equal(sample, again)
        assert sample.shape == noise.shape and sample.isfinite().all()
        assert net.calls == objective.network_evaluations(steps)
        allowed.append(steps)
    expected = {
        "shortcut": [1, 2, 4, 16, 128],
        "mip": [1, 2],
        "meanflow": [1, 2, 3, 4, 16, 100, 128],
        "soflow": [1, 2, 3, 4, 16, 100, 128],
        "diffusion": [1, 2, 3, 4, 16, 100],
        "regression": [1],
        "flow_matching": [1, 2, 3, 4, 16, 100, 128],
    }
    assert allowed == expected.get(name, allowed)
    assert 1 in allowed


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_row_follows_its_own_generator(name):
    objective, cond, noise = make(name), torch.rand(6, 3), torch.randn(CHUNKS)
    steps = 100 if name == "diffusion" else 1
    generators = [torch.Generator().manual_seed(row) for row in range(6)]
    together = objective.sample(Affine(), noise, cond, steps, generators)
    alone = objective.sample(Affine(), noise[3:4], cond[3:4], steps, [torch.Generator().manual_seed(3)])
    torch.testing.assert_close(together[3:4], alone)


@pytest.mark.parametrize(
    ("steps", "said"), [(0, "0"), (-1, "-1"), (1.5, "1.5"), (True, "True"), ("4", r"'4' \(a text\)")]
)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_step_counts_that_are_no_counts_are_refused(name, steps, said):
    with pytest.raises(InputError, match=f"^steps={said} cannot be sampled by "):
        make(name).check_steps(steps)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_short_fit_improves_the_samples(name):
    """Trained for a moment, with all its phases, it draws the data that the condition determines."""
    torch.manual_seed(0)
    objective, teacher = make(name), None
    net = Small(1 + objective.extra_cond_dim)
    optimizer, updates = torch.optim.Adam(net.parameters(), 3e-3), 200
    steps = next(steps for steps in (4, 2, 1) if takes(objective, steps))

    def error() -> float:
        cond = torch.linspace(0, 1, 64)[:, None]
        with torch.no_grad():
            seen = objective.sampling_cond(cond)
            x = objective.sample(net, torch.randn(64, 2), seen, steps, torch.Generator())
        return (x - torch.cat([cond, 1 - cond], dim=1)).abs().mean().item()

    before, phase = error(), 0
    for step in range(updates):
        progress = step / updates
        if teacher_phase(objective, progress) > phase:
            phase, teacher = teacher_phase(objective, progress), copy.deepcopy(net)
        cond = torch.rand(128, 1, generator=torch.Generator().manual_seed(step))
        x_1 = torch.cat([cond, 1 - cond], dim=1)
        losses, _ = objective.loss(net, x_1, cond, context(net, cond, step, teacher, progress))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    assert error() < 0.5 * before


@pytest.mark.slow
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_compiled_network_gives_the_same_loss_and_gradients(name):
    """Captured as graphs and differentiated there; without the code generation, which takes a minute."""
    torch.manual_seed(0)
    torch.compiler.reset()
    objective = make(name)
    net, cond, x_1 = Small(1 + objective.extra_cond_dim), torch.rand(32, 1), torch.randn(32, 2)
    found = []
    for step_map in (net, torch.compile(net, backend="aot_eager")):
        losses, _ = objective.loss(step_map, x_1, cond, context(step_map, cond))
        found.append((losses.detach(), *torch.autograd.grad(losses.mean(), list(net.parameters()))))
    torch.testing.assert_close(*found)


# --- as policies ---------------------------------------------------------------------------------------


def policy_for(name: str, like: Policy) -> Policy:
    """An untrained policy with this objective, and the backbone and statistics of ``like``."""
    torch.manual_seed(0)
    objective = OmegaConf.to_container(settings(name))
    policy = Policy.from_spec({**like.spec, "objective": objective})
    policy.normalizer.load_state_dict(like.normalizer.state_dict())
    return policy


def loss_and_gradients(policy: Policy) -> tuple[Tensor, list[Tensor]]:
    """Of a batch of observations and action chunks, at the beginning of a training."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: (32, policy.n_obs_steps, *shape) for name, shape in policy.obs_shapes.items()}
    obs = {name: 50 + 400 * torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    action = 50 + 400 * torch.rand(32, policy.horizon, policy.action_dim, generator=generator)
    losses, _ = policy(obs, action, policy, Draws(generator))
    return losses.detach(), list(torch.autograd.grad(losses.mean(), list(policy.parameters())))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_parameter_is_trained_in_bf16_as_in_fp32(name, tiny_policy):
    policy = policy_for(name, tiny_policy)
    exact, gradients = loss_and_gradients(policy)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, rounded_gradients = loss_and_gradients(policy)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.1, atol=0.02)
    assert all(g.isfinite().all() for g in [*gradients, *rounded_gradients])
    untrained = {p for (p, _), g in zip(policy.named_parameters(), gradients, strict=True) if not g.any()}
    # Regression shows its network nothing but zeros as x.
    reads_x = {f"backbone.down.0.0.{layer}.weight" for layer in ("convolve_1", "residual")}
    assert untrained == (reads_x if name == "regression" else set())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_checkpoint_brings_the_policy_back(name, tiny_policy, tmp_path):
    policy = policy_for(name, tiny_policy).eval()
    save_policy(policy, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    obs = {field: torch.full((2, 2, *shape), 256.0) for field, shape in policy.obs_shapes.items()}
    actions = [each.act(obs, 1, torch.Generator().manual_seed(0)) for each in (policy, loaded)]
    assert torch.equal(*actions)
    assert loaded.spec == policy.spec


# --- random numbers shared by processes ----------------------------------------------------------------


Stream = Callable[[Draws], Tensor]


@pytest.mark.parametrize("world", [2, 3])
def test_rows_meet_the_same_numbers_whatever_the_number_of_processes(world):
    def draw(rank: int, world: int) -> list[Tensor]:
        draws, rows = Draws(torch.Generator().manual_seed(5), rank, world), 12 // world
        return [draws.normal_like(torch.empty(rows, 4)), draws.uniform(rows), draws.stratified(rows, 5)]

    whole = draw(0, 1)
    for rank in range(world):
        for part, all_rows in zip(draw(rank, world), whole, strict=True):
            assert torch.equal(part, all_rows[rank::world])


def test_stratified_numbers_stay_below_one():
    draws = Draws(torch.Generator().manual_seed(0))
    assert all(draws.stratified(7, 7).max() < 1 for _ in range(100))


def test_a_missing_method_is_an_error_when_the_objective_is_built():
    class Unfinished(Objective):
        def loss(self, net, x_1, cond, context):
            return x_1.flatten(1).mean(1), {}

        def sample(self, net, noise, cond, steps, generator=None):
            return noise

        def check_steps(self, steps):
            pass

    with pytest.raises(TypeError, match=r"abstract.*network_evaluations"):
        Unfinished()
