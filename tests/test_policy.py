"""The backbone, the policy and its checkpoint."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from shortcut_policy import load_policy, save_policy
from shortcut_policy.backbones import ConditionalUnet1D, unet1d
from shortcut_policy.backbones.unet1d import _Convolution
from shortcut_policy.build import build
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy
from shortcut_policy.recipes import recipe
from shortcut_policy.renamed import TARGETS, rename

UNET = "shortcut_policy.backbones.ConditionalUnet1D"


def small(**changes) -> ConditionalUnet1D:
    torch.manual_seed(0)
    arguments = {"action_dim": 2, "horizon": 16, "cond_dim": 5, "down_dims": (16, 32), "embedding_dim": 16}
    return ConditionalUnet1D(**(arguments | changes))


def inputs(rows: int = 3, horizon: int = 16):
    generator = torch.Generator().manual_seed(1)
    shapes = ((rows, horizon, 2), (rows,), (rows,), (rows, 5))
    return [torch.rand(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize(
    ("down_dims", "horizon"), [((16,), 5), ((16, 32), 6), ((16, 32, 64), 16), ((8, 8, 8), 20)]
)
def test_any_horizon_that_is_a_multiple_of_the_stride(down_dims, horizon):
    net = small(down_dims=down_dims, horizon=horizon)
    x, *rest = inputs(horizon=horizon)
    assert net(x, *rest).shape == x.shape


def test_every_input_matters_and_rows_do_not_mix():
    net = small()
    arguments = inputs()
    out = net(*arguments)
    for changed in range(4):
        others = [value + 0.25 if i == changed else value for i, value in enumerate(arguments)]
        assert not torch.allclose(net(*others), out, atol=1e-4)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(net(*[value[order] for value in arguments]), out[order])
    swapped = [arguments[0], arguments[2], arguments[1], arguments[3]]
    assert not torch.allclose(net(*swapped), out, atol=1e-4), "t and d have embeddings of their own"


def test_every_parameter_is_trained():
    net = small(down_dims=(16, 32, 64))
    net(*inputs()).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("down_dims", "kernel_size", "millions"), [((64, 128, 256), 3, 4.5), ((256, 512, 1024), 5, 66)]
)
def test_sizes(down_dims, kernel_size, millions):
    with torch.device("meta"):
        net = ConditionalUnet1D(2, 16, 40, down_dims, kernel_size)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.06)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"horizon": 15}, "horizon=15"),
        ({"kernel_size": 4}, "kernel_size=4"),
        ({"kernel_size": -1}, "kernel_size=-1"),
        ({"down_dims": (12,)}, "down_dims"),
        ({"down_dims": (0,)}, "down_dims"),
        ({"n_groups": 0}, "n_groups=0"),
        ({"embedding_dim": 2}, "embedding_dim=2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, named):
    with pytest.raises(InputError, match=named):
        small(**changes)


def test_bf16_stays_close_to_fp32():
    net, arguments = small(), inputs()
    exact = net(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = net(*arguments)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (3, 1), (3, 2), (5, 1)])
def test_a_wide_convolution_is_the_same_as_a_product_of_matrices(kernel_size, stride):
    layer = _Convolution(_Convolution.WIDE, 8, kernel_size, stride)
    x = torch.randn(3, 16, _Convolution.WIDE).requires_grad_()
    weight = rearrange(layer.weight.detach(), "o (k i) -> o i k", k=kernel_size)
    expected = F.conv1d(x.transpose(1, 2), weight, layer.bias, stride, kernel_size // 2).transpose(1, 2)
    torch.testing.assert_close(layer(x), expected)
    (wanted,) = torch.autograd.grad(expected.square().sum(), x)
    with torch.autocast("cpu", torch.bfloat16):
        product = layer(x)
    (found,) = torch.autograd.grad(product.float().square().sum(), x)
    assert product.dtype == torch.bfloat16
    assert (product - expected).abs().max() < 0.02 * expected.abs().max()
    assert (found - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("machine", [{"HAS_AVX512": False}, {"HAS_ONEDNN": False}], ids=str)
def test_the_network_is_the_same_on_every_cpu(machine, monkeypatch):
    net, arguments = small(down_dims=(64, 128, 256), n_groups=8), inputs()
    parameters = list(net.parameters())

    def found() -> list[torch.Tensor]:
        out = net(*arguments)
        return [out, *torch.autograd.grad(out.square().sum(), parameters)]

    monkeypatch.setattr(unet1d, "HAS_ONEDNN", True)
    monkeypatch.setattr(unet1d, "HAS_AVX512", True)
    expected = found()
    for name, value in machine.items():
        monkeypatch.setattr(unet1d, name, value)
    with monkeypatch.context() as patch:
        patch.setattr(unet1d.F, "conv_transpose2d", convolved)
        if not unet1d.HAS_ONEDNN:
            patch.setattr(unet1d.F, "conv2d", convolved)
        torch.testing.assert_close(found(), expected, rtol=1e-3, atol=1e-4)
        if not unet1d.HAS_ONEDNN:
            with torch.no_grad():
                torch.testing.assert_close(net(*arguments), expected[0], rtol=1e-4, atol=1e-5)


def convolved(*_, **__):
    raise AssertionError("a convolution in place of a product")


# --- policy --------------------------------------------------------------------------------------------


def observe(rows: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"keypoint": (2, 9, 2), "agent_pos": (2, 2)}
    return {name: rng.uniform(50, 450, (rows, *shape)).astype(np.float32) for name, shape in shapes.items()}


def test_act_returns_the_executed_part_of_the_chunk(tiny_policy: Policy):
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    chunk = tiny_policy.predict(observe(), 4, generators[0])
    actions = tiny_policy.act(observe(), 4, generators[1])
    assert chunk.shape == (3, 16, 2) and actions.shape == (3, 8, 2)
    assert torch.equal(actions, chunk[:, 1:9])
    assert not actions.requires_grad


def test_numbers_of_any_type_are_observed(tiny_policy: Policy):
    double = {name: value.astype(np.float64) for name, value in observe().items()}
    actions = [
        tiny_policy.act(obs, steps, torch.Generator().manual_seed(0))
        for obs, steps in ((observe(), 2), (double, np.int64(2)))
    ]
    assert torch.equal(*actions)


def test_a_policy_without_a_specification_is_not_saved(tiny_policy: Policy, tmp_path):
    bare = deepcopy(tiny_policy)
    bare.spec = {}
    with pytest.raises(InputError, match=r"has no specification, .* build it with Policy.from_spec"):
        save_policy(bare, tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_with_a_generator_a_row_it_does_not_see_its_neighbours_noise(tiny_policy: Policy):
    obs = observe()
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    together = tiny_policy.act(obs, 2, generators)
    alone = tiny_policy.act({k: v[1:2] for k, v in obs.items()}, 2, [torch.Generator().manual_seed(1)])
    # The order of additions follows the size of the batch: equal to rounding, in pixels.
    torch.testing.assert_close(together[1:2], alone, atol=1e-3, rtol=0)


def test_the_normaliser_is_inside(tiny_policy: Policy):
    """Moving all positions by the same shift in data and statistics moves the actions by it."""
    obs, shift = observe(), 64.0
    actions = tiny_policy.act(obs, 1, torch.Generator().manual_seed(0))
    spec, state = tiny_policy.spec, tiny_policy.state_dict()
    moved = Policy.from_spec(spec)
    moved.load_state_dict({k: v + shift if k.endswith("_offset") else v for k, v in state.items()})
    shifted = {name: value + shift for name, value in obs.items()}
    torch.testing.assert_close(
        moved.act(shifted, 1, torch.Generator().manual_seed(0)), actions + shift, atol=1e-2, rtol=0
    )


def test_observations_are_disturbed_while_training_alone(tiny_policy: Policy, tiny_dataset):
    """By the noise that was asked for, the same for the network and its average, from the generator given."""
    # Every row of this objective has a target, which the averaged encoder sees.
    spec = {**tiny_policy.spec, "objective": recipe("objective", "shortcut")}
    policy = Policy.from_spec({**spec, "obs_noise": 0.1})
    policy.load_state_dict(tiny_policy.state_dict())
    ema = deepcopy(tiny_policy)
    batch = tiny_dataset.batch(tiny_dataset.train[:64])
    seen = []
    for model in (policy, ema):
        model.encoder.register_forward_hook(lambda module, given, cond: seen.append(cond))

    def loss(seed: int) -> float:
        seen.clear()
        draws = Draws(torch.Generator().manual_seed(seed))
        return policy(**batch, ema=ema, draws=draws, progress=0.9)[0].mean().item()

    policy.eval()
    undisturbed = loss(0)
    clean, averaged = seen
    assert torch.equal(averaged, clean)
    policy.train()
    disturbed = loss(0)
    noisy, averaged = seen
    assert torch.equal(averaged, noisy)
    assert (noisy - clean).std().item() == pytest.approx(0.1, rel=0.05)
    assert disturbed == loss(0) != loss(1) and disturbed != undisturbed


@pytest.mark.parametrize("obs_noise", [0, -0.1])
def test_noise_that_is_none_is_refused(tiny_policy: Policy, obs_noise: float):
    with pytest.raises(InputError, match=f"obs_noise={obs_noise} must be above 0"):
        Policy.from_spec({**tiny_policy.spec, "obs_noise": obs_noise})


def test_without_statistics_it_refuses_to_act(tiny_policy: Policy):
    with pytest.raises(InputError, match="no statistics"):
        Policy.from_spec(tiny_policy.spec).act(observe())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"keypoint": None}, "observes .*, and keypoint is missing among .'agent_pos'.; use"),
        ({"keypoint": None, "state": np.zeros((3, 2, 5))}, "and keypoint is missing among"),
        ({"agent_pos": np.zeros((3, 2))}, "'agent_pos' has shape"),
        (
            {"keypoint": np.zeros((3, 1, 9, 2))},
            r"'keypoint' has shape \(3, 1, 9, 2\), expected \(B, 2, 9, 2\)",
        ),
        ({"keypoint": np.full((3, 2, 9, 2), np.nan)}, "observation keypoint holds NaN or infinity"),
    ],
)
def test_observations_of_another_task_are_refused(tiny_policy: Policy, change, sentence):
    obs = {name: value for name, value in (observe() | change).items() if value is not None}
    with pytest.raises(InputError, match=sentence):
        tiny_policy.act(obs)


def test_observations_that_it_does_not_know_are_ignored(tiny_policy: Policy):
    """A robot reports more than one policy needs; what that is does not matter, not even its type."""
    more = observe() | {"state": np.full((3, 5), np.nan), "instruction": ["push"] * 3}
    actions = [tiny_policy.act(obs, 1, torch.Generator().manual_seed(0)) for obs in (observe(), more)]
    assert torch.equal(*actions)


def test_wrong_number_of_generators_is_refused(tiny_policy: Policy):
    with pytest.raises(InputError, match="2 generators for 3 rows"):
        tiny_policy.act(observe(), 1, [torch.Generator(), torch.Generator()])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": True}, "steps=True cannot be sampled by"),
        ({"steps": 2.0}, "steps=2.0 cannot be sampled by"),
        ({"steps": "many"}, r"steps=many cannot be .*: give a whole number from 1 to \d+, or \"auto\"$"),
        ({"steps": "4"}, r"steps='4' \(a text\) cannot be sampled by"),
        ({"steps": 3}, "give 2 or 4$"),
        ({"deadline_ms": -1}, "deadline_ms=-1 must be a number of milliseconds above 0"),
        ({"deadline_ms": 9, "steps": 4}, "steps=4 and deadline_ms=9 both decide the number of steps"),
        ({"guidance": 2.0}, "guidance=2.0 cannot be chosen: Shortcut was trained without"),
        ({"generator": 3}, r"generator=3 must be a torch.Generator, such as"),
        ({"generator": [torch.Generator(), 3, torch.Generator()]}, "generator=3 must be a torch.Generator"),
        ({"generator": (torch.Generator(),) * 3}, "generator=.* must be a torch.Generator, .* or a list"),
    ],
)
def test_what_only_looks_like_steps_or_noise_is_refused(tiny_policy: Policy, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        tiny_policy.act(observe(), **arguments)
    if not isinstance(arguments.get("generator"), list):
        with pytest.raises(InputError, match=sentence):
            deepcopy(tiny_policy).reset(**arguments)


# --- checkpoint ----------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tiny_policy: Policy, tmp_path):
    save_policy(tiny_policy, tmp_path / "policy")
    return tmp_path / "policy"


def test_a_saved_policy_acts_the_same(tiny_policy: Policy, checkpoint):
    loaded = load_policy(checkpoint)
    actions = [policy.act(observe(), 4, torch.Generator().manual_seed(0)) for policy in (tiny_policy, loaded)]
    assert torch.equal(*actions)
    assert loaded.metadata == tiny_policy.metadata
    assert not loaded.training


@pytest.mark.parametrize("name", ["load_policy", "save_policy"])
def test_what_has_moved_says_where(name):
    with pytest.raises(ImportError, match=f"{name} has moved: from shortcut_policy import {name}"):
        exec(f"from shortcut_policy.checkpoint import {name}")


def test_a_checkpoint_knows_no_kind_of_model():
    """Policies and models of images are built by name: checkpoints stand below both."""
    source = (CONFIG_DIR.parent / "shortcut_policy" / "checkpoint.py").read_text()
    assert not re.search(r"from shortcut_policy\.(policy|images)", source)


@pytest.mark.slow
def test_loading_needs_no_hydra(checkpoint):
    code = (
        "import sys; sys.modules['hydra'] = sys.modules['omegaconf'] = None\n"
        f"from shortcut_policy import load_policy; print(load_policy({str(checkpoint)!r}).horizon)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "16\n", done.stderr


def break_weights(folder):
    weights = folder / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def break_format(folder):
    description = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps(description | {"format": 99}))


def change_network(folder):
    text = (folder / "policy.json").read_text()
    (folder / "policy.json").write_text(text.replace('"embedding_dim": 16', '"embedding_dim": 32'))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (break_weights, "policy.safetensors cannot be loaded"),
        (break_format, "format 99"),
        (change_network, "policy.safetensors cannot be loaded"),
        (lambda folder: (folder / "policy.json").write_text("{"), "policy.json cannot be read"),
        (lambda folder: (folder / "policy.json").unlink(), "holds no checkpoint"),
        (shutil.rmtree, "there is no checkpoint at"),
    ],
)
def test_damaged_checkpoints_get_a_sentence(checkpoint, damage, sentence):
    damage(checkpoint)
    with pytest.raises(InputError, match=sentence):
        load_policy(checkpoint)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({}, "no _target_"),
        ({"_target_": "shortcut_policy.nothing.Here"}, "cannot import shortcut_policy.nothing.Here"),
        ({"_target_": "shortcut_policy.backbones.Nothing"}, "cannot import"),
        ({"_target_": UNET, "colour": "red"}, "has no setting 'colour': it has action_dim, .*"),
    ],
)
def test_specifications_that_cannot_be_built(spec, sentence):
    with pytest.raises(InputError, match=sentence):
        build(spec)


PUSHT = "shortcut_envs:shortcut_policy/PushTKeypoints-v0"


def test_old_names_of_a_checkpoint_are_translated():
    old = {
        "task": {"env": {"_target_": "gymnasium.make", "id": "envs:shortcut_policy/PushTKeypoints-v0"}},
        "source": [{"_target_": "envs.robosuite_actions.AbsoluteActions"}],
    }
    assert rename(old) == {
        "task": {"env": {"_target_": "gymnasium.make", "id": PUSHT}},
        "source": [{"_target_": "shortcut_envs.robosuite.actions.AbsoluteActions"}],
    }
    for module in TARGETS.values():
        if not module.startswith("shortcut_studies"):
            importlib.import_module(module)
    # The shipped checkpoint was made before the move.
    shipped = load_policy(CONFIG_DIR.parent / "pretrained" / "pusht")
    assert shipped.metadata["task"]["env"]["id"] == PUSHT
