"""The toy task, the sweeps of studies/configs/experiment, and what is made of their runs."""

import importlib
import json
import re
import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from shortcut_policy.backbones import Mlp
from shortcut_policy.commands import cli
from shortcut_policy.commands.train import read_training
from shortcut_policy.commands.train import run as train
from shortcut_policy.errors import InputError, Stopped
from shortcut_policy.paths import CONFIG_DIR
from shortcut_studies import CONFIGS, toy
from shortcut_studies.ablations import (
    Run,
    logged,
    make_caption,
    make_rows,
    read_sweep,
    settings_of,
)
from shortcut_studies.ablations import run as summarise
from shortcut_studies.pictures import on_the_left
from shortcut_studies.samples import draw_fans, draw_toy

pytestmark = pytest.mark.slow

ROOT = CONFIG_DIR.parent
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
#: What ``studies/train.py`` adds to ``scripts/train.py``.
STUDIES = f"hydra.searchpath=[file://{CONFIGS}]"
TRAIN = ("train.py", "--config-dir", str(CONFIGS), "-m")
TOY = ["task=two_modes", "backbone=mlp", "trainer=toy", "cpu=true"]
SHORT = [*TOY, "backbone.width=16", "trainer.max_steps=4", "trainer.log_every=2", "trainer.warmup_steps=1"]


