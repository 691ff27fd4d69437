"""Exports: what is written, what is loaded again, and what is refused."""

import copy
import errno
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shortcut_policy import load_policy
from shortcut_policy.commands import cli
from shortcut_policy.errors import InputError
from shortcut_policy.fingerprint import fingerprint
from shortcut_policy.locks import writer_lock
from shortcut_policy.policy import Policy, save_policy
from shortcut_policy.rollout.chunk_joins import Joining
from shortcut_policy.rollout.delays import Execution
from shortcut_policy.rollout.evaluate import environment_spec
from shortcut_policy.rollout.policy_planner import executor_of
from shortcut_policy.runtimes import export, parity
from shortcut_policy.runtimes.export import Runtime, write_export
from shortcut_policy.runtimes.graph import example_inputs
from shortcut_policy.serving.metadata import server_metadata
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.trainer import Trainer

from .test_graph import small_policy


@pytest.fixture(scope="module")
def policy() -> Policy:
    return small_policy(backbone="mlp")


@pytest.fixture(scope="module")
def exported(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "onnx"
    write_export(policy, folder, rate_hz=10.0)
    return folder


def actions(policy: Policy, rows: int = 3, **options: object) -> torch.Tensor:
    obs, _ = example_inputs(small_policy(backbone="mlp"), rows, seed=5)
    generators = [torch.Generator().manual_seed(row) for row in range(rows)]
    return policy.act(obs, generator=generators, **options)  # type: ignore[arg-type]


def test_a_loaded_export_acts_like_the_policy(policy: Policy, exported: Path) -> None:
    loaded = load_policy(exported)
    for rows in (1, 3, 7):
        torch.testing.assert_close(actions(loaded, rows), actions(policy, rows), rtol=1e-4, atol=1e-2)
    assert not any(p.device.type == "cpu" for p in loaded.parameters())
    assert loaded.normalizer.fitted
    assert loaded.device.type == "cpu"


def test_step_by_step_it_gives_the_same_actions(policy: Policy, exported: Path) -> None:
    loaded = load_policy(exported)
    for one in (policy, loaded):
        one.reset(seed=3)
    for step in range(10):
        obs = {"state": np.full(3, 10.0 * step)}
        assert np.allclose(policy.select_action(obs), loaded.select_action(obs), rtol=1e-4, atol=1e-2)


def test_the_manifest_says_what_a_stranger_has_to_know(policy: Policy, exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    assert [part["name"] for part in manifest["inputs"]] == ["state", "noise"]
    assert manifest["inputs"][0]["shape"] == ["batch", 2, 3]
    assert manifest["outputs"][0]["shape"] == ["batch", policy.n_action_steps, 2]
    assert (manifest["steps"], manifest["rate_hz"], manifest["precision"]) == (1, 10.0, "fp32")
    assert set(manifest["parity"]["batches"]) == {"1", "3", "50"}
    assert all(batch["of_half_range"] <= 1e-4 for batch in manifest["parity"]["batches"].values())
    assert "onnxruntime" in manifest["versions"]
    assert not list(exported.parent.glob(".*"))


@pytest.mark.slow
def test_the_example_runs_without_the_library(exported: Path) -> None:
    code = (exported / "example.py").read_text()
    assert "shortcut_policy" not in code and "torch" not in code
    found = subprocess.run(
        [sys.executable, "example.py"], cwd=exported, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert "[" in found.stdout


def test_other_steps_than_the_exported_ones_are_refused(exported: Path) -> None:
    policy = load_policy(exported)
    with pytest.raises(InputError, match=r"takes steps=1 .*: give those, or export the policy again"):
        actions(policy, steps=4)
    assert server_metadata(policy, 1, 128, None, {})["steps_allowed"] == [1]


def test_an_export_can_be_copied_and_says_that_it_cannot_be_pickled(exported: Path) -> None:
    fast = load_policy(exported)
    for copied in (copy.deepcopy(fast), copy.copy(fast)):
        assert torch.equal(actions(copied), actions(fast))
    with pytest.raises(InputError, match=r"its graph cannot be pickled: pickle the policy that it was made"):
        pickle.dumps(fast)


@pytest.mark.slow
def test_compiled_in_memory(policy: Policy) -> None:
    fast = policy.compile("openvino", steps=2)
    torch.testing.assert_close(actions(fast, steps=2), actions(policy, steps=2), rtol=1e-4, atol=1e-2)
    assert policy.runtime is None


def test_recorded_observations_may_come_in_any_type_and_are_checked(policy: Policy, tmp_path: Path) -> None:
    obs, _ = example_inputs(policy, 3, seed=5)
    given = {name: value.double().numpy() for name, value in obs.items()}
    write_export(policy, tmp_path / "out", observations=given)
    for wrong, sentence in (({}, "state is missing among"), ({"state": np.zeros(3)}, "has shape")):
        with pytest.raises(InputError, match=sentence):
            write_export(policy, tmp_path / "other", observations=wrong)
    assert not (tmp_path / "other").exists()


def test_a_deadline_chooses_no_steps_of_an_export(exported: Path) -> None:
    with pytest.raises(InputError, match=r"deadline_ms=50 chooses a number of steps, and this export takes "):
        actions(load_policy(exported), deadline_ms=50)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_another_precision(policy: Policy, tmp_path: Path, precision: str) -> None:
    manifest = write_export(policy, tmp_path / precision, format="openvino", precision=precision)
    assert manifest["precision"] == precision
    with pytest.raises(InputError, match="precision of onnx"):
        write_export(policy, tmp_path / "x", precision=precision)


@pytest.mark.slow
def test_int8_is_another_policy_in_a_smaller_file(tmp_path: Path) -> None:
    policy = small_policy(backbone="unet_small")
    write_export(policy, tmp_path / "int8", format="openvino", precision="int8", tolerance=0.1)
    # In fp32 a file holds the weights, four bytes each, and little else.
    whole = 4 * sum(p.numel() for p in policy.parameters())
    assert (tmp_path / "int8" / "policy.bin").stat().st_size < 0.5 * whole
    # An export in fp32 is within 1e-2 of it, see above; half of the range is 256.
    difference = (actions(load_policy(tmp_path / "int8")) - actions(policy)).abs().max()
    assert 0.02 < difference < 25.6


@pytest.mark.slow
def test_torch_export_is_loaded_only_when_it_is_trusted(policy: Policy, tmp_path: Path) -> None:
    write_export(policy, tmp_path / "pt2", format="torch_export")
    with pytest.raises(InputError, match=r"run code.*trust=\[native\]"):
        load_policy(tmp_path / "pt2")
    loaded = load_policy(tmp_path / "pt2", trust=["native"])
    torch.testing.assert_close(actions(loaded), actions(policy), rtol=1e-4, atol=1e-2)


@pytest.mark.slow
def test_an_export_that_misses_parity_leaves_nothing(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = export._load_graph

    def wrong(*arguments: object) -> object:
        call = load(*arguments)  # type: ignore[arg-type]
        return lambda obs, noise: tuple(x + 1 for x in call(obs, noise))

    monkeypatch.setattr(export, "_load_graph", wrong)
    with pytest.raises(InputError, match="half their range"):
        write_export(policy, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "torch_export"])
def test_no_file_names_a_folder_of_this_machine(policy: Policy, tmp_path: Path, format: str) -> None:
    write_export(policy, tmp_path / "out", format=format)
    package = str(Path(export.__file__).parents[1]).encode()
    for file in (tmp_path / "out").iterdir():
        assert package not in file.read_bytes() and sys.prefix.encode() not in file.read_bytes(), file


def test_actions_that_are_no_numbers_miss_parity(policy: Policy) -> None:
    graph = export.ActGraph(policy, 1)
    with pytest.raises(InputError, match="half their range"):
        parity.check_parity(
            policy, graph, lambda obs, noise: tuple(x * torch.nan for x in graph(obs, noise)), None, 1.0
        )


@pytest.mark.slow
def test_a_rollout_of_an_export_tells_it_from_another(policy: Policy, exported: Path) -> None:
    weights = {fingerprint(one)["weights"] for one in (policy, load_policy(exported))}
    fast = {fingerprint(policy.compile("openvino", precision=p))["weights"] for p in ("fp32", "bf16")}
    assert len(weights | fast) == 4


@pytest.mark.slow
def test_pictures_may_come_in_any_type() -> None:
    policy = small_policy(images=True)
    fast = policy.compile("onnx")
    obs, _ = example_inputs(policy, 2, seed=3)
    for image in (obs["image"], obs["image"].float(), obs["image"].long()):
        found, wanted = (
            one.act(obs | {"image": image}, generator=torch.Generator().manual_seed(0))
            for one in (fast, policy)
        )
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-2)


@pytest.mark.slow
def test_a_policy_with_a_prefix_is_exported_without_one() -> None:
    policy = small_policy(backbone="mlp", prefix_steps=2)
    fast = policy.compile("onnx")
    torch.testing.assert_close(actions(fast), actions(policy), rtol=1e-4, atol=1e-2)
    with pytest.raises(InputError, match="exports take no prefix"):
        actions(fast, prefix=torch.zeros(3, 1, 2))


def test_an_export_has_no_weights_to_save_export_or_train(exported: Path, tmp_path: Path) -> None:
    fast = load_policy(exported)
    for to_be, ask in (
        ("saved", lambda: fast.save_pretrained(tmp_path / "saved")),
        ("exported", lambda: fast.compile("onnx")),
        ("trained", lambda: Trainer(fast, None, TrainerConfig(max_steps=1), tmp_path / "run")),
    ):
        with pytest.raises(InputError, match=rf"no weights that could be {to_be}: take the checkpoint"):
            ask()
    with pytest.raises(InputError, match=r"onnx is an export, which acts and has no weights: give the"):
        Policy.from_pretrained(exported)
    assert not list(tmp_path.iterdir())


def test_chunks_of_an_export_are_not_joined_by_a_prefix() -> None:
    """Told before the robot moves: the first chunk has none."""
    policy = small_policy(backbone="mlp", prefix_steps=2)
    Execution(Joining("prefix"), delay=2).check(policy)
    assert executor_of(policy, 10, joining=Joining("prefix")) is not None
    policy.runtime = Runtime("onnx", "fp32", 1, None, "", lambda obs, noise: (noise, noise))
    with pytest.raises(InputError, match=r"executor=prefix: exports take no prefix; play the checkpoint"):
        Execution(Joining("prefix"), delay=2).check(policy)
    with pytest.raises(InputError, match=r"a policy that takes a prefix, and exports take none: join"):
        executor_of(policy, 10, joining=Joining("prefix"))
    with pytest.raises(InputError, match=r"and this one was trained with prefix_steps=0: join otherwise"):
        executor_of(small_policy(backbone="mlp"), 10, joining=Joining("prefix"))


def test_what_is_exported_stays_in_training(tmp_path: Path) -> None:
    policy = small_policy(backbone="mlp").train()
    write_export(policy, tmp_path / "out")
    assert policy.training and policy.backbone.training


def test_a_runtime_that_cannot_be_kept_is_no_format(policy: Policy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'inductor' is no runtime: choose onnx"):
        write_export(policy, tmp_path / "out", format="inductor")


def test_a_folder_with_something_else_is_left_alone(policy: Policy, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        write_export(policy, tmp_path)


def test_a_full_disk_names_the_export_and_leaves_nothing(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "_make", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*graph'"):
        write_export(policy, tmp_path / "graph")
    assert not list(tmp_path.iterdir())


def test_two_exports_to_one_folder_do_not_meet_and_the_killed_leave_nothing(
    policy: Policy, tmp_path: Path
) -> None:
    # One was killed in its work, and the one after it while it removed what the first had left.
    for left in (".out.tmp", ".out.tmp.deleted"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "policy.onnx").touch()
    with writer_lock(tmp_path / "out"), pytest.raises(InputError, match="another program is writing to"):
        write_export(policy, tmp_path / "out")
    assert (tmp_path / ".out.tmp" / "policy.onnx").exists()
    write_export(policy, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_a_damaged_export_is_one_sentence(exported: Path, policy: Policy, tmp_path: Path) -> None:
    write_export(policy, tmp_path / "a")
    (tmp_path / "a" / "policy.onnx").write_bytes(b"\x08" * 100)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_policy(tmp_path / "a")
    (tmp_path / "a" / "manifest.json").write_text('{"format_version": 1}')
    with pytest.raises(InputError, match="cannot be read"):
        load_policy(tmp_path / "a")


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("manifest", {"precision": None}, r"precision in .*manifest\.json=None must be fp32"),
        ("manifest", {"steps": 0}, r"steps in .*manifest\.json=0 must be a whole number from 1 on"),
        ("manifest", {"guidance": "much"}, r"guidance in .*manifest\.json=much must be a finite number"),
        ("manifest", {"versions": ...}, r"manifest\.json lacks versions: export it again"),
        (
            "policy",
            {"horizon": 20},
            r"the graph in .* does not fit the policy that is described beside it \(",
        ),
        (
            "policy",
            {"action": {"_target_": "shortcut_policy.data.Field", "key": "action", "shape": [3]}},
            r"export: the statistics do not fit the policy \(.*; export it again",
        ),
        (
            "policy",
            {"backbone": {"_target_": "shortcut_policy.backbones.Mlp", "embedding_dim": 10**30}},
            "built",
        ),
    ],
)
def test_an_export_whose_parts_do_not_fit_is_one_sentence(
    exported: Path, tmp_path: Path, file: str, change: dict[str, object], sentence: str
) -> None:
    folder = shutil.copytree(exported, tmp_path / "export")
    document = json.loads((folder / f"{file}.json").read_text())
    (document["policy"] if file == "policy" else document).update(change)
    document = {key: value for key, value in document.items() if value is not ...}
    (folder / f"{file}.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=sentence) as caught:
        load_policy(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_policy_that_names_no_task_needs_demonstrations(
    tiny_policy: Policy, give: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Built in Python, it has no environment, and exports well."""
    tiny_policy.metadata = {}
    save_policy(tiny_policy, tmp_path / "saved")
    with pytest.raises(SystemExit):
        give(cli.export, f"checkpoint={tmp_path / 'saved'}", f"output={tmp_path / 'out'}")  # type: ignore[operator]
    assert "to check the export on: give store=<demonstrations>" in capsys.readouterr().err
    env = {"_target_": "gymnasium.make", "id": "nowhere"}
    assert environment_spec(tiny_policy, env) == env


@pytest.mark.slow
def test_the_command_checks_on_the_task_s_own_observations(
    tiny_policy: Policy, give: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_policy.metadata["task"] = {
        "name": "pusht",
        "env": {"_target_": "gymnasium.make", "id": "shortcut_envs:shortcut_policy/PushTKeypoints-v0"},
    }
    save_policy(tiny_policy, tmp_path / "checkpoint")
    give(cli.export, f"checkpoint={tmp_path / 'checkpoint'}", f"output={tmp_path / 'out'}")  # type: ignore[operator]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert "task's environment" in manifest["parity"]["observations"]
    assert "differ from its own" in " ".join(capsys.readouterr().out.split())
