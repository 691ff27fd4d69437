"""Fine-tuning: a policy that begins from a trained one computes the same, and learns from there."""

from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from shortcut_policy import load_policy
from shortcut_policy.backbones import NoiseAsVelocity
from shortcut_policy.commands.train import make_dataset, read_training, run
from shortcut_policy.data import DemonstrationDataset, EpisodeWriter, ZarrSource
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Diffusion, Draws, FlowMatching
from shortcut_policy.objectives.step_map import expand_like
from shortcut_policy.policy import Policy, save_policy
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.initialise import ORIGIN
from shortcut_policy.training.parts import make_model
from shortcut_policy.training.trainer import Trainer
from tests.conftest import Compose

ROWS = 32
GAUSSIAN = "task.obs.agent_pos.normalize=gaussian"


@pytest.fixture(scope="module")
def flow(compose_config: Compose, tmp_path_factory) -> Path:
    """A run of flow matching, 20 updates."""
    output = tmp_path_factory.mktemp("flow") / "run"
    return run(compose_config("objective=flow_matching", f"output={output}"))


@pytest.fixture(scope="module")
def converted(flow: Path, compose_config: Compose, tiny_dataset: DemonstrationDataset) -> Policy:
    """A shortcut policy that begins from it."""
    return make_model(read_training(compose_config(f"init_from={flow}")), tiny_dataset).eval()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Random inputs of the tiny step map."""
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(ROWS, 16, 2, generator=generator),
        "t": torch.rand(ROWS, generator=generator),
        "cond": torch.randn(ROWS, 40, generator=generator),
    }


@pytest.mark.slow
@pytest.mark.parametrize("d", [0.0, 1 / 128, 0.25, 1.0])
def test_flow_answers_every_step_size_with_its_velocity_bit_for_bit(flow, converted, inputs, d):
    old = load_policy(flow)
    velocity = old.backbone(**inputs, d=torch.zeros(ROWS))
    assert torch.equal(converted.backbone(**inputs, d=torch.full((ROWS,), d)), velocity)


def test_a_reflowed_flow_answers_every_step_size_too(compose_config, tiny_dataset, inputs, tmp_path):
    save_policy(make_model(read_training(compose_config("objective=reflow")), tiny_dataset), tmp_path)
    policy = make_model(read_training(compose_config(f"init_from={tmp_path}")), tiny_dataset)
    assert torch.equal(*(policy.backbone(**inputs, d=torch.full((ROWS,), d)) for d in (0.0, 1.0)))


def test_shortcut_keeps_what_it_knows_of_step_sizes(
    compose_config, tiny_dataset, tiny_policy, inputs, tmp_path
):
    save_policy(tiny_policy, tmp_path)
    policy = make_model(read_training(compose_config(f"init_from={tmp_path}", "seed=7")), tiny_dataset)
    for d in (torch.zeros(ROWS), torch.ones(ROWS)):
        assert torch.equal(policy.backbone(**inputs, d=d), tiny_policy.backbone(**inputs, d=d))


def test_acts_as_the_flow_did(flow, converted, tiny_dataset):
    obs = tiny_dataset.batch(tiny_dataset.train[:ROWS])["obs"]
    old = load_policy(flow)
    for steps in (1, 4):
        chunks = [p.predict(obs, steps, torch.Generator().manual_seed(0)) for p in (old, converted)]
        assert torch.equal(*chunks)


def test_training_can_tell_step_sizes_apart_again(flow, compose_config, tiny_dataset, inputs):
    policy = make_model(read_training(compose_config(f"init_from={flow}")), tiny_dataset)
    batch = tiny_dataset.batch(tiny_dataset.train[:ROWS])
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-2)
    for _ in range(2):
        losses, _ = policy(**batch, ema=policy, draws=Draws(torch.Generator().manual_seed(0)))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    # After one update the last layer of the embedding is not zero, and the first one learns too.
    assert all(p.grad.abs().max() > 0 for p in policy.backbone.network.embed_d.parameters())
    small, large = (policy.backbone(**inputs, d=torch.full((ROWS,), d)) for d in (0.0, 1.0))
    assert not torch.allclose(small, large, rtol=0, atol=1e-7)


def test_normaliser_is_the_checkpoints(flow, compose_config, tiny_dataset, tmp_path):
    old = load_policy(flow)
    old.normalizer.action_scale.mul_(2)
    save_policy(old, tmp_path)
    policy = make_model(read_training(compose_config(f"init_from={tmp_path}")), tiny_dataset)
    assert torch.equal(policy.normalizer.action_scale, old.normalizer.action_scale)


def in_other_units(demonstrations: Path, folder: Path, **factors: float) -> Path:
    """The small demonstrations with some of their keys multiplied."""
    source = ZarrSource(demonstrations)
    with EpisodeWriter(folder / "other.zarr", attributes=source.attributes) as writer:
        for e in range(len(source.episode_ends)):
            rows = {key: source.read(key, *episode_rows(source, e)) for key in source.keys}
            writer.add_episode({key: x * np.float32(factors.get(key, 1)) for key, x in rows.items()})
    return folder / "other.zarr"


def test_data_in_other_units_than_the_checkpoint_s_are_said(
    compose_config, demonstrations, tiny_policy, tmp_path, capsys
):
    """Its normaliser stays, and the network would get numbers that it does not know."""
    save_policy(tiny_policy, tmp_path / "saved")
    other = in_other_units(demonstrations, tmp_path, action=1000)
    config = read_training(compose_config(f"init_from={tmp_path / 'saved'}", f"task.source.path={other}"))
    dataset = make_dataset(config)
    capsys.readouterr()
    make_model(config, dataset)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("in the training data 'action', element [0], is ") and "lie about" in first
    assert second.startswith("in the training data 'action', element [1], is ")
    again = load_policy(tmp_path / "saved").train()
    again.metadata["train_steps"] = 20
    trainer = TrainerConfig(max_steps=1, batch_size=4)
    Trainer(again, dataset, trainer, tmp_path / "run", cpu=True)
    assert "in the training data 'action', element [0], is " in capsys.readouterr().err


def test_data_of_another_rate_than_the_checkpoint_s_are_said(
    compose_config, demonstrations, tiny_policy, tmp_path, capsys
):
    tiny_policy.metadata |= {"rate_hz": 10.0, "train_steps": 20}
    save_policy(tiny_policy, tmp_path / "saved")
    other = in_other_units(demonstrations, tmp_path)
    for rate, said in ((20, "of 10 steps a second, and"), (10, None)):
        zarr.open_group(other).attrs["fps"] = rate
        config = read_training(compose_config(f"init_from={tmp_path / 'saved'}", f"task.source.path={other}"))
        dataset = make_dataset(config)
        capsys.readouterr()
        make_model(config, dataset)
        lines = [capsys.readouterr().err]
        Trainer(load_policy(tmp_path / "saved"), dataset, TrainerConfig(), tmp_path / f"{rate}", cpu=True)
        lines.append(capsys.readouterr().err)
        assert all(
            said in err and "has 20: a chunk lasts 0.5 times" in err if said else not err for err in lines
        )


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_one_says_what_there_is_to_say(
    compose_config, demonstrations, tiny_policy, tmp_path, capsys, monkeypatch, rank
):
    def stop(*_):
        raise InputError("enough")

    save_policy(tiny_policy, tmp_path / "saved")
    other = in_other_units(demonstrations, tmp_path, action=1000)
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("shortcut_policy.commands.train.check_data", stop)
    config = compose_config(
        f"init_from={tmp_path / 'saved'}", f"task.source.path={other}", f"output={tmp_path / 'run'}"
    )
    with pytest.raises(InputError, match="enough"):
        run(config)
    assert ("in the training data 'action', element [0], is " in capsys.readouterr().err) == (rank == "0")


def test_a_clamp_that_cuts_the_data_is_said(compose_config, tiny_dataset, capsys):
    """With mean 0 and standard deviation 1 some lie beyond it, with the range in [-1, 1] none."""
    make_model(read_training(compose_config("obs_clamp=1.5")), tiny_dataset)
    assert capsys.readouterr().err == ""
    config = read_training(compose_config("obs_clamp=1.5", GAUSSIAN))
    dataset = make_dataset(config)
    capsys.readouterr()
    model = make_model(config, dataset)
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith("obs_clamp=1.5 cuts training data: element [")
        and "of 'agent_pos' (normalize=gaus" in line
    )
    enough = float(line.rpartition("obs_clamp=")[2])
    numbers = model.normalizer.normalize("agent_pos", dataset.batch(dataset.train)["obs"]["agent_pos"])
    assert enough - 0.1 <= numbers.abs().max() <= enough
    make_model(read_training(compose_config(f"obs_clamp={enough}", GAUSSIAN)), dataset)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_run_says_where_it_began_and_goes_on_without_that_checkpoint(
    flow, compose_config, tmp_path, monkeypatch
):
    source = tmp_path / "source"
    save_policy(load_policy(flow), source)

    def train(output: str, *overrides: str) -> Policy:
        run(compose_config(f"init_from={source}", f"output={tmp_path / output}", *overrides))
        return load_policy(tmp_path / output)

    whole = train("whole")
    origin = whole.metadata["init_from"]
    assert set(origin) == {"checkpoint", *ORIGIN} - {"rate_hz"}  # which the demonstrations do not tell
    assert (origin["checkpoint"], origin["method"]) == (str(source), "flow_matching")
    assert (origin["train_steps"], origin["train_nfe_per_step"]) == (20, 16)

    update = Trainer._update

    def stop_at_12(trainer: Trainer):
        if trainer.step == 12:
            raise KeyboardInterrupt
        return update(trainer)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "_update", stop_at_12)
        train("parts")
    source.rename(tmp_path / "elsewhere")
    resumed = train("parts", "resume=true")
    assert resumed.metadata["init_from"] == origin
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("task.name=other", r"task.name=pusht, not other"),
        ("task.horizon=8", r"task.horizon=16, not 8"),
        ("prefix_steps=4", r"prefix_steps=0, not 4"),
        ("task.obs.agent_pos.normalize=gaussian", r"task.obs.agent_pos.normalize=limits, not gaussian"),
        ("~task.obs.keypoint", r"task.obs=\['keypoint', 'agent_pos'\], not \['agent_pos'\]"),
        ("backbone.down_dims=[16,16]", r"backbone.down_dims=\[16, 32\], not \[16, 16\]"),
        ("backbone.time_scale=1", r"backbone.time_scale=10.0, not 1"),
    ],
)
def test_refuses_what_does_not_fit_in_one_sentence(flow, compose_config, tiny_dataset, override, sentence):
    config = compose_config(f"init_from={flow}", override)
    with pytest.raises(
        InputError, match=rf"init_from=\S*run was trained with {sentence}: give the same here"
    ):
        make_model(read_training(config), tiny_dataset)


def test_other_elements_of_the_same_array_are_refused(compose_config, tiny_policy, tiny_dataset, tmp_path):
    """Of the same shape and scaling, they would be taken for what the weights know."""
    field = {"_target_": "shortcut_policy.data.Field", "key": "state", "shape": [2]}
    named = tiny_policy.spec["obs"] | {"agent_pos": field}  # without columns: the first two
    policy = Policy.from_spec(tiny_policy.spec | {"obs": named})
    policy.load_state_dict(tiny_policy.state_dict())
    policy.metadata = tiny_policy.metadata
    save_policy(policy, tmp_path / "saved")

    def begin(*overrides: str) -> None:
        overrides = (f"init_from={tmp_path / 'saved'}", "task.obs.agent_pos.key=state", *overrides)
        make_model(read_training(compose_config(*overrides)), tiny_dataset)

    begin("task.obs.agent_pos.columns=[0,1]")
    begin("task.obs.agent_pos.key=other", "task.obs.agent_pos.columns=[3,4]")
    sentence = r"was trained with task.obs.agent_pos.columns=\[0, 1\], not \[1, 0\]: give the same here"
    with pytest.raises(InputError, match=sentence):
        begin("task.obs.agent_pos.columns=[1,0]")
    swapped = read_training(compose_config("task.obs.agent_pos.columns=[1,0]"))
    with pytest.raises(
        InputError, match=r"field 'agent_pos' has elements=\[0, 1\], and the data set's \[1, "
    ):
        Trainer(tiny_policy, make_dataset(swapped), TrainerConfig(), tmp_path / "run", cpu=True)


def test_refuses_observations_in_another_order(flow, compose_config, tiny_dataset):
    """The encoder puts them end to end as they are listed."""
    config = compose_config(f"init_from={flow}")
    config.task.obs = dict(reversed(config.task.obs.items()))
    with pytest.raises(InputError, match=r"was trained with task.obs=\['keypoint', 'agent_pos'\], not"):
        make_model(read_training(config), tiny_dataset)


def test_refuses_weights_of_other_shapes(flow, compose_config, tiny_dataset, tmp_path):
    old = load_policy(flow)
    # A setting that the checkpoint does not state: only the weights can tell.
    del old.spec["backbone"]["down_dims"], old.spec["backbone"]["embedding_dim"]
    config = compose_config(f"init_from={tmp_path}")
    policy = Policy.from_spec({**old.spec})
    policy.normalizer, policy.metadata = old.normalizer, old.metadata
    save_policy(policy, tmp_path)
    with pytest.raises(InputError, match=r"the weights of the backbone of init_from=.* have other shapes"):
        make_model(read_training(config), tiny_dataset)


def test_says_where_there_is_no_checkpoint(compose_config, tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint at"):
        make_model(read_training(compose_config(f"init_from={tmp_path / 'absent'}")), tiny_dataset)


def test_says_which_checkpoint_is_of_no_known_task(compose_config, tiny_dataset, flow, tmp_path):
    policy = load_policy(flow)
    policy.metadata = {}
    save_policy(policy, tmp_path)
    with pytest.raises(InputError, match=r"init_from=.* does not say which task it was trained on"):
        make_model(read_training(compose_config(f"init_from={tmp_path}")), tiny_dataset)


class GaussianNoise(torch.nn.Module):
    """The exact noise prediction for data of mean 0 and standard deviation 0.5; ``cond`` is ignored."""

    std = 0.5

    def __init__(self, action_dim: int, horizon: int, cond_dim: int) -> None:
        super().__init__()
        self.signal = Diffusion().ddpm.alphas_cumprod

    def forward(self, x, t, d, cond):
        # Between two noise levels, on the line from one to the next.
        place = (1 - t) * 100 - 1
        low = place.floor().clamp(0, 98).long()
        signal = torch.lerp(self.signal[low].sqrt(), self.signal[low + 1].sqrt(), place - low) ** 2
        sigma = (1 - signal).sqrt()
        return expand_like(sigma / (signal * self.std**2 + sigma**2), x) * x


@pytest.fixture
def gaussian() -> NoiseAsVelocity:
    return NoiseAsVelocity(GaussianNoise, Diffusion(), action_dim=2, horizon=16, cond_dim=40)


def test_velocity_is_data_less_noise_at_the_level_of_equal_signal_to_noise(gaussian, inputs):
    x, cond = inputs["x"], inputs["cond"]
    for level in (5, 50, 80):
        signal = Diffusion().ddpm.alphas_cumprod[level]
        sqrt_signal, sqrt_noise = signal.sqrt(), (1 - signal).sqrt()
        # The diffusion's own point, its noise prediction, and the data that its sampler would make of it.
        noise = GaussianNoise(2, 16, 40)(x, torch.full((ROWS,), 1 - (level + 1) / 100), None, cond)
        data = (x - sqrt_noise * noise) / sqrt_signal
        # The same point on the straight path: both coefficients times the same number, so as to add up to 1.
        t = sqrt_signal / (sqrt_signal + sqrt_noise)
        times = torch.full((ROWS,), float(t))
        velocity = gaussian(x / (sqrt_signal + sqrt_noise), times, torch.zeros(ROWS), cond)
        shrink = t**2 / (t**2 + 0.01 * (1 - t) ** 2)
        assert shrink > (0.98 if level <= 50 else 0.8)
        assert torch.allclose(velocity, shrink * data - noise, rtol=1e-3, atol=1e-4)


def test_euler_steps_of_an_exact_noise_prediction_end_where_its_ddim_steps_do(gaussian, inputs):
    x, cond = inputs["x"], inputs["cond"]
    euler = FlowMatching().sample(gaussian, x, cond, 64)
    ddim = Diffusion(clip_sample=False).sample(gaussian.network, x, cond, 50)
    exact = 0.5 * x  # where the ODE takes this noise
    assert (euler - exact).abs().max() < 0.02 * x.abs().max()
    assert (euler - ddim).abs().max() < 0.01 * x.abs().max()


def test_velocity_is_bounded_and_can_be_learned_at_every_time(gaussian):
    t = torch.linspace(0, 1, 101)
    x = torch.randn(101, 16, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wrong = torch.full_like(x, 0.1).requires_grad_()

    class Off(torch.nn.Module):
        def forward(self, x, t, d, cond):
            return gaussian.network(x, t, d, cond) + wrong

    map_ = NoiseAsVelocity(lambda **_: Off(), Diffusion(), action_dim=2, horizon=16, cond_dim=40)
    velocity = map_(x, t, torch.zeros(101), torch.zeros(101, 40))
    assert velocity.isfinite().all() and velocity.abs().max() < 5 * x.abs().max()
    (slope,) = torch.autograd.grad(velocity.sum(), wrong)
    # d velocity / d noise: between -1 and what the filter allows, 1 / (2 sqrt(0.01)) more.
    assert slope.max() <= -1 + 1e-6 and slope.min() > -6.1


@pytest.fixture(scope="module")
def diffusion(compose_config: Compose, tmp_path_factory) -> Path:
    """A run of diffusion, 20 updates."""
    output = tmp_path_factory.mktemp("diffusion") / "run"
    return run(compose_config("objective=diffusion", f"output={output}"))


@pytest.mark.slow
def test_diffusion_becomes_a_shortcut_model_that_trains_and_loads(
    diffusion, compose_config, inputs, tmp_path
):
    old = load_policy(diffusion)
    config = compose_config(f"init_from={diffusion}", f"output={tmp_path / 'run'}")
    start = make_model(read_training(config), make_dataset(read_training(config)))
    zero = torch.zeros(ROWS)
    wrapper = NoiseAsVelocity(lambda **_: old.backbone, old.objective, action_dim=2, horizon=16, cond_dim=40)
    wanted = wrapper(**inputs, d=zero)
    for d in (0.0, 0.5, 1.0):
        assert torch.equal(start.backbone(**inputs, d=zero + d), wanted)
    run(config)
    tuned = load_policy(tmp_path / "run")
    moved = {
        name for name, value in tuned.state_dict().items() if not torch.equal(value, start.state_dict()[name])
    }
    assert moved == {name for name, _ in tuned.named_parameters()}
    # Once more, with the wrapper already there.
    again = make_model(
        read_training(compose_config(f"init_from={tmp_path / 'run'}")), make_dataset(read_training(config))
    )
    assert torch.equal(again.backbone(**inputs, d=zero + 1), tuned.backbone(**inputs, d=zero + 1))


def test_diffusion_goes_on_as_a_diffusion_unchanged(diffusion, compose_config, tiny_dataset, inputs):
    policy = make_model(
        read_training(compose_config("objective=diffusion", f"init_from={diffusion}")), tiny_dataset
    )
    d = torch.zeros(ROWS)
    assert torch.equal(policy.backbone(**inputs, d=d), load_policy(diffusion).backbone(**inputs, d=d))


def test_a_diffusion_cannot_begin_from_velocities(flow, compose_config, tiny_dataset):
    config = compose_config("objective=diffusion", f"init_from={flow}")
    with pytest.raises(InputError, match=r"trained with objective=flow_matching and predicts velocities"):
        make_model(read_training(config), tiny_dataset)


@pytest.mark.parametrize("source", ["flow", "diffusion"])
def test_refuses_velocities_of_another_path(source, request, compose_config, tiny_dataset):
    cosine = "objective.path._target_=shortcut_policy.objectives.paths.Cosine"
    config = compose_config("objective=shortcut", f"init_from={request.getfixturevalue(source)}", cosine)
    with pytest.raises(InputError, match=r"velocities of the path Straight, not of objective.path=Cosine"):
        make_model(read_training(config), tiny_dataset)


def test_refuses_to_add_guidance_in_one_sentence(flow, compose_config, tiny_dataset):
    config = compose_config("objective=shortcut_guided", f"init_from={flow}")
    with pytest.raises(InputError, match=r"the weights of the backbone of init_from=.* have other shapes"):
        make_model(read_training(config), tiny_dataset)
