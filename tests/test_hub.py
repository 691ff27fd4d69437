"""Policies shared by the hub's own client with a server on this machine that answers as the hub does."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from shortcut_policy import Policy, load_policy
from shortcut_policy.errors import InputError
from shortcut_policy.hub import download_dataset
from tests.hub_server import TOKEN, Hub, Repository
from tests.test_policy import observe

FILES = {"policy.safetensors", "policy.json", "README.md"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub without models, and a client that has no other hub, no cache and no login."""
    with Hub().serving() as hub:
        point_to(hub.address, tmp_path / "cache", monkeypatch)
        yield hub


def point_to(address: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT and the like do before the client is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def acts(policy: Policy) -> torch.Tensor:
    return policy.act(observe(), 2, torch.Generator().manual_seed(0))


def changed(policy: Policy, **metadata: object) -> Policy:
    policy = deepcopy(policy)
    policy.metadata |= metadata
    return policy


def test_what_is_pushed_comes_back(tiny_policy: Policy, hub: Hub):
    address = tiny_policy.push_to_hub("user/pusht", message="First", license="mit", token=TOKEN)
    assert address == "hf://user/pusht" and hub.messages == ["First"]
    assert set(hub.models["user/pusht"].branches["main"][1]) == FILES
    loaded = load_policy(address)
    assert torch.equal(acts(loaded), acts(tiny_policy))
    assert (loaded.spec, loaded.metadata) == (tiny_policy.spec, tiny_policy.metadata)
    # A second policy in its place.
    changed(tiny_policy, method="second").push_to_hub("user/pusht", token=TOKEN)
    assert load_policy(address).metadata["method"] == "second"


def test_branches_and_commits_are_apart(tiny_policy: Policy, hub: Hub):
    tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    (first, _), address = hub.models["user/pusht"].branches["main"], "hf://user/pusht"
    branch = changed(tiny_policy, method="branch").push_to_hub("user/pusht", revision="v2", token=TOKEN)
    changed(tiny_policy, method="newer").push_to_hub("user/pusht", token=TOKEN)
    found = [load_policy(a).metadata["method"] for a in (address, branch, f"{address}@{first}")]
    assert found == ["newer", "branch", "shortcut"]
    with pytest.raises(InputError, match=r"^hf://user/pusht@v3 cannot be fetched: .* no such revision"):
        load_policy(f"{address}@v3")


def test_a_branch_may_stand_in_the_name(tiny_policy: Policy, hub: Hub):
    assert tiny_policy.push_to_hub("hf://user/pusht@two", token=TOKEN) == "hf://user/pusht@two"
    assert set(hub.models["user/pusht"].branches["two"][1]) >= FILES
    assert not set(hub.models["user/pusht"].branches["main"][1]) >= FILES
    with pytest.raises(InputError, match="user/pusht@two and revision=three name two branches"):
        tiny_policy.push_to_hub("user/pusht@two", revision="three", token=TOKEN)
    with pytest.raises(InputError, match="must be hf://user/name"):
        tiny_policy.push_to_hub(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            r"No space left on device\): make room for the ca",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "/cache"), "or have HF_HOME name another place"),
        (RuntimeError("Data processing error: CAS"), r"\(Data processing error: CAS\); try again, or log in"),
    ],
)
def test_what_else_ends_a_download_is_one_sentence(monkeypatch: pytest.MonkeyPatch, error, sentence):
    def fail(*arguments: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(InputError, match=rf"hf://user/pusht cannot be fetched .*{sentence}"):
        load_policy("hf://user/pusht")


def test_a_card_of_another_hand_stays(tiny_policy: Policy, hub: Hub):
    tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    model = hub.models["user/pusht"]
    assert "# shortcut policy for pusht" in model.branches["main"][1]["README.md"].decode()
    model.commit("main", {"README.md": b"my own words"}, "words")
    changed(tiny_policy, method="second").push_to_hub("user/pusht", token=TOKEN)
    assert model.branches["main"][1]["README.md"] == b"my own words"


def test_a_private_model_is_for_those_who_may_see_it(
    tiny_policy: Policy, hub: Hub, monkeypatch: pytest.MonkeyPatch
):
    tiny_policy.push_to_hub("user/secret", private=True, token=TOKEN)
    assert hub.models["user/secret"].private
    with pytest.raises(InputError, match=r"^hf://user/secret cannot be fetched: there is no such model, or"):
        load_policy("hf://user/secret")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert torch.equal(acts(load_policy("hf://user/secret")), acts(tiny_policy))


@pytest.mark.parametrize(
    ("repo", "token", "sentence"),
    [
        ("user/pusht", None, "hf auth login"),
        ("user/pusht", "hf_wrong", "hf auth login"),
        ("other/pusht", TOKEN, "403 Forbidden|You don't have the rights"),
    ],
)
def test_who_may_not_write_is_told_so_in_one_sentence(tiny_policy: Policy, hub: Hub, repo, token, sentence):
    with pytest.raises(InputError, match=f"^hf://{repo} cannot be written.*({sentence})") as caught:
        tiny_policy.push_to_hub(repo, token=token)
    assert "\n" not in str(caught.value) and not hub.models


def test_a_model_that_is_not_there_or_of_another_library(hub: Hub):
    with pytest.raises(InputError, match=r"^hf://user/none cannot be fetched: there is no such model"):
        load_policy("hf://user/none")
    hub.models["user/other"] = Repository(private=False)
    hub.models["user/other"].commit("main", {"config.json": b"{}", "policy.json": b"{}"}, "a model")
    with pytest.raises(InputError, match=r"holds no checkpoint of this library: policy.safetensors is not"):
        load_policy("hf://user/other")


def test_what_was_fetched_serves_without_a_hub(
    tiny_policy: Policy, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    load_policy("hf://user/pusht")
    with Hub().serving() as gone:
        pass
    point_to(gone.address, tmp_path / "cache", monkeypatch)
    assert torch.equal(acts(load_policy("hf://user/pusht")), acts(tiny_policy))
    with pytest.raises(InputError, match="the hub cannot be reached, and this machine has no copy"):
        load_policy("hf://user/another")
    with pytest.raises(InputError, match=r"^hf://user/pusht cannot be written") as caught:
        tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(acts(load_policy("hf://user/pusht")), acts(tiny_policy))
    with pytest.raises(InputError, match=r"^hf://user/pusht cannot be written: the hub cannot be reached"):
        tiny_policy.push_to_hub("user/pusht", token=TOKEN)


def test_a_cache_that_has_lost_a_file_says_what_to_remove(tiny_policy, hub: Hub, tmp_path: Path, monkeypatch):
    """Its entries are links, which stay where a folder of large files was removed or was not copied along."""
    tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    load_policy("hf://user/pusht")
    entry = tmp_path / "cache/models--user--pusht"
    (link,) = entry.glob("snapshots/*/policy.safetensors")
    link.resolve().unlink()
    with monkeypatch.context() as patch:
        # As versions do, without a network, that do not look at the files of a copy.
        patch.setattr(huggingface_hub, "snapshot_download", lambda *given, **settings: str(link.parent))
        with pytest.raises(InputError, match=rf"{link} leads to nothing: remove {entry}, and give"):
            load_policy("hf://user/pusht")
        with pytest.raises(InputError, match=rf"{link} leads to nothing: remove {entry}, and give"):
            download_dataset("hf://user/pusht")
    shutil.rmtree(entry)
    assert torch.equal(acts(load_policy("hf://user/pusht")), acts(tiny_policy))


def test_only_the_two_files_of_a_checkpoint_are_fetched(tiny_policy: Policy, hub: Hub):
    tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    hub.models["user/pusht"].commit("main", {"evil.py": b"raise SystemExit"}, "more")
    hub.requests.clear()
    load_policy("hf://user/pusht")
    fetched = {request.rpartition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert fetched == {"policy.safetensors", "policy.json"}


def test_a_model_that_names_code_is_refused_before_any_of_it_runs(
    tiny_policy: Policy, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "hub_foreign.py").write_text(
        "from shortcut_policy.encoders import LowDimEncoder\nclass Own(LowDimEncoder): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    model = hub.models["user/pusht"]
    described = json.loads(model.branches["main"][1]["policy.json"])
    described["policy"]["encoder"]["_target_"] = "hub_foreign.Own"
    model.commit("main", {"policy.json": json.dumps(described).encode()}, "foreign")
    with pytest.raises(InputError, match=r"trust=\[hub_foreign\]"):
        load_policy("hf://user/pusht")
    assert "hub_foreign" not in sys.modules
    loaded = load_policy("hf://user/pusht", trust=["hub_foreign"])
    assert type(loaded.encoder).__name__ == "Own"


@pytest.mark.slow
def test_the_environment_names_the_hub(tiny_policy: Policy, hub: Hub, tmp_path: Path):
    tiny_policy.push_to_hub("user/pusht", token=TOKEN)
    code = "from shortcut_policy import load_policy; print(load_policy('hf://user/pusht').metadata['method'])"
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home")}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    for offline in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "HF_HUB_OFFLINE": offline},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "shortcut"
