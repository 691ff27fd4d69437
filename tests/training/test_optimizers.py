"""Which optimizer has which parameter."""

import pytest
import torch
from torch import nn
from torch.optim import AdamW
from torch.optim import Muon as TorchMuon

from shortcut_policy.backbones import ConditionalUnet1D
from shortcut_policy.training import TrainerConfig
from shortcut_policy.training.optimizers import (
    BLOCK,
    ITERATIONS,
    Muon,
    in_blocks,
    make_optimizers,
    orthogonaliser,
)
from shortcut_policy.training.schedules import make_schedule, present_rate


def test_muon_has_the_wide_matrices_and_adamw_everything_else():
    net = ConditionalUnet1D(action_dim=2, horizon=8, cond_dim=20, down_dims=(16, 32), n_groups=8)
    adamw, muon = make_optimizers(net, TrainerConfig(learning_rate=1e-3, matrix_rate=2.0))
    assert isinstance(adamw, AdamW) and isinstance(muon, Muon)
    assert adamw.defaults["lr"] == 1e-3 and muon.defaults["lr"] == 2e-3
    held = [[p for group in one.param_groups for p in group["params"]] for one in (adamw, muon)]
    assert sorted(map(id, held[0] + held[1])) == sorted(map(id, net.parameters()))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    matrices = {names[id(parameter)] for parameter in held[1]}
    assert {"down.0.0.convolve_2.weight", "middle.0.film.weight", "embed_t.mlp.2.weight"} <= matrices
    # What reads and writes actions is narrow; a transposed convolution is no matrix.
    assert not matrices & {"down.0.0.convolve_1.weight", "head.3.weight", "up.0.2.weight"}


def test_one_optimizer_can_have_them_all():
    net = nn.Linear(32, 32)
    (adamw,) = make_optimizers(net, TrainerConfig(optimizer="adamw"))
    assert isinstance(adamw, AdamW) and len(adamw.param_groups[0]["params"]) == 2
    (muon,) = make_optimizers(nn.Linear(32, 32, bias=False), TrainerConfig())
    assert isinstance(muon, Muon)


@pytest.mark.parametrize("direction", range(3))
def test_a_rare_direction_is_learned_as_fast_as_a_frequent_one(direction):
    """What Muon is for: inputs of scale 1, 1/10 and 1/100 whose weights move alike."""
    net = nn.Linear(16, 16, bias=False)
    nn.init.zeros_(net.weight)
    (muon,) = make_optimizers(net, TrainerConfig(matrix_rate=2.0))
    scales = torch.tensor([1.0, 0.1, 0.01] + [0.0] * 13)
    (net(torch.diag(scales)) - torch.eye(16)).square().sum().backward()
    muon.step()
    moved = net.weight.detach().norm(dim=0)
    assert moved[direction] > 0.1 * moved.max()


