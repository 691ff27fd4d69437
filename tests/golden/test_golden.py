"""What earlier releases have written is read as it was then: every folder ``v<version>``, see `make`."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from shortcut_policy import load_policy
from shortcut_policy.benchmark.result_files import published_file, read_compute, read_published, read_rows
from shortcut_policy.checkpoint import load_model
from shortcut_policy.data.formats import open_demonstrations
from shortcut_policy.images.model import ImageModel
from shortcut_policy.model_card import read_results
from shortcut_policy.rollout.episode import read_episodes
from tests.golden.make import act, draw, stores

HERE = Path(__file__).resolve().parent
RELEASES = sorted(path for path in HERE.glob("v*") if path.is_dir())
POLICIES = [path for release in RELEASES for path in sorted(release.glob("policies/*"))]
#: Videos are decoded by another library, perhaps of another version.
LEVELS = 3


@cache
def expected(release: Path) -> dict[str, np.ndarray]:
    with np.load(release / "expected.npz") as stored:
        return dict(stored)


def name_of(path: Path) -> str:
    return path.relative_to(HERE).as_posix()


def assert_same_actions(found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(np.ptp(wanted)))


def test_there_are_releases():
    assert RELEASES
    assert sum(file.stat().st_size for file in RELEASES[-1].rglob("*") if file.is_file()) < 400_000


@pytest.mark.parametrize("folder", POLICIES, ids=name_of)
def test_a_policy_acts_as_it_did(folder: Path):
    policy = load_policy(folder)
    values = expected(folder.parents[1])
    steps = [int(key.rpartition("/")[2]) for key in values if key.startswith(f"policies/{folder.name}/")]
    assert steps
    for count in steps:
        assert_same_actions(act(policy, count), values[f"policies/{folder.name}/{count}"])


@pytest.mark.parametrize("release", RELEASES, ids=name_of)
def test_a_generator_of_images_draws_as_it_did(release: Path):
    model = load_model(release / "images")
    assert isinstance(model, ImageModel)
    assert_same_actions(draw(model), expected(release)["images"])


@pytest.mark.parametrize("release", RELEASES, ids=name_of)
def test_an_export_acts_as_it_did(release: Path):
    pytest.importorskip("onnxruntime")
    assert_same_actions(act(load_policy(release / "export"), 1), expected(release)["export"])


@pytest.mark.parametrize(
    "path", [path for release in RELEASES for path in stores(release / "stores")], ids=name_of
)
def test_a_store_holds_what_it_held(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("h5py")
    pytest.importorskip("pyarrow")
    monkeypatch.setenv("SHORTCUT_POLICY_CACHE", str(tmp_path))
    release = path.parents[1]
    values = expected(release)
    shapes = json.loads((release / "expected.json").read_text("utf-8"))["stores"][path.name]
    source = open_demonstrations(path)
    assert {key: list(source.shapes[key]) for key in source.keys} == shapes
    np.testing.assert_array_equal(source.episode_ends, values[f"stores/{path.name}/ends"])
    for key in source.keys:
        found = source.read(key, 0, int(source.episode_ends[-1]))
        wanted = values[f"stores/{path.name}/{key}"]
        assert found.dtype == wanted.dtype
        in_video = path.suffix == ".lerobot" and found.ndim == 4
        off = np.abs(found.astype(np.float64) - wanted).max()
        assert off <= (LEVELS if in_video else 0), key


@pytest.mark.parametrize("release", RELEASES, ids=name_of)
def test_results_are_read(release: Path):
    folder = release / "results"
    assert all(row["name"] for row in read_rows(folder)) and read_compute(folder)
    (run,) = read_published(published_file(folder, "regression"))
    assert run.cells and all(len(cell.scores) for cell in run.cells.values())
    (summary,) = read_results(folder / "rollout_summary.json")
    episodes = read_episodes(folder / "rollout_episodes.jsonl")
    assert len(episodes) == summary["settings"]["episodes"] == 2
