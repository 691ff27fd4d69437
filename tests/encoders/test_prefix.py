"""Policies that are told what is played anyway: what they learn from, what they give, what is refused."""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from shortcut_policy.commands.train import read_training, run
from shortcut_policy.encoders.prefix import CommittedPrefix
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws
from shortcut_policy.policy import Policy, load_policy, save_policy
from shortcut_policy.training.parts import make_model
from shortcut_policy.training.trainer import Trainer
from tests.conftest import Compose
from tests.step_maps import OBJECTIVES
from tests.training.test_trainer import assert_equal_states, final_state

GIVEN = np.array([[[100.0, 200.0], [110.0, 190.0], [130.0, 170.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])


@pytest.fixture(scope="module")
def told(compose_config: Compose, tiny_dataset) -> Policy:
    """An untrained policy that takes up to four actions."""
    return make_model(read_training(compose_config("prefix_steps=4")), tiny_dataset).eval()


def observe(policy: Policy, rows: int = 2) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return {
        name: 400 * torch.rand(rows, policy.n_obs_steps, *shape, generator=random)
        for name, shape in policy.obs_shapes.items()
    }


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(
    "given",
    [
        GIVEN,
        torch.tensor(GIVEN),
        GIVEN[:, ::-1].copy()[:, ::-1],
        GIVEN.astype(">f4"),
        GIVEN.astype(np.longdouble),
        torch.tensor(GIVEN).to_sparse(),
        torch.tensor(GIVEN, requires_grad=True),
        [torch.tensor(row) for row in GIVEN],
    ],
    ids=["array", "tensor", "backwards", "byte order", "long double", "sparse", "gradient", "list"],
)
def test_given_actions_come_back_and_decide_the_others(told: Policy, given):
    found = told.act(observe(told), 1, noise(), prefix=given)
    assert torch.equal(found[:, :3], torch.tensor(GIVEN, dtype=torch.float32))
    free = told.act(observe(told), 1, noise())
    assert not torch.equal(found[:, 3:], free[:, 3:])
    longer = told.act(observe(told), 1, noise(), prefix=GIVEN[:, [0, 1, 2, 2]])
    assert not torch.equal(longer[:, 4:], found[:, 4:])
    whole = told.predict(observe(told), 1, noise(), prefix=GIVEN)
    assert torch.equal(told.executed(whole), found)


def test_no_action_given_is_a_prefix_of_none(told: Policy):
    free = told.act(observe(told), 1, noise())
    assert torch.equal(told.act(observe(told), 1, noise(), prefix=GIVEN[:, :0]), free)
    assert free.shape == (2, told.n_action_steps, told.action_dim)


@pytest.mark.parametrize(
    ("prefix", "sentence"),
    [
        (GIVEN[0], r"shape \(3, 2\), expected \(2, k, 2\)"),
        (GIVEN[:1], r"shape \(1, 3, 2\), expected \(2, k, 2\)"),
        (GIVEN[..., :1], r"shape \(2, 3, 1\)"),
        (np.zeros((2, 5, 2)), "holds 5 actions, and this policy was trained with up to 4"),
        (np.full((2, 1, 2), np.nan), "NaN or infinity"),
        ([[["far"]]], "prefix must be real numbers, not <U3"),
        (GIVEN + 1j, "prefix must be real numbers, not complex128"),
        (torch.tensor(GIVEN + 1j), "prefix must be real numbers, not torch.complex128"),
        (np.ma.masked_greater(GIVEN, 100), "prefix has numbers that are masked"),
        (torch.tensor(GIVEN, device="meta"), "prefix is a tensor on the device 'meta'"),
    ],
)
def test_a_prefix_that_is_none_is_refused(told: Policy, prefix, sentence: str):
    with pytest.raises(InputError, match=sentence):
        told.act(observe(told), 1, noise(), prefix=prefix)


def test_a_prefix_in_other_units_is_said_once(told: Policy, capsys):
    policy = deepcopy(told)
    policy.act(observe(policy), 1, noise(), prefix=GIVEN)
    capsys.readouterr()
    for _ in range(2):
        policy.act(observe(policy), 1, noise(), prefix=1000 * GIVEN)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("prefix 'action', element [0], is 130000, and the data that the policy learned")
    assert second.startswith("prefix 'action', element [1], is ")


@pytest.mark.parametrize("steps", [-1, 15, "x", 1.5])
def test_a_prefix_that_leaves_nothing_to_choose_is_refused(tiny_policy: Policy, steps):
    with pytest.raises(InputError, match=f"prefix_steps={steps!r} must be a whole number from 0 to 14"):
        Policy.from_spec({**tiny_policy.spec, "prefix_steps": steps})


def test_a_policy_without_one_is_as_before(tiny_policy: Policy, tmp_path: Path):
    """Checkpoints that do not name it load, with as many weights; and they say what they lack."""
    assert tiny_policy.spec["prefix_steps"] == 0
    older = {key: value for key, value in tiny_policy.spec.items() if key != "prefix_steps"}
    loaded = Policy.from_spec(older)
    loaded.load_state_dict(tiny_policy.state_dict())
    obs = observe(tiny_policy)
    assert torch.equal(loaded.act(obs, 1, noise()), tiny_policy.act(obs, 1, noise()))
    with pytest.raises(InputError, match="trained with up to 0"):
        tiny_policy.act(obs, 1, noise(), prefix=GIVEN)


def test_a_saved_policy_takes_what_it_took(told: Policy, tmp_path: Path):
    save_policy(told, tmp_path / "policy")
    loaded = load_policy(tmp_path / "policy")
    found = loaded.act(observe(told), 1, noise(), prefix=GIVEN)
    assert torch.equal(found, told.act(observe(told), 1, noise(), prefix=GIVEN))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_and_acts_with_it(compose_config: Compose, tiny_dataset, objective: str):
    if objective == "shortcut_images":
        pytest.skip("is of images")
    config = read_training(compose_config(f"objective={objective}", "prefix_steps=4", "precondition=null"))
    policy = make_model(config, tiny_dataset)
    batch = tiny_dataset.batch(tiny_dataset.train[:8])
    losses, _ = policy(**batch, ema=policy, draws=Draws(noise()), progress=0.0, teacher=None)
    losses.mean().backward()
    steps = 10 if objective == "diffusion" else 1
    found = policy.eval().act(observe(policy), steps, noise(), prefix=GIVEN)
    assert torch.equal(found[:, :3], torch.tensor(GIVEN, dtype=torch.float32))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_transformer_takes_it_and_so_do_fewer_bits(tiny_policy: Policy, precision: torch.dtype):
    sizes = {"width": 16, "depth": 1, "heads": 2}
    spec = {"_target_": "shortcut_policy.backbones.ActionDit", "size": sizes, "embedding_dim": 16}
    policy = Policy.from_spec({**tiny_policy.spec, "backbone": spec, "prefix_steps": 4})
    policy.normalizer.load_state_dict(tiny_policy.normalizer.state_dict())
    found = policy.to(precision).eval().act(observe(policy), 1, noise(), prefix=GIVEN)
    assert torch.equal(found[:, :3], torch.tensor(GIVEN, dtype=torch.float32))


def test_a_chunk_goes_on_from_the_last_given_action():
    """Where the network is off by 30 there, two actions more are shifted, by two thirds and by one."""
    chunk = torch.arange(8.0)[None, :, None]
    found = CommittedPrefix(4, first=1, action_dim=1).kept(chunk, torch.tensor([[[0.0], [32.0]]]))
    assert found[0, :, 0].tolist() == pytest.approx([0, 0, 32, 3 + 20, 4 + 10, 5, 6, 7])
    almost_all = CommittedPrefix(6, first=1, action_dim=1).kept(chunk, torch.full((1, 6, 1), 9.0))
    assert almost_all[0, :, 0].tolist() == pytest.approx([0, *[9] * 6, 7 + 2])


def test_training_gives_as_many_actions_as_are_drawn():
    """None in every other row, else one to all that may be, of the chunk from the last observed step on."""
    prefix, x_1 = CommittedPrefix(4, first=1, action_dim=2), torch.randn(4000, 8, 2, generator=noise())
    drawn = prefix.draw(x_1, Draws(noise()))
    length = drawn[..., 2].sum(1).long()
    np.testing.assert_allclose(torch.bincount(length) / 4000, [0.5, *[0.125] * 4], atol=0.03)
    for row in range(20):
        assert torch.equal(drawn[row, : length[row], :2], x_1[row, 1 : 1 + length[row]])
        assert not drawn[row, length[row] :].any()
        at_play = prefix.condition(x_1[row : row + 1, 1 : 1 + length[row]])
        assert torch.equal(at_play[0], drawn[row]), "play tells what training told"
    assert torch.equal(drawn, prefix.draw(x_1, Draws(noise())))
    halves = [prefix.draw(x_1[rank::2], Draws(noise(), rank, 2)) for rank in (0, 1)]
    assert torch.equal(halves[1], drawn[1::2]), "whatever the number of processes"


def test_the_average_is_told_the_same(told: Policy, tiny_dataset):
    seen: list[torch.Tensor] = []
    hook = told.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[3]))
    batch = tiny_dataset.batch(tiny_dataset.train[:8])
    told(**batch, ema=told, draws=Draws(noise()), progress=0.9)
    hook.remove()
    target, online = seen[0], seen[-1]
    assert torch.equal(target, online[: len(target)])
    assert online[:, -12:].any()


