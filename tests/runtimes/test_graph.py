"""Every objective and backbone is a graph that computes what the policy computes, or says why not."""

from pathlib import Path

import pytest
import torch

from shortcut_policy.data import Field, Normalizer
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy
from shortcut_policy.runtimes.graph import ActGraph, example_inputs, make_program

OBS = {"state": Field("state", shape=(3,)), "image": Field("image", (24, 24, 3), normalize="image")}
ACTION = Field("action", shape=(2,))
OBJECTIVES = sorted(Path(CONFIG_DIR, "objective").glob("*.yaml"))
#: More steps than one, where each draws noise or there are none.
NOISY_OR_SINGLE = {"consistency_distillation", "consistency_training", "regression"}


def small_policy(
    objective: str = "shortcut", backbone: str = "unet_small", images: bool = False, **options: object
) -> Policy:
    """Untrained, with weights that no symmetry makes zero."""
    obs = OBS if images else {"state": OBS["state"]}
    encoder = {
        "_target_": "shortcut_policy.encoders.ImageEncoder",
        "trunk": {
            "_target_": "shortcut_policy.encoders.LightConvolutions",
            "_partial_": True,
            "width": 16,
            "depth": 0,
        },
        "crop": 20,
    }
    policy = Policy.build(
        obs,
        ACTION,
        8,
        n_action_steps=4,
        objective=objective,
        backbone=backbone,
        encoder=encoder if images else "lowdim",
        **options,
    )
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    statistics = {name: RunningStatistics() for name in ("state", "action")}
    for name, width in (("state", 3), ("action", 2)):
        statistics[name].update(torch.linspace(-5, 300, 20 * width).reshape(20, width).numpy())
    policy.normalizer = Normalizer({**obs, "action": ACTION}, statistics)
    return policy.eval()


def compare(policy: Policy, steps: int, rows: int) -> None:
    program = make_program(policy, steps, None, None)
    obs, noise = example_inputs(policy, rows, seed=1)
    with torch.no_grad():
        action, chunk = program.module()(obs, noise)
        expected = ActGraph(policy, steps)(obs, noise)
    assert action.shape == (rows, policy.n_action_steps, 2)
    torch.testing.assert_close(chunk, expected[1], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(action, expected[0], rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("file", [f for f in OBJECTIVES if "images" not in f.stem], ids=lambda f: f.stem)
def test_every_objective_is_a_graph_of_batches_of_any_size(file: Path) -> None:
    policy = small_policy(file.stem, "mlp")
    compare(policy, 1, rows=4)
    if file.stem not in NOISY_OR_SINGLE:
        compare(policy, 2, rows=1)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["dit", "mlp", "unet_small"])
def test_every_backbone_is_a_graph(backbone: str) -> None:
    compare(small_policy(backbone=backbone), 2, rows=3)


@pytest.mark.slow
def test_cameras_are_in_the_graph() -> None:
    policy = small_policy(images=True)
    obs, _ = example_inputs(policy, 2)
    assert obs["image"].dtype == torch.uint8
    compare(policy, 1, rows=2)


@pytest.mark.slow
def test_the_graph_holds_one_time_for_all_rows_and_batches() -> None:
    program = make_program(small_policy(), 1, None, None)
    sizes = [tuple(node.meta["val"].shape) for node in program.graph.nodes if "silu" in node.name]
    assert any(isinstance(rows, int) and rows == 1 for rows, *_ in sizes)  # the embedding of t and d
    assert any(not isinstance(rows, int) for rows, *_ in sizes)  # all else


@pytest.mark.parametrize(("objective", "steps"), [("diffusion", 100), ("consistency_training", 2)])
def test_noise_between_the_steps_is_refused(objective: str, steps: int) -> None:
    with pytest.raises(InputError, match=f"steps={steps}.*no seed would reach"):
        make_program(small_policy(objective, "mlp"), steps, None, 1)


def test_steps_that_the_objective_does_not_take_are_refused() -> None:
    with pytest.raises(InputError, match="steps=3"):
        make_program(small_policy(backbone="mlp"), 3, None, 1)
    with pytest.raises(InputError, match="decided anew"):
        make_program(small_policy(backbone="mlp"), "auto", None, 1)  # type: ignore[arg-type]


def test_a_network_that_decides_by_numbers_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(backbone="mlp")
    forward = policy.backbone.forward
    monkeypatch.setattr(policy.backbone, "forward", lambda x, *rest: forward(x if x.sum() > 0 else -x, *rest))
    with pytest.raises(InputError, match="cannot be made a graph"):
        make_program(policy, 1, None, 1)
