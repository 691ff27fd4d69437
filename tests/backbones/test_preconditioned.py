"""The skip round the network: its factors, and which policies have it."""

import pytest
import torch
from torch import Tensor

from shortcut_policy.backbones import NoiseAsVelocity, Preconditioned
from shortcut_policy.commands.train import read_training
from shortcut_policy.errors import InputError
from shortcut_policy.objectives.paths import Cosine, GaussianPath, Straight, euler
from shortcut_policy.policy import load_policy, save_policy
from shortcut_policy.training.parts import make_model

DATA_STD, RESIDUAL_STD = 0.5, 0.1
PATHS = [Straight(), Cosine()]
#: The override that a configuration has it by.
SKIP = "precondition={{data_std:{},residual_std:{}}}"
USUAL = SKIP.format(DATA_STD, RESIDUAL_STD)


def zero(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
    """A network that has learned nothing."""
    return torch.zeros_like(x)


def step_map(path: GaussianPath, network=zero) -> Preconditioned:
    return Preconditioned(_Function(network), path, DATA_STD, RESIDUAL_STD)


class _Function(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def test_the_noise_is_subtracted_at_the_start_and_the_network_predicts_the_noise_at_the_end():
    skip, out, scale = step_map(Straight()).factors(torch.tensor([0.0, 1.0]))
    assert skip.tolist() == [-1, 1]
    assert out.tolist() == [DATA_STD, 1] and scale.tolist() == [1, 1 / DATA_STD]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("time", [0.0, 0.3, 0.9, 0.97])
def test_factors_are_those_of_the_best_linear_guess(path, time):
    generator = torch.Generator().manual_seed(0)
    x_0, unit = torch.randn(2, 400_000, 1, generator=generator, dtype=torch.float64)
    t = torch.full((len(x_0),), time, dtype=torch.float64)
    skip, out, scale = (factor[0].item() for factor in step_map(path).factors(t))
    near = RESIDUAL_STD * unit
    x_t, velocity = path.point(x_0, near, t), path.velocity(x_0, near, t)
    assert skip == pytest.approx(((velocity * x_t).mean() / (x_t * x_t).mean()).item(), rel=0.02, abs=0.02)
    far = DATA_STD * unit
    x_t, velocity = path.point(x_0, far, t), path.velocity(x_0, far, t)
    assert out == pytest.approx((velocity - skip * x_t).square().mean().sqrt().item(), rel=0.01)
    assert scale == pytest.approx(1 / x_t.square().mean().sqrt().item(), rel=0.01)


@pytest.mark.parametrize("path", PATHS)
def test_a_network_of_zeros_is_the_flow_to_a_normal_distribution(path):
    noise = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample = euler(step_map(path), noise, torch.zeros(2000, 0), steps=1024, d=0.0)
    torch.testing.assert_close(sample, RESIDUAL_STD * noise, rtol=0.02, atol=1e-3)


def test_the_network_sees_inputs_of_size_one_whatever_their_rank():
    seen = []

    def network(x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        seen.append(x)
        return torch.ones_like(x)

    x, t = torch.randn(3, 2, 4, 4), torch.tensor([0.0, 0.5, 1.0])
    wrapped = step_map(Straight(), network)
    result = wrapped(x, t, torch.zeros(3), torch.zeros(3, 1))
    skip, out, scale = (factor[:, None, None, None] for factor in wrapped.factors(t))
    torch.testing.assert_close(seen[0], scale * x)
    torch.testing.assert_close(result, skip * x + out)


@pytest.mark.parametrize(
    ("objective", "wrapped"),
    [
        *(
            (name, True)
            for name in ("shortcut", "flow_matching", "meanflow", "soflow", "consistency_training")
        ),
        *((name, False) for name in ("diffusion", "regression", "mip")),
    ],
)
def test_objectives_that_predict_velocities_have_it(compose_config, tiny_dataset, objective, wrapped):
    policy = make_model(read_training(compose_config(f"objective={objective}", USUAL)), tiny_dataset)
    assert isinstance(policy.backbone, Preconditioned) == wrapped
    plain = make_model(
        read_training(compose_config(f"objective={objective}", "precondition=null")), tiny_dataset
    )
    assert not isinstance(plain.backbone, Preconditioned)


def test_it_comes_back_with_a_checkpoint(compose_config, tiny_dataset, tmp_path):
    config = compose_config(SKIP.format(0.3, 0.2))
    policy = make_model(read_training(config), tiny_dataset).eval()
    save_policy(policy, tmp_path)
    obs = tiny_dataset.batch(tiny_dataset.train[:4])["obs"]
    loaded = load_policy(tmp_path)
    assert loaded.backbone.data_variance == pytest.approx(0.09)
    chunks = [one.predict(obs, 2, torch.Generator().manual_seed(0)) for one in (policy, loaded)]
    assert torch.equal(*chunks)


@pytest.mark.parametrize("old", ["precondition=null", SKIP.format(0.5, 0.3)])
def test_what_begins_from_a_checkpoint_keeps_the_checkpoint_s(compose_config, tiny_dataset, tmp_path, old):
    flow = make_model(read_training(compose_config("objective=flow_matching", old)), tiny_dataset).eval()
    flow.metadata["train_steps"] = 1
    save_policy(flow, tmp_path)
    shortcut = make_model(read_training(compose_config(f"init_from={tmp_path}", USUAL)), tiny_dataset).eval()
    obs = tiny_dataset.batch(tiny_dataset.train[:4])["obs"]
    chunks = [one.predict(obs, 4, torch.Generator().manual_seed(0)) for one in (flow, shortcut)]
    assert torch.equal(*chunks)


def test_a_diffusion_that_becomes_a_shortcut_model_has_none(compose_config, tiny_dataset, tmp_path):
    save_policy(
        make_model(read_training(compose_config("objective=diffusion", USUAL)), tiny_dataset), tmp_path
    )
    shortcut = make_model(read_training(compose_config(f"init_from={tmp_path}", USUAL)), tiny_dataset)
    assert isinstance(shortcut.backbone, NoiseAsVelocity)
    assert shortcut.spec["precondition"] is None


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("precondition=true", "precondition=True must be null or a mapping"),
        ("+precondition.std=1", "Preconditioned has no setting 'std': it has data_std, residual_std"),
        (SKIP.format(0, 0.1), "precondition.data_std=0 must be above 0"),
        (SKIP.format(0.5, -1), "precondition.residual_std=-1 must be above 0"),
        (SKIP.format(1e30, 0.1), "precondition.data_std=1e.30 must be above 0 and at most 1e6"),
    ],
)
def test_settings_without_meaning_are_refused(compose_config, tiny_dataset, override, sentence):
    with pytest.raises(InputError, match=sentence):
        make_model(read_training(compose_config(override)), tiny_dataset)
