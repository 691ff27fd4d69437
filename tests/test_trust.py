"""Checkpoints that name code of others are refused before any of it is imported."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir

from shortcut_policy import load_policy, save_policy
from shortcut_policy.build import build
from shortcut_policy.commands import rollout as rollout_command
from shortcut_policy.commands.train import read_training
from shortcut_policy.errors import InputError
from shortcut_policy.model import Model
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy
from shortcut_policy.training.parts import make_model
from shortcut_policy.trust import check_trust, trusted_in

FOREIGN = """
from shortcut_policy.objectives import Regression
import subprocess

class Own(Regression):
    pass
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that Python finds and has not imported."""
    (tmp_path / "foreign_module.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "foreign_module", raising=False)
    return "foreign_module"


@pytest.fixture
def checkpoint(tiny_policy: Policy, tmp_path: Path) -> Path:
    save_policy(tiny_policy, tmp_path / "policy")
    return tmp_path / "policy"


def put(checkpoint: Path, key: str, value: Any, lost: bool = False) -> None:
    """Change an entry of ``policy.json``, by its dotted key, or lose it."""
    file = checkpoint / "policy.json"
    description = json.loads(file.read_text())
    *parents, last = key.split(".")
    place = description
    for parent in parents:
        place = place[parent]
    place[last] = value
    if lost:
        del place[last]
    file.write_text(json.dumps(description))


PLACES = [
    ("policy.objective", {"_target_": "foreign_module.Own"}),
    ("policy.objective.path", {"_target_": "foreign_module.Own"}),
    ("policy.backbone", {"_target_": "foreign_module.Own"}),
    ("policy.encoder", {"_target_": "foreign_module.Own"}),
    ("policy.action", {"_target_": "foreign_module.Own"}),
    ("policy.obs.keypoint", {"_target_": "foreign_module.Own"}),
    ("policy._target_", "foreign_module.Own"),
    ("metadata.task.env", {"_target_": "foreign_module.Own"}),
    ("metadata.task.env.id", "foreign_module:Env-v0"),
    ("metadata.task.env", {"_target_": "gymnasium.make", "id": "foreign_module:a:b"}),
    ("metadata.task.env.wrappers", [{"_target_": "foreign_module.Own"}]),
]


@pytest.mark.parametrize(("key", "value"), PLACES)
def test_foreign_code_is_refused_before_it_is_imported(checkpoint: Path, foreign: str, key: str, value: Any):
    put(checkpoint, key, value)
    file, named = str(checkpoint / "policy.json"), key.removesuffix("._target_").removesuffix(".id")
    with pytest.raises(InputError) as refused:
        load_policy(checkpoint)
    sentence = str(refused.value)
    assert sentence.startswith(f"{file} names ") and f"under {named}" in sentence and "\n" not in sentence
    assert "trust=[foreign_module" in sentence and 'load_policy(path, trust=["foreign_module' in sentence
    assert foreign not in sys.modules


def test_a_trusted_module_may_be_named(checkpoint: Path, foreign: str):
    put(checkpoint, "policy.objective", {"_target_": "foreign_module.Own"})
    put(checkpoint, "policy.precondition", None)
    with pytest.raises(InputError, match="cannot be loaded"):  # the weights are of a network with a skip
        load_policy(checkpoint, trust=[foreign])
    assert foreign in sys.modules
    with pytest.raises(InputError, match="it belongs to subprocess, which is not trusted"):
        put(checkpoint, "policy.objective", {"_target_": "foreign_module.Popen", "args": "true"})
        (Path(sys.modules[foreign].__file__)).write_text("from subprocess import Popen\n")
        sys.modules.pop(foreign)
        load_policy(checkpoint, trust=foreign)
    with pytest.raises(InputError, match=r"trust=my-module must be names of Python modules"):
        load_policy(checkpoint, trust=["my-module"])


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("os.system", "module 'os'"),
        ("builtins.eval", "module 'builtins'"),
        ("torch.load", "module 'torch'"),
        ("torch.hub.load", "module 'torch.hub'"),
        ("gymnasium.envs.registration.load_env_creator", "module 'gymnasium.envs.registration'"),
        ("os", "has _target_='os' under policy.backbone, which is no package.Class"),
        ("shortcut_policy_extras.Thing", "module 'shortcut_policy_extras'"),
        # Ours, but no part of a policy: they write, delete and build.
        ("shortcut_policy.checkpoint.remove_folder", "not a class that models are made of"),
        ("shortcut_policy.paths.write_atomic", "not a class that models are made of"),
        ("shortcut_policy.build.build", "not a class that models are made of"),
        ("shortcut_policy.build.find_target", "not a class that models are made of"),
        ("shortcut_policy.data.EpisodeWriter", "not a class that models are made of"),
        # Reached through what may be named.
        ("shortcut_policy.checkpoint.Path", r"it belongs to pathlib(\._local)?, which is not trusted"),
        ("shortcut_policy.commands.train.build", "not a class that models are made of"),
        ("shortcut_policy.provenance.subprocess", "not a class that models are made of"),
        ("torch.nn.functional.importlib", "not a class that models are made of"),
        ("torch.nn.Module.__subclasses__", "is private"),
        ("shortcut_policy.backbones.dit._HeadNorm", "is private"),
    ],
)
def test_what_is_no_part_of_a_policy_is_refused(target: str, reason: str, tmp_path: Path):
    with pytest.raises(InputError, match=reason):
        check_trust(tmp_path / "policy.json", {"policy": {"backbone": {"_target_": target}}})


def test_environments_of_gymnasium_s_predecessor_are_refused(tmp_path: Path):
    env = {"_target_": "gymnasium.make", "id": "GymV26Environment-v0", "env_id": "os:Thing-v0"}
    with pytest.raises(InputError, match="names GymV26Environment-v0 under env"):
        check_trust(tmp_path / "policy.json", {"env": env})


def test_everything_that_ships_may_be_named(tmp_path: Path):
    """Every configuration of an objective, backbone and encoder, the tasks, and a layer of torch."""
    for file in sorted(CONFIG_DIR.glob("*/**/*.yaml")):
        config, kind = yaml.safe_load(file.read_text()), file.relative_to(CONFIG_DIR).parts[0]
        if kind in ("objective", "backbone", "encoder"):
            check_trust(file, config)
        if kind == "task":
            check_trust(file, {key: config[key] for key in ("obs", "action", "env") if key in config})
    check_trust(tmp_path, {"activation": {"_target_": "torch.nn.SiLU"}})


def test_the_command_takes_trust(checkpoint: Path, foreign: str, tmp_path: Path):
    put(checkpoint, "metadata.task.env.id", "foreign_module:Env-v0")
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        settings = [f"checkpoint={checkpoint}", f"output={tmp_path / 'out'}"]
        with pytest.raises(InputError, match=r"trust=\[foreign_module\]"):
            rollout_command.run(compose("rollout", settings))
        assert foreign not in sys.modules
        with pytest.raises(InputError, match="cannot be made"):  # the module registers no such environment
            rollout_command.run(compose("rollout", [*settings, "trust=[foreign_module]"]))
    assert foreign in sys.modules


def test_a_training_trusts_what_its_own_configuration_names(compose_config, tiny_dataset, foreign, tmp_path):
    """It builds foreign code as it is told, and begins from checkpoints that name the same code."""
    own = ["objective._target_=foreign_module.Own", "precondition=null", "name=own"]

    def made(*overrides: str) -> Model:
        return make_model(read_training(compose_config("objective=regression", *overrides)), tiny_dataset)

    model = made(*own)
    assert type(model.objective).__module__ == foreign
    save_policy(model, tmp_path / "saved")
    with pytest.raises(InputError, match="trust"):
        load_policy(tmp_path / "saved")
    assert Policy.from_pretrained(tmp_path / "saved", trust=["foreign_module"]).spec == model.spec
    begin = f"init_from={tmp_path / 'saved'}"
    assert made(*own, begin).metadata["init_from"]["method"] == "own"
    with pytest.raises(InputError, match=r"trust=\[foreign_module\]"):
        made(begin)
    put(tmp_path / "saved", "policy.encoder._target_", "shortcut_policy.paths.write_atomic")
    with pytest.raises(InputError, match="not a class that models are made of"):
        made(*own, begin)
    put(tmp_path / "saved", "policy.encoder._target_", "shortcut_policy.encoders.LowDimEncoder")
    made(begin, "trust=[foreign_module]", "precondition=null")


def test_packages_of_a_configuration():
    config = {
        "trust": ["given"],
        "objective": {"_target_": "mine.parts.Loss", "path": {"_target_": "other.Path"}},
        "encoder": {
            "_target_": "shortcut_policy.encoders.LowDimEncoder",
            "act": {"_target_": "torch.nn.SiLU"},
        },
        "task": {"env": {"_target_": "gymnasium.make", "id": "envs_of_mine:Env-v0"}},
    }
    assert trusted_in(config) == ("given", "envs_of_mine", "mine", "other", "torch.nn")


@pytest.mark.parametrize("key", ["_args_", "_recursive_", "_convert_"])
def test_keys_that_hydra_knows_and_this_library_does_not_are_refused(key: str):
    with pytest.raises(InputError, match=f"has the key {key}, which is not known here"):
        build({"_target_": "shortcut_policy.objectives.Regression", key: []})