def composed(name: str, *overrides: str) -> DictConfig:
    """A configuration, with Hydra's own part known to its resolvers as in a run."""
    folder, search = (CONFIG_DIR, [STUDIES]) if name == "train" else (CONFIGS, [])
    with initialize_config_dir(str(folder), version_base=None):
        config = compose(name, [*search, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


@pytest.fixture(scope="module")
def source() -> toy.Mixture:
    return toy.Mixture([[-0.75, 0.0], [0.75, 0.0]], 0.075)


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, and two shares of self-consistency rows, two seeds of each."""
    folder = tmp_path_factory.mktemp("sweeps")
    jobs = [("methods", f"objective={name}") for name in ("regression", "shortcut")]
    jobs += [("bootstrap_fraction", f"objective.bootstrap_every={k}") for k in (16, 2)]
    for (sweep, override), seed in product(jobs, (0, 1)):
        output = folder / sweep / f"{override.rpartition('=')[2]}_seed_{seed}"
        what = [override] if sweep == "methods" else ["objective=shortcut", override]
        with initialize_config_dir(str(CONFIG_DIR), version_base=None):
            train(compose("train", [STUDIES, *SHORT, *what, f"seed={seed}", f"output={output}"]))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_run_of_a_sweep_composes_and_has_a_folder_of_its_own(name: str):
    config = composed("train", f"experiment={name}")
    parse = OverridesParser.create(config_loader=Loader()).parse_overrides
    swept = parse([f"{key}={value}" for key, value in config.hydra.sweeper.params.items()])
    outputs = []
    for values in product(*(override.sweep_string_iterator() for override in swept)):
        overrides = [f"{o.key_or_group}={value}" for o, value in zip(swept, values, strict=True)]
        config = composed("train", f"experiment={name}", *overrides)
        assert config.resume
        instantiate(config.objective)
        read_training(OmegaConf.masked_copy(config, [key for key in config if key != "hydra"]))
        outputs.append(config.output)
    assert len(outputs) >= 2 and len(set(outputs)) == len(outputs)


class Loader:
    """What the parser asks for the names of a group, for ``glob(*)``."""

    def get_group_options(self, group: str, results_filter: object = None) -> list[str]:
        return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


@pytest.mark.slow
def test_sweep_given_again_passes_over_its_finished_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def sweep(*overrides: str) -> dict[str, int]:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(
            sys,
            "argv",
            [*TRAIN, "experiment=flow_times", *SHORT, *overrides],
        )
        cli.train()
        weights = tmp_path.glob("runs/ablations/two_modes/flow_times/*/checkpoints/*/policy.safetensors")
        return {path.parents[2].name: path.stat().st_mtime_ns for path in weights}

    first = sweep()
    assert set(first) == {"continuous_seed_0", "discrete_seed_0"}
    again = sweep("seed=0,1")
    assert len(again) == 4 and all(again[name] == time for name, time in first.items())


def test_jobs_that_fail_do_not_end_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    swept = ["trainer.learning_rate=1e30,-1,1e-3", "output=run_${trainer.learning_rate}"]
    monkeypatch.setattr(sys, "argv", [*TRAIN, *SHORT, *swept])
    with pytest.raises(SystemExit) as caught:
        cli.train()
    assert caught.value.code == 2
    assert [path.parent.name for path in tmp_path.glob("*/checkpoints")] == ["run_0.001"]
    said = capsys.readouterr().err
    assert re.search(r"error in .*trainer.learning_rate=1e\+30.*: update \d+: .* is not finite", said)
    assert re.search(r"error in .*trainer.learning_rate=-1.*: trainer.learning_rate=-1 must be", said)
    assert "error: 2 of the sweep's jobs failed" in said


def test_a_signal_ends_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def stopped(config: DictConfig) -> None:
        seen.append(config.seed)
        raise Stopped(130)

    seen: list[int] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shortcut_policy.commands.train.run", stopped)
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [*TRAIN, *SHORT, "seed=0,1"])
    with pytest.raises(SystemExit) as caught:
        cli.train()
    assert caught.value.code == 130 and seen == [0]


def test_slurm_launcher_takes_its_settings():
    pytest.importorskip("submitit")
    overrides = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu"]
    settings = dict(composed("train", "experiment=flow_times", *overrides).hydra.launcher)
    module, _, name = settings.pop("_target_").rpartition(".")
    launcher = getattr(importlib.import_module(module), name)(**settings)
    assert isinstance(launcher, Launcher) and launcher.params["partition"] == "gpu"


def test_rows_put_seeds_together_and_tell_what_differs(sweeps: Path):
    runs = read_sweep(sweeps / "bootstrap_fraction")
    rows = make_rows(runs)
    assert [row["setting"] for row in rows] == [{"objective.bootstrap_every": k} for k in (2, 16)]
    # One, and five for one row in k, itself and four smaller steps, in the last half of the training.
    assert [row["evaluations_per_row"] for row in rows] == pytest.approx([2.25, 1.15625])
    for row, name in zip(rows, ("2", "16"), strict=True):
        assert row["seeds"] == [0, 1]
        own = [one.values["distance"] for one in runs if one.folder.name.startswith(f"{name}_")]
        for steps, found in row["values"]["distance"].items():
            values = [value[steps] for value in own]
            assert found == {"mean": np.mean(values), "low": min(values), "high": max(values)}
    methods = make_rows(read_sweep(sweeps / "methods"))
    assert [row["setting"] for row in methods] == [{"method": "regression"}, {"method": "shortcut"}]
    assert list(methods[0]["values"]["distance"]) == [1]


def test_runs_with_results_in_their_log_need_no_weights(sweeps: Path, tmp_path: Path):
    run = tmp_path / "sweep" / "run"
    shutil.copytree(sweeps / "methods" / "shortcut_seed_0", run)
    for weights in run.glob("checkpoints/*/policy.safetensors"):
        weights.unlink()
    with (run / "log.jsonl").open("a") as log:
        print(json.dumps({"kind": "rollout", "step": 4, "score_1": 0.5, "success_1": 0.25}), file=log)
    (row,) = make_rows(read_sweep(tmp_path / "sweep"))
    assert row["values"]["score"][1]["mean"] == 0.5 and row["evaluations_per_row"] == pytest.approx(3.5)


def test_a_part_that_a_run_does_without_has_no_settings(tmp_path: Path):
    parts = [None, {"data_std": 0.5, "residual_std": 0.1}, {"data_std": 0.5, "residual_std": 0.5}]
    configs = [{"objective": {"_target_": "a.B"}, "precondition": part} for part in parts]
    settings = settings_of([Run(tmp_path, config, {}, {}) for config in configs])
    assert [list(setting.values()) for setting in settings] == [[None, None], [0.5, 0.1], [0.5, 0.5]]


def test_the_place_of_the_data_is_no_setting_and_their_name_is_one(tmp_path: Path):
    paths = ["/a/demos.zarr", "/b/demos.zarr", "/b/others.zarr"]
    configs = [{"objective": {"_target_": "a.B"}, "task": {"source": {"path": path}}} for path in paths]
    runs = [Run(tmp_path, config, {}, {}) for config in configs]
    assert settings_of(runs[:2]) == [{}, {}]
    assert settings_of(runs)[2] == {"task.source.path": "others.zarr"}


def test_methods_that_differ_in_something_else_are_not_put_together(tmp_path: Path):
    configs = [
        {"objective": {"_target_": name}, "name": name, "seed": seed, "trainer": {"learning_rate": rate}}
        for name, seed, rate in (("a.A", 0, 1), ("a.B", 0, 1), ("a.B", 1, 1), ("a.B", 0, 2))
    ]
    runs = [Run(tmp_path / str(number), config, {}, {}) for number, config in enumerate(configs)]
    assert len(settings_of(runs[:3])) == 3
    with pytest.raises(InputError, match=r"differs from other runs of .* in more than the seed"):
        settings_of(runs)


@pytest.mark.slow
def test_sweeps_that_are_published_stay_when_others_are_made(sweeps: Path, tmp_path: Path):
    """So that a machine needs the runs of a new sweep alone."""
    parts = {name: tmp_path / "parts" / name for name in ("methods", "bootstrap_fraction")}
    for name, folder in parts.items():
        shutil.copytree(sweeps / name, folder / name)
    whole, first, both = (tmp_path / name for name in ("whole", "first", "both"))
    for runs, published, output in (
        (sweeps, None, whole),
        (parts["methods"], None, first),
        (parts["bootstrap_fraction"], str(first), both),
    ):
        summarise(OmegaConf.create({"runs": str(runs), "published": published, "output": str(output)}))
    assert (both / "results.md").read_text() == (whole / "results.md").read_text()
    found, expected = (json.loads((folder / "results.json").read_text()) for folder in (both, whole))
    assert found["sweeps"] == expected["sweeps"] and len(found["runs"]) == len(expected["runs"])

    again = {"runs": str(parts["methods"]), "published": str(both), "output": str(both)}
    summarise(OmegaConf.create(again))
    assert (both / "results.md").read_text() == (whole / "results.md").read_text()
    for wrong, sentence in (("nowhere", "cannot be read"), ("other", "is of task other, and")):
        (tmp_path / "other").mkdir(exist_ok=True)
        text = (first / "results.json").read_text().replace('"name": "two_modes"', '"name": "other"')
        (tmp_path / "other" / "results.json").write_text(text)
        with pytest.raises(InputError, match=sentence):
            summarise(
                OmegaConf.create(
                    again | {"runs": str(parts["bootstrap_fraction"]), "published": str(tmp_path / wrong)}
                )
            )


def test_summary_is_written(sweeps: Path, tmp_path: Path):
    summarise(OmegaConf.create({"runs": str(sweeps), "published": None, "output": str(tmp_path)}))
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["sweeps"]) == {"bootstrap_fraction", "methods"}
    assert len(results["runs"]) == 8 and all(run["config"]["seed"] == run["seed"] for run in results["runs"])
    text = (tmp_path / "results.md").read_text()
    assert "| objective.bootstrap_every |" in text and "training seeds 0, 1" in text
    assert (tmp_path / "sweeps.png").stat().st_size > 10_000


def test_caption_says_what_was_measured(sweeps: Path):
    (first, *_) = read_sweep(sweeps / "methods")
    assert "perfect samples have" in make_caption([first])
    measured = {"score": {1: 0.9}, "success": {1: 0.5}, "action_error": {1: 3.0}}
    caption = make_caption([replace(first, values=measured)])
    assert "success: of the last update, 20 starts, so" in caption and "by up to 20 points" in caption
    assert "Action error: mean" in caption


def test_unfinished_runs_and_empty_folders_are_refused(sweeps: Path, tmp_path: Path):
    with pytest.raises(InputError, match="holds no sweeps"):
        summarise(OmegaConf.create({"runs": str(tmp_path), "output": str(tmp_path / "out")}))
    config = (sweeps / "methods" / "shortcut_seed_0" / "config.yaml").read_text()
    (tmp_path / "sweep" / "begun").mkdir(parents=True)
    (tmp_path / "sweep" / "begun" / "config.yaml").write_text(config)
    with pytest.raises(InputError, match="at update 0 of 4"):
        read_sweep(tmp_path / "sweep")


def test_log_gives_the_last_rollouts_and_validation(tmp_path: Path):
    records = [
        {"kind": "rollout", "step": 5, "score_1": 0.1, "success_1": 0.0},
        {"kind": "validation", "step": 10, "loss": 0.5, "action_error_1": 3.0, "action_error_16": 2.0},
        {"kind": "rollout", "step": 10, "score_1": 0.9, "success_1": 0.5},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    expected = {"score": {1: 0.9}, "success": {1: 0.5}, "action_error": {1: 3.0, 16: 2.0}}
    assert logged(tmp_path) == expected


def test_distance_is_the_mean_length_of_the_shadows_of_a_shift(source: toy.Mixture):
    rng = np.random.default_rng(0)
    points = source.draw(4000, rng)
    assert toy.distance_to_data(points, source) < 2 * toy.sampling_error(source) < 0.03
    # Seen from all directions, a shift of 1 is on average 2/pi long.
    assert toy.distance_to_data(points + np.array([0.0, 3.0]), source) == pytest.approx(
        3 * 2 / np.pi, rel=0.01
    )


def test_network_of_the_toy_uses_everything_it_is_given():
    net = Mlp(action_dim=2, horizon=3, cond_dim=4, width=16)
    inputs = [torch.randn(5, 3, 2), torch.rand(5), torch.rand(5), torch.randn(5, 4)]
    for value in inputs:
        value.requires_grad_()
    out = net(*inputs)
    assert out.shape == (5, 3, 2)
    out.sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in inputs)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_toy_picture_is_drawn(sweeps: Path, tmp_path: Path):
    output = tmp_path / "toy.png"
    settings = {"runs": str(sweeps / "methods"), "steps": [1, 3], "points": 50, "output": str(output)}
    draw_toy(OmegaConf.create(settings))
    assert output.stat().st_size > 5_000
    with pytest.raises(InputError, match="holds no runs"):
        draw_toy(OmegaConf.create({**settings, "runs": str(tmp_path)}))


def test_sides_of_an_axis():
    axis = np.array([[100.0, 100.0], [0.0, 50.0]])  # pointing down the picture: left is towards larger x
    chunks = np.array([[[110.0, 0.0], [130.0, 300.0]], [[90.0, 0.0], [105.0, 300.0]]])
    assert on_the_left(chunks, axis).tolist() == [True, False]


def test_fans_are_drawn_and_counted(tmp_path: Path):
    config = composed("fans", "steps=[1,3]", "chunks=8", f"output={tmp_path / 'fans.png'}")
    config.policies = {"shortcut": str(ROOT / "pretrained" / "pusht")}
    draw_fans(config)
    assert (tmp_path / "fans.png").stat().st_size > 10_000
    counts = json.loads((tmp_path / "fans.json").read_text())["left_of_the_axis"]["shortcut"]
    # Three steps are none that it can take: two are.
    assert set(counts) == {"1", "2"} and all(0 <= count <= 8 for count in counts.values())
