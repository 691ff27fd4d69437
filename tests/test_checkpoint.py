"""Weights that are stored once and used twice, and descriptions that are damaged."""

import json
import re
from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from shortcut_policy import load_policy, save_policy
from shortcut_policy.backbones import Mlp
from shortcut_policy.build import build
from shortcut_policy.checkpoint import find_checkpoint, replace_folder, save_checkpoint
from shortcut_policy.errors import InputError, TrainingError
from shortcut_policy.policy import Policy
from tests.test_policy import observe
from tests.test_trust import put

TIED = {"_target_": "tests.test_checkpoint.TiedMlp", "width": 32}


class TiedMlp(Mlp):
    """The noise level and the step size are embedded by the same numbers."""

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        self.embed_d.mlp = self.embed_t.mlp


@pytest.fixture
def tied(tiny_policy: Policy) -> Policy:
    policy = Policy.from_spec({**tiny_policy.spec, "precondition": None, "backbone": TIED})
    policy.normalizer.load_state_dict(tiny_policy.normalizer.state_dict())
    return policy


def weights(folder: Path) -> Path:
    return folder / "policy.safetensors"


def test_tied_weights_are_saved_once_and_loaded_tied(tied: Policy, tmp_path: Path) -> None:
    save_policy(tied, tmp_path)
    loaded = load_policy(tmp_path, trust=__name__)
    acts = [policy.act(observe(), 2, torch.Generator().manual_seed(0)) for policy in (tied, loaded)]
    assert torch.equal(*acts)
    assert loaded.backbone.embed_t.mlp[0].weight is loaded.backbone.embed_d.mlp[0].weight
    stored, names = load_file(weights(tmp_path)), set(tied.state_dict())
    assert {name.replace("embed_d", "embed_t") for name in names} == {
        name.replace("embed_d", "embed_t") for name in stored
    }
    assert len(stored) == len(names) - 4
    assert {path.name for path in tmp_path.iterdir()} == {"policy.json", "policy.safetensors"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("runs/*", r"there is no checkpoint at runs/\*: patterns are not expanded here; give one f"),
        ("runs", r"runs is no checkpoint and no run, but holds 2 of them: give one, such as runs/two$"),
        ("runs/one/checkpoints/step_2/policy.json", r"is no folder: give that of the checkpoint, runs/one"),
        ("runs/three", "there is no checkpoint at runs/three: give a checkpoint folder or a run folder"),
        ("runs/one/empty", "runs/one/empty holds no checkpoint: neither policy.json nor checkpoints/step_"),
        ("", "checkpoint='' must be the path of one checkpoint folder or run folder"),
        (["runs/one", "runs/two"], r"checkpoint=\['runs/one', 'runs/two'\] must be the path of one"),
    ],
)
def test_what_is_no_checkpoint_says_what_to_give(tiny_policy, tmp_path, monkeypatch, given, sentence) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("one", "two"):
        save_policy(tiny_policy, f"runs/{run}/checkpoints/step_2")
    Path("runs/one/empty").mkdir()
    with pytest.raises(InputError, match=sentence):
        load_policy(given)


