"""Policies that were cast to another type of number act as before."""

from copy import deepcopy

import pytest
import torch

from shortcut_policy import load_policy, save_policy
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy
from tests.conftest import with_objective
from tests.test_policy import observe

#: Largest difference in pixels, on a board of 512. Were the actions themselves bfloat16, they would be two
#: pixels apart there, and the observations as coarse.
NEAR = {torch.float64: 1e-3, torch.bfloat16: 3.0, torch.float16: 0.5}


def act(policy: Policy, steps: int) -> torch.Tensor:
    return policy.act(observe(), steps, [torch.Generator().manual_seed(row) for row in range(3)])


@pytest.fixture(scope="module")
def shipped() -> Policy:
    return load_policy(CONFIG_DIR.parent / "pretrained" / "pusht")


@pytest.mark.parametrize("dtype", list(NEAR))
def test_it_acts_as_before(shipped: Policy, dtype: torch.dtype) -> None:
    cast = deepcopy(shipped).to(dtype)
    assert {p.dtype for p in cast.parameters()} == {dtype}
    for steps in (1, 4):
        actions = act(cast, steps)
        assert actions.dtype == torch.float32
        torch.testing.assert_close(actions, act(shipped, steps), atol=NEAR[dtype], rtol=1e-4)


@pytest.mark.parametrize(
    ("objective", "steps"), [("ConsistencyTraining", 4), ("Diffusion", 10), ("Diffusion", 100)]
)
def test_samplers_that_draw_on_the_way_draw_the_same(tiny_policy: Policy, objective: str, steps: int) -> None:
    policy = with_objective(tiny_policy, {"_target_": f"shortcut_policy.objectives.{objective}"})
    torch.nn.init.zeros_(policy.backbone.head[-1].weight)  # an untrained network makes much of a last digit
    exact = act(policy, steps)
    assert (exact[0] - exact[1]).abs().max() > 2, "chunks of different noise differ"
    for dtype in NEAR:
        torch.testing.assert_close(act(deepcopy(policy).to(dtype), steps), exact, atol=0.5, rtol=1e-4)


def test_statistics_and_frequencies_keep_their_digits(tiny_policy: Policy) -> None:
    cast = deepcopy(tiny_policy).to(torch.bfloat16)
    kept = dict(tiny_policy.named_buffers())
    for name, buffer in cast.named_buffers():
        assert buffer.dtype == torch.float32 and torch.equal(buffer, kept[name]), name
    assert {buffer.dtype for buffer in cast.double().float().buffers()} == {torch.float32}


def test_it_is_saved_and_loaded(tiny_policy: Policy, tmp_path) -> None:
    cast = deepcopy(tiny_policy).to(torch.bfloat16)
    save_policy(cast, tmp_path)
    assert torch.equal(act(load_policy(tmp_path).to(torch.bfloat16), 1), act(cast, 1))
