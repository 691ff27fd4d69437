"""Policies of folders and of the hub, whose functions are played here; `test_hub` has its own client."""

import json
import shutil
from copy import deepcopy
from importlib import metadata
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import errors

from shortcut_policy import Policy, load_policy
from shortcut_policy.data import Field, Normalizer
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.errors import InputError
from shortcut_policy.fingerprint import weights_hash
from shortcut_policy.plain import plain_json
from tests.test_policy import observe


class Hub:
    """Models of a hub as folders, by ``user/name@revision``."""

    def __init__(self, root: Path) -> None:
        self.root, self.calls = root, []

    def folder(self, repo_id: str, revision: str | None) -> Path:
        return self.root / f"{repo_id}@{revision or 'main'}"

    def snapshot_download(self, repo_id, *, revision=None, allow_patterns=None):
        if not self.folder(repo_id, revision).is_dir():
            kind = errors.RevisionNotFoundError if revision else errors.RepositoryNotFoundError
            raise kind.__new__(kind)
        found = self.root / "cache"
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir()
        for name in allow_patterns:
            if (self.folder(repo_id, revision) / name).exists():
                shutil.copy(self.folder(repo_id, revision) / name, found)
        return str(found)

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create_repo", repo_id, private))
        self.folder(repo_id, None).mkdir(parents=True, exist_ok=exist_ok)

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.folder(repo_id, branch).mkdir(parents=True, exist_ok=exist_ok)

    def file_exists(self, repo_id, filename, *, revision=None):
        return (self.folder(repo_id, revision) / filename).exists()

    def upload_folder(self, *, repo_id, folder_path, revision, commit_message, ignore_patterns):
        self.calls.append(("upload_folder", repo_id, commit_message))
        ignored = shutil.ignore_patterns(*(ignore_patterns or ()))
        shutil.copytree(folder_path, self.folder(repo_id, revision), ignore=ignored, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: hub)
    return hub


@pytest.fixture
def policy(tiny_policy: Policy) -> Policy:
    """For tests that change it."""
    policy = deepcopy(tiny_policy)
    policy.metadata |= {"train_steps": 20, "command": "python scripts/train.py task=pusht_human 'output=a b'"}
    return policy


def acts(policy: Policy) -> torch.Tensor:
    return policy.act(observe(), 2, torch.Generator().manual_seed(0))


def test_what_is_pushed_comes_back(policy: Policy, hub: Hub):
    assert policy.push_to_hub("user/pusht", private=True, message="First") == "hf://user/pusht"
    assert hub.calls == [("create_repo", "user/pusht", True), ("upload_folder", "user/pusht", "First")]
    files = {file.name for file in hub.folder("user/pusht", None).iterdir()}
    assert files == {"policy.safetensors", "policy.json", "README.md"}
    for load in (load_policy, Policy.from_pretrained):
        loaded = load("hf://user/pusht")
        assert torch.equal(acts(loaded), acts(policy))
        assert (loaded.spec, loaded.metadata) == (policy.spec, policy.metadata)
    # A command line's path object keeps one of two slashes.
    assert load_policy(Path("hf://user/pusht")).metadata == policy.metadata


def test_revisions_are_apart(policy: Policy, hub: Hub):
    policy.push_to_hub("user/pusht")
    policy.metadata["method"] = "another"
    assert policy.push_to_hub("hf://user/pusht", revision="v2") == "hf://user/pusht@v2"
    methods = [load_policy(f"hf://user/pusht{at}").metadata["method"] for at in ("", "@v2", "@main")]
    assert methods == ["shortcut", "another", "shortcut"]


def test_a_card_says_what_a_stranger_has_to_know(policy: Policy, hub: Hub):
    policy.push_to_hub("user/pusht")
    card = (hub.folder("user/pusht", None) / "README.md").read_text("utf-8")
    _, front, text = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "shortcut_policy",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "imitation-learning", "shortcut-policy", "shortcut"],
    }
    assert "# license: yours to choose" in front
    low = policy.normalizer.action_offset - policy.normalizer.action_scale
    for part in (
        "# shortcut policy for pusht",
        'Policy.from_pretrained("hf://user/pusht", device="cpu")',
        "it can take: 1, 2, 4, 8, 16, 32, 64, 128.",
        "| keypoint | [9, 2] | range to [-1, 1] |",
        f"| action | [2] | range to [-1, 1] | {low.min():.4g} to ",
        "| data set | wandering.zarr |",
        "| updates | 20 |",
        "```bash\npython scripts/train.py task=pusht_human 'output=a b'\n```",
        f"torch {metadata.version('torch')}",  # torch.__version__ may say the build, too, such as +cu132
    ):
        assert part in text
    assert "{" not in text.replace("{_target_", "")