def test_the_newest_of_a_run_is_meant_if_it_is_whole(tiny_policy: Policy, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    for step in ("step_00000010", "step_9"):
        save_policy(tiny_policy, checkpoints / step)
    for place in (tmp_path, checkpoints):
        assert find_checkpoint(place) == checkpoints / "step_00000010"
    (checkpoints / "step_00000005").mkdir()
    (checkpoints / "step_00000020 (copy)").mkdir()
    assert find_checkpoint(tmp_path) == checkpoints / "step_00000010"
    (checkpoints / "step_00000020").mkdir()
    with pytest.raises(InputError, match=r"step_00000020 lacks policy.json, as when a run is copied only in"):
        load_policy(tmp_path)


@pytest.mark.parametrize("home", ["~", "$HOME"])
def test_home_is_written_out(tiny_policy: Policy, tmp_path: Path, monkeypatch, home: str) -> None:
    """As in paths of data. A folder called ``~`` is removed at some risk."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    tiny_policy.save_pretrained(f"{home}/policy")
    save_policy(tiny_policy, f"{home}/another")
    assert find_checkpoint(f"{home}/policy") == tmp_path / "home/policy"
    assert find_checkpoint(f"{home}/another") == tmp_path / "home/another"
    assert {place.name for place in tmp_path.iterdir()} == {"home"}
    with pytest.raises(InputError, match="there is no checkpoint at ~nobody_is_called_so/run"):
        load_policy("~nobody_is_called_so/run")


def test_weights_that_are_parts_of_a_larger_one_are_saved_each(tiny_policy: Policy, tmp_path: Path) -> None:
    """As recurrent networks on a GPU have them, fused layers, and constants that were expanded."""
    act = partial(Policy.act, obs=observe(), steps=2)
    policy = deepcopy(tiny_policy)
    biases = [module for module in policy.modules() if isinstance(module, torch.nn.Linear)]
    large = torch.cat([module.bias.detach() for module in biases])
    at = 0
    for module in biases:
        module.bias = torch.nn.Parameter(large[at : at + len(module.bias)])
        at += len(module.bias)
    biases[-1].bias = torch.nn.Parameter(torch.zeros(1).expand(len(biases[-1].bias)))
    policy.register_buffer("overlaps", large[: len(biases[0].bias) - 1])
    with pytest.raises(InputError, match="Unexpected key"):  # the one file holds all of it
        save_policy(policy, tmp_path / "more")
        load_policy(tmp_path / "more")
    del policy.overlaps
    save_policy(policy, tmp_path)
    acts = [act(one, generator=torch.Generator().manual_seed(0)) for one in (policy, load_policy(tmp_path))]
    assert torch.equal(*acts)
    assert weights(tmp_path).stat().st_size < 1.1 * sum(p.nbytes for p in policy.state_dict().values())


def test_one_weight_in_two_shapes_is_saved_in_both(tiny_policy: Policy, tmp_path: Path) -> None:
    policy = deepcopy(tiny_policy)
    first = next(module for module in policy.modules() if isinstance(module, torch.nn.Linear))
    policy.flat = torch.nn.Parameter(first.weight.data.view(-1))
    save_policy(policy, tmp_path)
    saved = load_file(weights(tmp_path))
    (name,) = [name for name, module in policy.named_modules() if module is first]
    assert torch.equal(saved["flat"], saved[f"{name}.weight"].flatten())


def test_a_file_with_each_of_the_names_loads(tied: Policy, tmp_path: Path) -> None:
    """As a policy on a GPU was saved before."""
    save_policy(tied, tmp_path)
    copies = {name: value.clone() for name, value in tied.state_dict().items()}
    save_file(copies, weights(tmp_path))
    loaded = load_policy(tmp_path, trust=__name__)
    assert all(torch.equal(value, copies[name]) for name, value in loaded.state_dict().items())


def test_what_torch_compiles_is_saved_as_what_nobody_has_compiled(tiny_policy: Policy, tmp_path: Path):
    """Each of the two loads the other, also below the averaged weights of a training."""
    act = partial(Policy.act, obs=observe(), steps=2)
    expected = act(tiny_policy, generator=torch.Generator().manual_seed(0))
    compiled = deepcopy(tiny_policy)
    compiled.backbone = torch.compile(compiled.backbone, backend="eager")
    save_policy(compiled, tmp_path)
    loaded = load_policy(tmp_path)
    assert torch.equal(act(loaded, generator=torch.Generator().manual_seed(0)), expected)
    averaged, of_compiled = AveragedModel(deepcopy(tiny_policy)), AveragedModel(compiled)
    for parameter in of_compiled.parameters():
        parameter.data.zero_()
    of_compiled.load_state_dict(averaged.state_dict())
    copied = of_compiled.state_dict()
    assert averaged.state_dict().keys() == copied.keys()
    assert all(torch.equal(value, copied[name]) for name, value in averaged.state_dict().items())
    found = act(of_compiled.module, generator=torch.Generator().manual_seed(0))
    # torch 2.9 lays tensors out otherwise where it has compiled, and so rounds otherwise.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)


def test_below_other_modules_a_policy_renames_nothing_but_its_own_parts(tiny_policy: Policy):
    policy = deepcopy(tiny_policy)
    policy.backbone = torch.compile(policy.backbone, backend="eager")
    other = torch.compile(torch.nn.Linear(2, 2), backend="eager")
    around = torch.nn.ModuleDict({"other": other, "policy": policy, "last": deepcopy(other)})
    state, own = around.state_dict(), [f"policy.{name}" for name in tiny_policy.state_dict()]
    assert list(state) == [
        "other._orig_mod.weight",
        "other._orig_mod.bias",
        *own,
        "last._orig_mod.weight",
        "last._orig_mod.bias",
    ]
    around.load_state_dict(state)
    plain = torch.nn.ModuleDict({"other": other, "policy": tiny_policy, "last": other})
    assert list(plain.state_dict()) == list(state)
    whole = torch.compile(deepcopy(policy), backend="eager")
    whole.load_state_dict(whole.state_dict())


def test_the_state_of_a_policy_goes_where_it_is_asked_to(tiny_policy: Policy):
    """As torch does it, by keyword or by position."""
    policy, names = deepcopy(tiny_policy), list(tiny_policy.state_dict())
    policy.backbone = torch.compile(policy.backbone, backend="eager")
    for _ in range(2):  # into what it has filled before, too
        there = {"a._orig_mod.b": torch.zeros(1)}
        assert policy.state_dict(destination=there) is there
        assert list(there) == ["a._orig_mod.b", *names]
    assert list(policy.state_dict(destination=there)) == ["a._orig_mod.b", *names]
    below = policy.state_dict(destination={}, prefix="x._orig_mod.", keep_vars=True)
    assert list(below) == [f"x._orig_mod.{name}" for name in names]
    assert any(value.requires_grad for value in below.values())
    with pytest.warns(FutureWarning, match="use kwargs"):
        assert list(policy.state_dict({}, "y.")) == [f"y.{name}" for name in names]
    with pytest.warns(FutureWarning, match="use kwargs"):
        assert not any(value.requires_grad for value in policy.state_dict({}, "y.", False).values())


def test_one_network_is_not_taken_for_another(tied: Policy, tmp_path: Path) -> None:
    """Tied weights fit a network that does not tie them; other differences are named in one sentence."""
    save_policy(tied, tmp_path)
    description = json.loads((tmp_path / "policy.json").read_text())
    description["policy"]["backbone"]["_target_"] = "shortcut_policy.backbones.Mlp"
    (tmp_path / "policy.json").write_text(json.dumps(description))
    acts = [
        policy.act(observe(), 2, torch.Generator().manual_seed(0))
        for policy in (tied, load_policy(tmp_path, trust=__name__))
    ]
    assert torch.equal(*acts)
    description["policy"]["backbone"]["depth"] = 4
    (tmp_path / "policy.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"cannot be loaded \(.*Missing key.*layers\.8.*\); take") as caught:
        load_policy(tmp_path, trust=__name__)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_saving_that_fails_leaves_the_old_weights(tied: Policy, tmp_path: Path, monkeypatch) -> None:
    save_policy(tied, tmp_path)
    before = weights(tmp_path).read_bytes()

    def half(model, path) -> None:
        Path(path).write_bytes(before[:100])
        raise OSError("No space left on device")

    monkeypatch.setattr("shortcut_policy.checkpoint.write_weights", half)
    with pytest.raises(OSError, match="No space left"):
        save_policy(deepcopy(tied), tmp_path)
    assert weights(tmp_path).read_bytes() == before
    with safe_open(weights(tmp_path), "pt") as file:
        assert file.metadata()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"policy": []}, "describes no policy"),
        ({"policy": {}}, "describes no model that can be built"),
        ({"metadata": None}, "describes no policy"),
        ({"format": None}, "has checkpoint format None"),
        ({"n_action_steps": 0}, "n_action_steps=0 must be a whole number"),
        ({"n_action_steps": 100}, "horizon=16 must hold"),
        ({"horizon": "x"}, "horizon='x' must be a whole number"),
        ({"obs": []}, "describes no model that can be built"),
        ({"obs_noise": json.loads("[" * 400 + "]" * 400)}, "more than 50 levels of mappings and lists"),
    ],
)
def test_a_description_of_no_policy_is_one_sentence(tiny_policy, tmp_path, change, sentence):
    save_policy(tiny_policy, tmp_path)
    file = tmp_path / "policy.json"
    description = json.loads(file.read_text())
    (key,) = change
    (description if key in description else description["policy"]).update(change)
    file.write_text(json.dumps(description))
    with pytest.raises(InputError, match=sentence):
        load_policy(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("policy.horizon", None, "the specification lacks the setting 'horizon'; it also has encoder, "),
        ("policy.horizon", "16", "horizon='16' must be a whole number from 1 on"),
        ("policy.obs", ["keypoint"], r"obs=\['keypoint'\] must be a mapping of names to fields"),
        ("policy.obs", {}, r"obs=\{\} must be a mapping of names to fields, of one observation at least"),
        ("policy.obs.keypoint", "keypoint", "obs.keypoint=keypoint is no field: give "),
        ("policy.obs.keypoint.key", None, "obs.keypoint is no field: .*Field lacks the setting 'key'; it al"),
        (
            "policy.obs.keypoint.shape",
            "9x2",
            "obs.keypoint is no field: .*: shape=9x2 must be a list of whole",
        ),
        ("policy.action.shape", 2, "action is no field: field 'action': shape=2 must be a list of whole num"),
        ("policy.action._target_", "torch.nn.SiLU", "action is no field: torch.nn.SiLU has no setting 'key'"),
        ("policy.action", {"_target_": "torch.nn.SiLU"}, r"action=\{.*\} is no field: give "),
        ("policy.encoder", 3, "cannot build an object from 3: it has no _target_"),
    ],
)
def test_damage_of_a_specification_is_named(tiny_policy: Policy, tmp_path: Path, key, value, sentence):
    """By file and key; None stands for an entry that is lost."""
    save_policy(tiny_policy, tmp_path)
    put(tmp_path, key, value, lost=value is None)
    file = tmp_path / "policy.json"
    with pytest.raises(InputError) as refused:
        load_policy(tmp_path)
    assert re.match(rf"{file} describes no model that can be built: {sentence}", str(refused.value))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "Shortcut", "..Shortcut", "a b.C", 3, None, []])
@pytest.mark.parametrize("place", ["policy", "policy.objective", "metadata.task.env"])
def test_a_target_that_names_nothing(tiny_policy: Policy, tmp_path: Path, name: object, place: str):
    save_policy(tiny_policy, tmp_path)
    put(tmp_path, f"{place}._target_", name)
    file = tmp_path / "policy.json"
    sentence = (
        f"{file} has _target_={name!r} under {place}, which is no package.Class: take another checkpoint"
    )
    with pytest.raises(InputError, match=re.escape(sentence)):
        load_policy(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"its _target_={name!r} is no package.Class")):
        build({"_target_": name})


def test_a_folder_is_replaced_by_a_whole_one_or_kept(tmp_path: Path, monkeypatch) -> None:
    old, new = tmp_path / "graph", tmp_path / ".graph.tmp"
    for folder in (old, new):
        folder.mkdir()
        (folder / "says").write_text(folder.name)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == new:
            raise OSError(5, "Input/output error", str(target))
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse)
        with pytest.raises(OSError, match="Input/output error"):
            replace_folder(new, old)
    assert (old / "says").read_text() == "graph"
    replace_folder(new, old)
    assert (old / "says").read_text() == ".graph.tmp"
    assert [file.name for file in tmp_path.iterdir()] == ["graph"]


def test_a_run_folder_that_vanishes_is_not_begun_anew(tiny_policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(
        TrainingError, match="run has gone, so that the checkpoint of update 3 cannot be written: put"
    ):
        save_checkpoint(tiny_policy, tmp_path / "run", 3, {})
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_cannot_be_written_is_told_with_its_name(
    tiny_policy: Policy, tmp_path: Path, monkeypatch
):
    def refuse(_: object, place: Path) -> None:
        raise OSError(30, "Read-only file system", str(place))

    monkeypatch.setattr(torch, "save", refuse)
    with pytest.raises(TrainingError, match=r"checkpoints/step_00000003'") as caught:
        save_checkpoint(tiny_policy, tmp_path, 3, {})
    assert ".tmp" not in str(caught.value)
