"""The transformer: what it is at the start, what it depends on, that one core serves actions and images."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shortcut_policy.backbones import ActionDit, ImageDit, Preconditioned
from shortcut_policy.backbones.dit import SIZES, sine_cosine
from shortcut_policy.errors import InputError
from shortcut_policy.objectives.paths import Straight
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.optimizers import make_optimizers

TINY = {"width": 32, "depth": 2, "heads": 4}
ROWS, COND = 6, 5
VARIANTS = {
    "actions": lambda **settings: ActionDit(3, 7, COND, TINY, **settings),
    "actions, context": lambda **settings: ActionDit(3, 7, COND, TINY, context_tokens=2, **settings),
    "images": lambda **settings: ImageDit((3, 4, 8), COND, TINY, **settings),
}
SHAPES = {"actions": (7, 3), "actions, context": (7, 3), "images": (3, 4, 8)}


def moved(network: nn.Module) -> nn.Module:
    """With random weights where training begins at zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, *SHAPES[name], generator=generator)
    t, d = (torch.rand(ROWS, generator=generator) / 2 for _ in range(2))
    return x, t, d, torch.randn(ROWS, COND, generator=generator)


@pytest.fixture(params=VARIANTS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_it_begins_at_zero(name):
    assert (VARIANTS[name]()(*inputs(name)) == 0).all()


def test_rows_do_not_see_each_other(name):
    network, given = moved(VARIANTS[name]()), inputs(name)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(network(*(part[order] for part in given)), network(*given)[order])


@pytest.mark.parametrize("which", range(4))
def test_it_depends_on_everything_it_is_given(name, which):
    network, given = moved(VARIANTS[name]()), list(inputs(name))
    before = network(*given)
    given[which] = given[which] + 0.1
    assert ((network(*given) - before).flatten(1).abs().amax(1) > 1e-4).all()


@pytest.mark.parametrize("horizon", [1, 5, 13])
@pytest.mark.parametrize("context_tokens", [0, 3])
def test_any_horizon_and_the_place_of_a_step_matters(horizon, context_tokens):
    network = moved(ActionDit(2, horizon, COND, TINY, context_tokens=context_tokens))
    x = torch.ones(ROWS, horizon, 2)
    out = network(x, torch.rand(ROWS), torch.rand(ROWS), torch.randn(ROWS, COND))
    assert out.shape == x.shape
    assert horizon == 1 or not torch.allclose(out[:, 0], out[:, -1])


@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_patches_are_squares_and_come_back_exactly(patch_size):
    network = ImageDit((3, 4, 8), COND, TINY, patch_size=patch_size)
    x = torch.randn(ROWS, 3, 4, 8)
    patches = network.patchify(x)
    assert torch.equal(network.unpatchify(patches), x)
    second = x[:, :, :patch_size, patch_size : 2 * patch_size]
    assert torch.equal(patches[:, 1], second.flatten(1))


def test_positions_differ_and_tell_rows_from_columns():
    positions = sine_cosine([4, 8], 32)
    assert positions.shape == (32, 32)
    assert (torch.cdist(positions, positions) + torch.eye(32) > 0.1).all()
    grid = positions.reshape(4, 8, 2, 16)
    assert torch.equal(grid[0, :, 1], grid[3, :, 1]) and torch.equal(grid[:, 0, 0], grid[:, 7, 0])


def test_a_core_goes_from_images_to_actions_and_back():
    settings = {"qk_norm": True}
    image, action = moved(VARIANTS["images"](**settings)), VARIANTS["actions"](**settings)
    action.core.load_state_dict(image.core.state_dict())
    tokens, told = torch.randn(ROWS, 9, 32), torch.rand(2, ROWS)
    condition = torch.randn(ROWS, 32)
    assert torch.equal(action.core(tokens, *told, condition), image.core(tokens, *told, condition))
    moved(action)
    image.core.load_state_dict(action.core.state_dict())
    assert torch.equal(action.core(tokens, *told, condition), image.core(tokens, *told, condition))


@pytest.mark.parametrize(("size", "millions"), [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
def test_named_sizes_are_those_of_the_paper(size, millions):
    """Millions of parameters in table 1 of Peebles and Xie 2023, at patch 2 on latents of 1000 classes."""
    with torch.device("meta"):
        network = ImageDit((4, 32, 32), 1000, size)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1e6 * millions, rel=0.03)
    assert SIZES["B"].width == 768 and SIZES["B"].depth == SIZES["B"].heads == 12


def gradients(network: nn.Module, name: str) -> list[Tensor]:
    return list(torch.autograd.grad(network(*inputs(name)).square().mean(), list(network.parameters())))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_every_parameter_is_trained_and_recomputing_changes_nothing(name, qk_norm):
    network = moved(VARIANTS[name](qk_norm=qk_norm))
    kept = gradients(network, name)
    assert all(gradient.abs().max() > 0 for gradient in kept)
    again, calls = VARIANTS[name](qk_norm=qk_norm, recompute=True), []
    again.load_state_dict(network.state_dict())
    again.core.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradients(again, name), kept)
    assert len(calls) == 2


def test_norms_of_queries_and_keys_bound_the_attention():
    network = moved(VARIANTS["images"](qk_norm=True))
    given, loud = inputs("images"), copy.deepcopy(network)
    with torch.no_grad():
        for block in loud.core.blocks:
            block.attention.qkv.weight[:64] *= 1000
            block.attention.qkv.bias[:64] *= 1000
    torch.testing.assert_close(loud(*given), network(*given), rtol=1e-3, atol=1e-4)


def test_forward_mode_derivatives_are_those_of_differences(name):
    """MeanFlow takes them; fused attention has none."""
    network = moved(VARIANTS[name](qk_norm=True)).double()
    x, t, d, cond = (part.double() for part in inputs(name))
    along = torch.randn_like(x), torch.ones_like(t), -torch.ones_like(d)
    step = 1e-6

    def function(x: Tensor, t: Tensor, d: Tensor) -> Tensor:
        return network(x, t, d, cond)

    with torch.no_grad():
        slope = torch.func.jvp(function, (x, t, d), along)[1]
        ahead, behind = (
            function(*(part + sign * step * way for part, way in zip((x, t, d), along, strict=True)))
            for sign in (1, -1)
        )
    torch.testing.assert_close(slope, (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-6)


def test_attention_of_a_cpu_is_in_bf16_where_there_is_no_backward_pass(name, monkeypatch):
    seen = []
    attend = F.scaled_dot_product_attention
    monkeypatch.setattr(
        F, "scaled_dot_product_attention", lambda *qkv: seen.append(qkv[0].dtype) or attend(*qkv)
    )
    network, given = VARIANTS[name](), inputs(name)
    with torch.autocast("cpu", torch.bfloat16):
        network(*given)
        with torch.no_grad():
            network(*given)
    depth = len(network.core.blocks)
    assert seen == [torch.float32] * depth + [torch.bfloat16] * depth


def test_bf16_is_near_fp32(name):
    network, given = moved(VARIANTS[name](qk_norm=True)), inputs(name)
    exact = network(*given)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = network(*given)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).norm() < 0.05 * exact.norm()


@pytest.mark.slow
def test_it_can_be_compiled_as_one_graph(name):
    torch.compiler.reset()
    network, given = moved(VARIANTS[name](qk_norm=True)), inputs(name)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*given), network(*given))