def test_a_run_with_a_prefix_goes_on_bit_for_bit(
    compose_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = ("prefix_steps=4", "trainer.max_steps=10", "trainer.checkpoint_every=7")
    whole = run(compose_config(*settings, f"output={tmp_path / 'whole'}"))
    update = Trainer._update

    def fails(trainer: Trainer) -> dict[str, torch.Tensor]:
        if trainer.step == 7:
            raise KeyboardInterrupt
        return update(trainer)

    stopped = f"output={tmp_path / 'stopped'}"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "_update", fails)
        run(compose_config(*settings, stopped))
    resumed = run(compose_config(*settings, "resume=true", stopped))
    for part in ("policy", "ema", "optimizers", "step"):
        assert_equal_states(final_state(whole)[part], final_state(resumed)[part])
    with pytest.raises(InputError, match="was trained with prefix_steps=4, not 3"):
        run(compose_config("prefix_steps=3", *settings[1:], "resume=true", stopped))


def test_a_checkpoint_of_another_prefix_is_no_beginning(compose_config: Compose, tmp_path: Path):
    short = ("trainer.max_steps=2", "trainer.validate_every=0")
    first = run(compose_config(*short, f"output={tmp_path / 'first'}"))
    with pytest.raises(InputError, match="was trained with prefix_steps=0, not 4"):
        run(compose_config(*short, f"init_from={first}", "prefix_steps=4", f"output={tmp_path / 'second'}"))


def test_a_training_without_it_draws_no_number_for_it(tiny_policy: Policy, tiny_dataset, monkeypatch):
    monkeypatch.setattr(CommittedPrefix, "draw", None)
    batch = tiny_dataset.batch(tiny_dataset.train[:8])
    losses, _ = tiny_policy(**batch, ema=tiny_policy, draws=Draws(noise()), progress=0.9)
    assert losses.shape == (8,)
