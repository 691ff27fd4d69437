"""The recipes of `configs/` without Hydra: the same as with it, and no second copy of their numbers."""

import inspect
import json

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from shortcut_policy import DemonstrationDataset, Field, Policy
from shortcut_policy.commands.train import read_training
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.recipes import recipe, training_default
from shortcut_policy.training import TrainerConfig
from shortcut_policy.training.parts import make_model

OBS, ACTION = {"state": Field("state", (4,), columns=(3, 1, 2, 0))}, Field("action", (2,), unscaled=(1,))
NAMES = [
    (group, path.stem)
    for group in ("objective", "backbone", "encoder")
    for path in sorted((CONFIG_DIR / group).glob("*.yaml"))
]


def read(name: str) -> dict:
    return yaml.safe_load((CONFIG_DIR / name).read_text())


@pytest.fixture(scope="module")
def composed() -> dict[tuple[str, str], dict]:
    """All recipes as Hydra reads them."""
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return {
            (group, name): OmegaConf.to_container(compose(f"{group}/{name}")[group], resolve=True)
            for group, name in NAMES
        }


def test_a_recipe_is_what_hydra_reads(composed):
    for group, name in NAMES:
        assert recipe(group, name) == composed[group, name], (group, name)


def test_the_defaults_of_python_are_those_of_the_command():
    train = read("train.yaml")
    groups = {
        key: name
        for default in train["defaults"]
        if isinstance(default, dict)
        for key, name in default.items()
    }
    parameters = inspect.signature(Policy.build).parameters
    for group in ("objective", "backbone", "encoder"):
        assert parameters[group].default == groups[group]
    assert parameters["obs_noise"].default == train["obs_noise"]
    assert parameters["prefix_steps"].default == train["prefix_steps"]
    assert parameters["seed"].default == train["seed"]
    built = Policy.build(OBS, ACTION)
    assert built.spec["precondition"] == training_default("precondition") == train["precondition"] is not None
    trainer = {key: value for key, value in read("trainer/default.yaml").items() if key != "_target_"}
    assert json.loads(json.dumps(vars(TrainerConfig()))) == trainer
    options = inspect.signature(DemonstrationDataset.__init__).parameters
    assert {name: options[name].default for name in train["data"]} == train["data"]


def test_a_policy_is_the_one_that_the_command_makes(compose_config, tiny_dataset):
    """The same specification and the same weights."""
    config = read_training(compose_config())
    fields = {name: field for name, field in tiny_dataset.fields.items() if name != "action"}
    small = recipe("backbone", "unet", down_dims=[16, 32], embedding_dim=16)
    ours = Policy.build(fields, tiny_dataset.fields["action"], backbone=small, seed=config.seed)
    theirs = make_model(config, tiny_dataset)
    assert ours.spec == theirs.spec
    state = ours.state_dict()
    for name, value in theirs.state_dict().items():
        assert name.startswith("normalizer") or torch.equal(state[name], value), name


def test_a_specification_is_plain_json_that_builds_the_same():
    policy = Policy.build(OBS, ACTION, objective="flow_matching", backbone="mlp", precondition=None)
    assert json.loads(json.dumps(policy.spec)) == policy.spec
    again = Policy.from_spec(policy.spec)
    assert again.state_dict().keys() == policy.state_dict().keys()
    assert again.obs_shapes == policy.obs_shapes == {"state": (4,)}
    assert type(again.backbone).__name__ == "Mlp"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"objective": "shortcuts"}, r"objective=shortcuts must be .*shortcut.* or "),
        ({"backbone": {"down_dims": [16]}}, "has no _target_"),
        ({"horizon": 4}, "horizon=4 must hold n_obs_steps=2"),
        ({"n_obs_steps": 0}, "n_obs_steps=0 must be a whole number"),
        ({"obs": {"camera": Field("camera", (8, 8, 3), normalize="image")}}, "camera is an image"),
        ({"obs": {}}, r"obs=\{\} must be a mapping of names to fields, of one observation at least"),
        ({"obs": [Field("state", (4,))]}, r"obs=\[.*\] must be a mapping of names to fields"),
        ({"obs": {"state": (4,)}}, r"obs.state=\(4,\) is no field: give shortcut_policy.Field\(key, shape\)"),
        ({"obs": OBS | {"action": ACTION}}, "an observation is called 'action', .* give it another name"),
        ({"action": Field("action", (2, 2))}, r"action has shape \[2, 2\], and must have \(A,\)"),
        ({"env": "Reach-v0"}, r"env='Reach-v0' must be a mapping, \{\"_target_\": \"gymnasium.make\""),
        ({"seed": -1}, "seed=-1 must be a whole number from 0 to"),
        (
            {"precondition": {"data_std": torch.tensor(0.5), "residual_std": 0.1}},
            r"precondition.data_std=tensor",
        ),
        (
            {"objective": recipe("objective", "shortcut", level_weights=torch.ones(3))},
            r"as a list, .tolist\(\)",
        ),
    ],
)
def test_what_cannot_be_built(change, sentence):
    with pytest.raises(InputError, match=sentence):
        Policy.build(**({"obs": OBS, "action": ACTION} | change))


def test_a_change_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"objective=shortcut has no setting 'targetsteps'; it has _target_"):
        recipe("objective", "shortcut", targetsteps=2)
