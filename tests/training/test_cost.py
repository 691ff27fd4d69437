"""Training cost, counted on the losses, against what the papers and the methods' definitions say."""

from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from shortcut_policy.commands.train import read_training
from shortcut_policy.data import DemonstrationDataset
from shortcut_policy.objectives.base import cost_phases
from shortcut_policy.policy import Policy
from shortcut_policy.training.cost import Evaluations, evaluations, evaluations_per_update
from shortcut_policy.training.parts import make_model
from tests.conftest import Compose, with_objective
from tests.step_maps import OBJECTIVES, settings

ROWS = 128
ONE = (1, 0, 1)
#: Objective -> forward, derivative and backward evaluations a row in each phase of its training.
KNOWN = {
    # A quarter of the rows takes two steps of the network more for its target (Frans et al. 2025, section 3).
    "shortcut_paper": [(1.5, 0, 1)],
    "flow_matching": [ONE],
    "regression": [ONE],
    "diffusion": [ONE],
    # The derivative is one evaluation that carries a tangent; half of the rows have one here.
    "meanflow": [(1.5, 0.5, 1)],
    "mip": [(2, 0, 2)],
    "consistency_training": [(2, 0, 1)],
    "consistency_distillation": [ONE, (3, 0, 1)],
    # Eight Euler steps of the teacher, then the student.
    "reflow": [ONE, (9, 0, 1)],
}


def spec_of(name: str) -> dict[str, Any]:
    spec = OmegaConf.to_container(settings(name), resolve=True)
    assert isinstance(spec, dict)
    return {str(key): value for key, value in spec.items()}


def batch_of(dataset: DemonstrationDataset, rows: int = ROWS) -> dict:
    return dataset.batch(dataset.train[torch.arange(rows) % len(dataset.train)])


def costs(policy: Policy, dataset: DemonstrationDataset) -> list[Evaluations]:
    middles = [(start + end) / 2 for start, end in cost_phases(policy.objective)]
    return [evaluations(policy, batch_of(dataset), progress) for progress in middles]


@pytest.mark.parametrize("name", KNOWN)
def test_an_update_costs_what_the_method_says(tiny_policy: Policy, tiny_dataset, name: str):
    found = costs(with_objective(tiny_policy, spec_of(name)), tiny_dataset)
    # A loss may change without changing its cost.
    assert list(dict.fromkeys(one[:3] for one in found)) == [pytest.approx(known) for known in KNOWN[name]]


@pytest.mark.parametrize(
    "name", sorted(set(OBJECTIVES) - KNOWN.keys() - {"shortcut_guided", "shortcut_images"})
)
def test_every_objective_is_counted(tiny_policy: Policy, tiny_dataset, name: str):
    for found in costs(with_objective(tiny_policy, spec_of(name)), tiny_dataset):
        assert found.forward >= 1 and 1 <= found.backward <= found.forward


def test_added_rows_are_differentiated_too(tiny_policy: Policy, tiny_dataset):
    objective = spec_of("shortcut_paper") | {"bootstrap_every": 2, "target_steps": 4}
    policy = with_objective(tiny_policy, objective | {"bootstrap_rows": "added"})
    assert [found[:3] for found in costs(policy, tiny_dataset)] == [(1 + 0.5 + 4 * 0.5, 0, 1.5)]


#: Objective -> rows that encoders are asked for in each phase, for each row of the batch.
ENCODED = {
    "flow_matching": [1],
    "regression": [1],
    "diffusion": [1],
    # The averaged encoder sees the quarter of the rows that has a target.
    "shortcut_paper": [1.25],
    "shortcut": [1, 2],
    # Its targets are by the weights that are trained.
    "consistency_training": [1],
    "reflow": [1, 2],
}


@pytest.mark.parametrize("name", ENCODED)
def test_rows_without_a_target_are_encoded_once(tiny_policy: Policy, tiny_dataset, name: str):
    found = costs(with_objective(tiny_policy, spec_of(name)), tiny_dataset)
    assert list(dict.fromkeys(one.encoded for one in found)) == ENCODED[name]
    assert all(one.encoder_backward == 1 for one in found)


def test_targets_by_the_same_weights_share_the_encoding(tiny_policy: Policy, tiny_dataset):
    policy = with_objective(tiny_policy, spec_of("shortcut_paper") | {"target_weights": "online"})
    assert [found.encoded for found in costs(policy, tiny_dataset)] == [1]


def test_the_network_is_neither_run_nor_changed(tiny_policy: Policy, tiny_dataset):
    class Refuses(nn.Linear):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            raise AssertionError("it may be large")

    policy = with_objective(tiny_policy, spec_of("reflow"))
    policy.backbone = Refuses(1, 1)
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    assert evaluations_per_update(policy, batch_of(tiny_dataset, 16), 16) == 16 * (0.5 + 0.5 * 9)
    assert isinstance(policy.backbone, Refuses) and all(p.grad is None for p in policy.parameters())
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())


def test_a_checkpoint_says_it(compose_config: Compose, tiny_dataset):
    config = read_training(compose_config("objective=shortcut_paper", "output=nowhere"))
    assert make_model(config, tiny_dataset).metadata["train_nfe_per_step"] == 16 * 1.5