def test_a_card_says_what_it_does_not_know(policy: Policy, tmp_path: Path):
    for key in ("seed", "dataset", "commit", "command"):
        policy.metadata.pop(key, None)
    policy.save_pretrained(tmp_path / "policy")
    text = (tmp_path / "policy" / "README.md").read_text()
    (missing,) = (line for line in text.splitlines() if line.startswith("Not known: "))
    assert {"data set", "seed", "commit of the library"} <= set(missing[11:-1].split(", "))
    assert "The command of the training is not known." in text
    assert "None were given with this policy" in text
    assert "has not stated a licence" in text


SUMMARY = {
    "episodes": 100,
    "score": 0.9614,
    "score_ci": [0.93, 0.98],
    "success": 0.66,
    "success_ci": [0.56, 0.745],
    "latency": {"p50": 4.5123, "p95": 5, "device": "Xeon", "threads": 1},
    "command": "python scripts/rollout.py steps=[1,4]",
}


def put_summary(policy: Policy, file: Path, steps: int, **others: object) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    settings = {"steps": steps, "weights": weights_hash(policy)}
    file.write_text(json.dumps({**SUMMARY, "settings": settings, **others}))


def test_a_card_tells_what_was_measured(policy: Policy, tmp_path: Path):
    put_summary(policy, tmp_path / "out/pusht/4_steps/summary.json", 4, latency=None)
    put_summary(policy, tmp_path / "out/pusht/1_step/summary.json", 1)
    policy.save_pretrained(tmp_path / "policy", license="mit", results=tmp_path / "out")
    text = (tmp_path / "policy" / "README.md").read_text()
    figures = "| 100 | 0.961 [0.930, 0.980] | 66% [56%, 74%] |"
    assert f"| 1 {figures} 4.51 ms on Xeon, one thread |\n| 4 {figures} not measured |\n" in text
    assert text.count(SUMMARY["command"]) == 1 and "The weights: mit." in text
    (tmp_path / "policy" / "README.md").unlink()
    policy.save_pretrained(tmp_path / "policy", results=tmp_path / "out/pusht/1_step/summary.json")
    assert "| 4 |" not in (tmp_path / "policy" / "README.md").read_text()


def test_results_of_other_weights_or_none_are_refused(policy: Policy, tiny_policy: Policy, tmp_path: Path):
    file = tmp_path / "out/summary.json"
    put_summary(policy, file, 1)
    with torch.no_grad():
        next(policy.parameters()).add_(1)
    (tmp_path / "torn.json").write_text('{"score": 1')
    (tmp_path / "other.json").write_text('{"score": 1}')
    put_summary(policy, tmp_path / "steps.json", None)
    put_summary(policy, tmp_path / "interval.json", 1, score_ci=[0.5])
    put_summary(policy, tmp_path / "large.json", 10**400)
    (tmp_path / "deep.json").write_text("[" * 9999)
    for path, sentence in (
        (file, "holds 1 summaries of other weights"),
        (tmp_path / "steps.json", "holds no numbers where a summary"),
        (tmp_path / "interval.json", "holds no numbers where a summary"),
        (tmp_path / "large.json", "holds no numbers where a summary"),
        (tmp_path / "deep.json", "cannot be read"),
        (tmp_path / "none", "there is no summary.json at"),
        (tmp_path / "torn.json", "cannot be read"),
        (tmp_path / "other.json", "is no summary of scripts/rollout.py: it lacks settings, episodes"),
    ):
        with pytest.raises(InputError, match=sentence):
            policy.save_pretrained(tmp_path / "policy", results=path)
    assert not (tmp_path / "policy").exists()


def test_a_card_that_somebody_wrote_in_stays(policy: Policy, hub: Hub, tmp_path: Path):
    card = hub.folder("user/pusht", None) / "README.md"
    policy.push_to_hub("user/pusht", license="mit")
    assert yaml.safe_load(card.read_text().split("---\n")[1])["license"] == "mit"
    card.write_text("my own words")
    policy.push_to_hub("user/pusht")
    assert card.read_text() == "my own words"
    policy.push_to_hub("user/pusht", overwrite_card=True)
    assert card.read_text() != "my own words"
    folder = tmp_path / "folder"
    policy.save_pretrained(folder)
    (folder / "README.md").write_text("my own words")
    policy.save_pretrained(folder)
    assert (folder / "README.md").read_text() == "my own words"