@pytest.mark.parametrize("scaling", ["match_rms_adamw", "original"])
@pytest.mark.parametrize("nesterov", [True, False])
def test_updates_are_those_of_pytorch(nesterov, scaling):
    """Up to the rounding of bfloat16, in which PyTorch orthogonalises."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) for shape in ((24, 16), (16, 40), (24, 16))]
    gradients = [[torch.randn(w.shape, generator=generator) for w in start] for _ in range(3)]
    ends = []
    for kind in (Muon, TorchMuon):
        weights = [nn.Parameter(w.clone()) for w in start] + [nn.Parameter(torch.ones(20, 20))]
        muon = kind(
            weights,
            0.1,
            weight_decay=0.1,
            nesterov=nesterov,
            ns_steps=ITERATIONS,
            adjust_lr_fn=scaling,
        )
        for step in gradients:
            for weight, gradient in zip(weights[:3], step, strict=True):
                weight.grad = gradient.clone()
            muon.step()
        ends.append([weight.detach() for weight in weights])
        assert torch.equal(weights[3], torch.ones(20, 20)), "a parameter without a gradient stays"
    for own, theirs, first in zip(*ends, [*start, torch.ones(20, 20)], strict=True):
        assert (own - theirs).norm() <= 0.02 * (theirs - first).norm()


def test_a_tall_matrix_moves_as_its_blocks_of_rows_would():
    generator = torch.Generator().manual_seed(3)
    start, gradient = (torch.randn(3 * BLOCK, 40, generator=generator) for _ in range(2))
    whole = nn.Parameter(start.clone())
    parts = [nn.Parameter(rows.clone()) for rows in start.split(BLOCK)]
    for weights, gradients in (([whole], [gradient]), (parts, gradient.split(BLOCK))):
        for weight, own in zip(weights, gradients, strict=True):
            weight.grad = own.clone()
        Muon(weights, 0.1, ns_steps=ITERATIONS, adjust_lr_fn="match_rms_adamw").step()
    assert torch.allclose(whole, torch.cat(parts), atol=1e-6) and not torch.allclose(whole, start, atol=1e-3)


@pytest.mark.parametrize("rows, size", [(512, 64), (96, 48), (100, 50), (20, 20), (127, 127), (130, 26)])
def test_blocks_are_the_largest_even_ones(rows, size):
    matrix = torch.arange(rows * 3.0).reshape(rows, 3)
    blocks = in_blocks(matrix)
    assert blocks.shape == (rows // size, size, 3) and torch.equal(blocks.flatten(0, 1), matrix)
    blocks.zero_()
    assert not matrix.any(), "a view"
    assert in_blocks(torch.zeros(3, rows).T).shape == blocks.shape


@pytest.mark.parametrize("shape", [(3, 5, 12), (2, 12, 5), (1, 7, 7)])
def test_orthogonalising_applies_the_polynomial_to_the_singular_values(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a, b, c = coefficients = (3.4445, -4.775, 2.0315)
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    values = values / x.norm(dim=(1, 2))[:, None]
    for _ in range(4):
        values = a * values + b * values**3 + c * values**5
    expected = left @ torch.diag_embed(values) @ right
    assert torch.allclose(orthogonaliser(x @ x.mT, coefficients, 4) @ x, expected, atol=1e-10)
    zeros = torch.zeros(shape)
    assert (orthogonaliser(zeros @ zeros.mT, coefficients, 4) @ zeros).abs().max() == 0


def test_muon_takes_the_same_steps_where_torch_has_no_functions_of_lists(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(20, 24, generator=generator) for _ in range(2)]
    gradients = [torch.randn(20, 24, generator=generator) for _ in range(2)]
    ends = []
    for missing in (False, True):
        if missing:
            for name in ("lerp_", "mul_"):
                monkeypatch.delattr(torch, f"_foreach_{name}")
        weights = [nn.Parameter(w.clone()) for w in start]
        muon = Muon(weights, 0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
        for _ in range(2):
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient.clone()
            muon.step()
        ends.append(weights)
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("update", "part"), [(0, 0.0), (5, 0.5), (10, 1.0), (79, 1.0), (80, 1.0), (90, 0.5), (100, 0.0)]
)
def test_a_cooldown_is_a_line_after_a_constant_rate(update: int, part: float):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = make_schedule(optimizer, 10, 100, None, cooldown=0.2)
    for _ in range(update):
        optimizer.step()
        schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(2.0 * part)
    assert present_rate(schedule) == pytest.approx(2.0 * part)


def test_a_phase_without_updates_has_a_rate():
    """The first one of an objective whose teacher comes from outside."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    assert present_rate(make_schedule(optimizer, 0, 0, None, cooldown=0.2)) == 0


def test_the_encoder_may_have_another_learning_rate():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.backbone = nn.Linear(32, 32), nn.Linear(32, 32)

    model = Model()
    sum(p.square().sum() for p in model.parameters()).backward()
    for factor, groups in ((1.0, 1), (0.1, 2)):
        for optimizer in make_optimizers(model, TrainerConfig(encoder_rate=factor)):
            schedule = make_schedule(optimizer, 1, 10, None)
            optimizer.step()
            schedule.step()
            assert len(optimizer.param_groups) == groups
            rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
            own = {id(p) for p in model.encoder.parameters()}
            full = optimizer.defaults["lr"]
            assert all(rate == pytest.approx(full * (factor if p in own else 1)) for p, rate in rates.items())
