"""Fine-tuning: a policy that begins from a trained one computes the same, and learns from there."""

from pathlib import Path

import pytest
import torch

from shortcut_policy import load_policy
from shortcut_policy.checkpoint import save_policy
from shortcut_policy.data import DemonstrationDataset
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws
from shortcut_policy.policy import Policy
from shortcut_policy.training import run
from shortcut_policy.training.initialise import ORIGIN
from shortcut_policy.training.run import make_policy
from shortcut_policy.training.trainer import Trainer
from tests.conftest import Compose

ROWS = 32


@pytest.fixture(scope="module")
def flow(compose_config: Compose, tmp_path_factory) -> Path:
    """A run of flow matching, 20 updates."""
    output = tmp_path_factory.mktemp("flow") / "run"
    return run(compose_config("objective=flow_matching", f"output={output}"))


@pytest.fixture(scope="module")
def converted(flow: Path, compose_config: Compose, tiny_dataset: DemonstrationDataset) -> Policy:
    """A shortcut policy that begins from it."""
    return make_policy(compose_config(f"init_from={flow}"), tiny_dataset).eval()


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Random inputs of the tiny step map."""
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(ROWS, 16, 2, generator=generator),
        "t": torch.rand(ROWS, generator=generator),
        "cond": torch.randn(ROWS, 40, generator=generator),
    }


@pytest.mark.parametrize("d", [0.0, 1 / 128, 0.25, 1.0])
def test_flow_answers_every_step_size_with_its_velocity_bit_for_bit(flow, converted, inputs, d):
    old = load_policy(flow)
    velocity = old.backbone(**inputs, d=torch.zeros(ROWS))
    assert torch.equal(converted.backbone(**inputs, d=torch.full((ROWS,), d)), velocity)


def test_shortcut_keeps_what_it_knows_of_step_sizes(
    compose_config, tiny_dataset, tiny_policy, inputs, tmp_path
):
    save_policy(tiny_policy, tmp_path)
    policy = make_policy(compose_config(f"init_from={tmp_path}", "seed=7"), tiny_dataset)
    for d in (torch.zeros(ROWS), torch.ones(ROWS)):
        assert torch.equal(policy.backbone(**inputs, d=d), tiny_policy.backbone(**inputs, d=d))


def test_acts_as_the_flow_did(flow, converted, tiny_dataset):
    obs = tiny_dataset.batch(tiny_dataset.train[:ROWS])["obs"]
    old = load_policy(flow)
    for steps in (1, 4):
        chunks = [p.predict(obs, steps, torch.Generator().manual_seed(0)) for p in (old, converted)]
        assert torch.equal(*chunks)


def test_training_can_tell_step_sizes_apart_again(flow, compose_config, tiny_dataset, inputs):
    policy = make_policy(compose_config(f"init_from={flow}"), tiny_dataset)
    batch = tiny_dataset.batch(tiny_dataset.train[:ROWS])
    optimizer = torch.optim.SGD(policy.parameters(), lr=1e-2)
    for _ in range(2):
        losses, _ = policy(**batch, ema=policy, draws=Draws(torch.Generator().manual_seed(0)))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    # After one update the last layer of the embedding is not zero, and the first one learns too.
    assert all(p.grad.abs().max() > 0 for p in policy.backbone.embed_d.parameters())
    small, large = (policy.backbone(**inputs, d=torch.full((ROWS,), d)) for d in (0.0, 1.0))
    assert not torch.allclose(small, large, rtol=0, atol=1e-7)


def test_normaliser_is_the_checkpoints(flow, compose_config, tiny_dataset, tmp_path):
    old = load_policy(flow)
    old.normalizer.action_scale.mul_(2)
    save_policy(old, tmp_path)
    policy = make_policy(compose_config(f"init_from={tmp_path}"), tiny_dataset)
    assert torch.equal(policy.normalizer.action_scale, old.normalizer.action_scale)


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
    assert set(origin) == {"checkpoint", *ORIGIN}
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
        ("task.obs.agent_pos.normalize=gaussian", r"task.obs.agent_pos.normalize=limits, not gaussian"),
        ("~task.obs.keypoint", r"task.obs.keypoint.normalize=limits, not None"),
        ("backbone.down_dims=[16,16]", r"backbone.down_dims=\[16, 32\], not \[16, 16\]"),
        ("backbone.time_scale=1", r"backbone.time_scale=1000.0, not 1"),
    ],
)
def test_refuses_what_does_not_fit_in_one_sentence(flow, compose_config, tiny_dataset, override, sentence):
    config = compose_config(f"init_from={flow}", override)
    with pytest.raises(
        InputError, match=rf"init_from=\S*run was trained with {sentence}: give the same here"
    ):
        make_policy(config, tiny_dataset)


def test_refuses_weights_of_other_shapes(flow, compose_config, tiny_dataset, tmp_path):
    old = load_policy(flow)
    # A setting that the checkpoint does not state: only the weights can tell.
    del old.spec["backbone"]["down_dims"], old.spec["backbone"]["embedding_dim"]
    config = compose_config(f"init_from={tmp_path}")
    policy = Policy.from_spec({**old.spec})
    policy.normalizer, policy.metadata = old.normalizer, old.metadata
    save_policy(policy, tmp_path)
    with pytest.raises(InputError, match=r"the weights of the backbone of init_from=.* have other shapes"):
        make_policy(config, tiny_dataset)


def test_says_where_there_is_no_checkpoint(compose_config, tiny_dataset, tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint at"):
        make_policy(compose_config(f"init_from={tmp_path / 'absent'}"), tiny_dataset)