def test_muon_has_its_matrices():
    network = VARIANTS["images"]()
    adamw, muon = make_optimizers(network, TrainerConfig())
    matrices = {id(p) for group in muon.param_groups for p in group["params"]}
    assert {id(block.attention.qkv.weight) for block in network.core.blocks} <= matrices
    assert id(network.head.weight) not in matrices  # 12 rows
    assert len(matrices) + sum(len(g["params"]) for g in adamw.param_groups) == len([*network.parameters()])


def test_it_has_the_skip_round_it():
    network = Preconditioned(VARIANTS["images"](), Straight(), data_std=0.5, residual_std=0.5)
    x, t, d, cond = inputs("images")
    assert torch.equal(network(x, t, d, cond), network.factors(t)[0][:, None, None, None] * x)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ImageDit((3, 9, 8), 1, TINY), "patch_size=2 does not divide images of 9x8"),
        (lambda: ImageDit((3, 8, 8), 1, "M"), "backbone.size=M must be one of S, B, L, XL"),
        (lambda: ActionDit(2, 4, 1, {"width": 30, "depth": 1, "heads": 3}), "width a multiple of heads and"),
        (lambda: ActionDit(2, 4, 1, {"width": 32}), "must have the keys width, depth and heads"),
        (lambda: ActionDit(2, 4, 1, TINY, context_tokens=-1), "context_tokens=-1 must be 0 or more"),
    ],
)
def test_settings_without_meaning_are_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