def test_a_policy_that_knows_nothing_of_itself_has_a_card(policy: Policy, tmp_path: Path):
    policy.metadata = {}
    policy.save_pretrained(tmp_path / "bare", license="mit")
    text = (tmp_path / "bare" / "README.md").read_text()
    assert (
        "# Robot policy\n" in text
        and "Nothing is known" in text
        and f'from_pretrained("{tmp_path / "bare"}"' in text
    )
    assert torch.equal(acts(load_policy(tmp_path / "bare")), acts(policy))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (errors.RepositoryNotFoundError, "there is no such model, or you may not see it"),
        (errors.GatedRepoError, "its owner grants access on request"),
        (errors.RevisionNotFoundError, "no such revision"),
        (errors.LocalEntryNotFoundError, "the hub cannot be reached, and this machine has no copy"),
        (errors.OfflineModeIsEnabled, "the hub cannot be reached"),
        (OSError, r"\(disk full\); try again"),
        (errors.HFValidationError, "disk full"),
    ],
)
def test_a_hub_that_does_not_answer_gets_one_sentence(monkeypatch, error, sentence):
    def fail(*args, **options):
        raised = error.__new__(error)
        raised.args = ("disk full\nand more",)
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=f"^hf://user/pusht cannot be fetched.*{sentence}") as caught:
        load_policy("hf://user/pusht")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["hf://user", "hf://user/a/b", "hf://user/name@", "hf:user/name"])
def test_addresses_that_are_none(address: str):
    with pytest.raises(InputError, match=r"hf://user/name, or hf|there is no checkpoint"):
        load_policy(address)


def test_a_model_of_another_library_is_refused(hub: Hub):
    hub.folder("user/other", None).mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds no checkpoint of this library: policy.json, policy.saf"):
        load_policy("hf://user/other")


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            np.int64(3),
            r"backbone\.embedding_dim=np.int64\(3\) is a numpy.int64.* of Python, such as 3$",
        ),
        (np.arange(3), r"backbone\.embedding_dim=array\(\[0, 1, 2\]\) is a numpy.ndarray.* as a list"),
        (torch.nn.Linear(1, 1), r"embedding_dim=Linear\(.* is a torch.nn.* its specification"),
        (Path("a"), "give a string$"),
        ([1, {"a": {2}}], r"embedding_dim\[1\].a=\{2\} is a builtins.set"),
        ({1: 2}, "has the key 1, but keys of JSON are strings"),
        (float("nan"), "embedding_dim=nan is not finite"),
    ],
)
def test_what_json_cannot_hold_is_refused_before_anything_is_built(policy: Policy, value, sentence, tmp_path):
    spec = deepcopy(policy.spec)
    spec["backbone"]["embedding_dim"] = value
    with pytest.raises(InputError, match=sentence):
        Policy.from_spec(spec)
    policy.spec = spec
    with pytest.raises(InputError, match=sentence):
        policy.save_pretrained(tmp_path / "policy")
    policy.spec, policy.metadata["remark"] = {"horizon": 1}, value
    with pytest.raises(InputError, match=r"metadata\.remark"):
        policy.save_pretrained(tmp_path / "policy")
    assert not (tmp_path / "policy").exists()


def test_what_json_holds_comes_back_as_it_was():
    value = {"a": [1, 2.5, None, True, "x"], "b": {"c": (1, (2,))}}
    assert json.loads(json.dumps(plain_json(value))) == plain_json(value) == {**value, "b": {"c": [1, [2]]}}


def test_a_policy_that_observes_a_single_number_has_a_card(tmp_path: Path) -> None:
    fields = {"height": Field("height", shape=())}, Field("action", shape=(2,))
    policy = Policy.build(*fields, 8, n_action_steps=4, backbone="mlp")
    statistics = {"height": RunningStatistics(), "action": RunningStatistics()}
    statistics["height"].update(np.array([1.0, 3.0]))
    statistics["action"].update(np.array([[0.0, 1.0], [2.0, 5.0]]))
    policy.normalizer = Normalizer({**fields[0], "action": fields[1]}, statistics)
    policy.save_pretrained(tmp_path)
    assert "1 to 3" in (tmp_path / "README.md").read_text()
