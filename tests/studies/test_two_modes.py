"""Learned on two modes in the plane: what one step can and cannot do."""

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from shortcut_policy.build import build
from shortcut_policy.commands.train import run
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy, load_policy
from shortcut_studies import CONFIGS, toy

pytestmark = pytest.mark.slow

TOY = (f"hydra.searchpath=[file://{CONFIGS}]", "task=two_modes", "backbone=mlp", "trainer=toy", "cpu=true")


def train(objective: str, folder: Path) -> Policy:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", [*TOY, f"objective={objective}", f"output={folder / objective}"])
    return load_policy(run(config))


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Policy, Policy]:
    folder = tmp_path_factory.mktemp("two_modes")
    return train("shortcut", folder), train("flow_matching", folder)


@pytest.fixture(scope="module")
def source() -> toy.Mixture:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return build(dict(compose("train", TOY).task.source))


def test_one_shortcut_keeps_both_modes_where_one_flow_step_falls_between_them(policies, source):
    one_shortcut, one_flow = (toy.sample(policy, 1) for policy in policies)
    between = [np.mean(np.abs(points[:, 0]) < 0.375) for points in (one_shortcut, one_flow)]
    assert between[0] < 0.15 and between[1] > 0.9
    assert 0.4 < np.mean(one_shortcut[:, 0] < 0) < 0.6
    assert toy.distance_to_data(one_shortcut, source) < 0.25 * toy.distance_to_data(one_flow, source)


def test_many_steps_of_both_reach_the_data(policies, source):
    for policy in policies:
        assert toy.distance_to_data(toy.sample(policy, 32), source) < 0.05
