"""Short trainings from files as other programs leave them, and the sentence where that cannot be."""

import json
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from shortcut_policy.commands import cli
from tests.conftest import TINY

FEW = (
    "trainer.max_steps=3",
    "trainer.warmup_steps=1",
    "trainer.checkpoint_every=3",
    "trainer.validate_every=3",
)
ENV_ARGS = {"env_name": "Lift", "env_version": "1.4.1", "type": 1, "env_kwargs": {}}


def write_file(
    path: Path, names: tuple[str, ...] = ("demo_0", "demo_1", "demo_2"), scale: float = 1.0, **packing: Any
) -> Path:
    """A robomimic file without masks."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.create_group("data").attrs["env_args"] = json.dumps(ENV_ARGS)
        for number, name in enumerate(names):
            demo, length = file["data"].create_group(name), 20 + number
            demo.attrs["num_samples"] = length
            demo.create_dataset("actions", data=scale * random.uniform(-1, 1, (length, 7)), **packing)
            demo.create_dataset("obs/hand", data=random.normal(size=(length, 3)), **packing)
    return path


def train(give: Any, folder: Path, source: str, path: Path, keys: tuple[str, str], *more: str) -> Path:
    """Train for three updates from one observation and the actions."""
    (obs, obs_size), (action, action_size) = (key.split(":") for key in keys)
    field = "{_target_: shortcut_policy.data.Field, normalize: limits, "
    task = folder / "my_configs" / "task" / "others.yaml"
    task.parent.mkdir(parents=True)
    task.write_text(
        f"name: others\nsource: {{_target_: shortcut_policy.data.{source}, path: {path}}}\n"
        f"obs:\n  seen: {field}key: {obs}, shape: [{obs_size}]}}\n"
        f"action: {field}key: {action}, shape: [{action_size}]}}\n"
        "horizon: 8\nn_obs_steps: 2\nn_action_steps: 4\nenv: null\n"
    )
    run = folder / "run"
    config = ["--config-dir", str(folder / "my_configs"), "task=others", f"output={run}"]
    give(cli.train, *config, *TINY, *FEW, *more)
    assert list(run.rglob("*.safetensors")), "a policy was saved"
    return run


HAND = "hand:3", "actions:7"


def longer_states(file: h5py.File) -> None:
    for demo in file["data"].values():
        demo["states"] = np.zeros((len(demo["actions"]) + 50, 20))


def text_in_bytes(file: h5py.File) -> None:
    file["data"].attrs["env_args"] = np.bytes_(json.dumps(ENV_ARGS))


def more_of_all(file: h5py.File) -> None:
    for demo in file["data"].values():
        length = len(demo["actions"])
        demo["next_obs/hand"], demo["rewards"], demo["dones"] = (
            np.zeros((length, 3)),
            np.zeros(length),
            np.ones(length, int),
        )


@pytest.mark.parametrize(
    ("names", "change"),
    [
        (("demo_3", "demo_10", "demo_2"), None),
        (("demo_0", "demo_1"), longer_states),
        (("demo_0", "demo_1"), text_in_bytes),
        (("demo_7", "demo_100"), more_of_all),
    ],
    ids=["gaps", "longer states", "text in bytes", "next observations"],
)
def test_robomimic_files_without_masks(give, tmp_path, names, change) -> None:
    path = write_file(tmp_path / "a.hdf5", names)
    if change is not None:
        with h5py.File(path, "a") as file:
            change(file)
    train(give, tmp_path, "RobomimicSource", path, HAND)


@pytest.mark.parametrize("compression", ["gzip", "lzf", "blosc", "zstd"])
def test_compressed_robomimic_files(give, tmp_path, compression) -> None:
    packing: dict[str, Any] = {"compression": compression}
    if compression in ("blosc", "zstd"):
        plugin = pytest.importorskip("hdf5plugin", reason="the filter is of hdf5plugin, not installed")
        packing = plugin.Blosc(cname="zstd") if compression == "blosc" else plugin.Zstd()
    path = write_file(tmp_path / "a.hdf5", **packing)
    train(give, tmp_path, "RobomimicSource", path, HAND)


def remove_samples(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["data/demo_1"].attrs["num_samples"]


def only_simulated(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["data"].attrs["env_args"]
        for demo in file["data"].values():
            del demo["obs"]


@pytest.mark.parametrize(
    ("change", "more", "sentence"),
    [
        (remove_samples, [], "demo_1 of {path} has no attribute num_samples, the number of its steps"),
        (only_simulated, [], "is a recording of robosuite without observations: convert it with robomimic's"),
        (None, ["+task.source.filter_key=20_percent"], "{path} has no filter key '20_percent'; it has none"),
        (
            lambda path: path.write_text(
                "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
            ),
            [],
            "git lfs pull",
        ),
        (lambda path: write_file(path, scale=1.79), [], "1.79"),
    ],
    ids=["no num_samples", "raw", "filter key", "pointer", "beyond"],
)
def test_robomimic_files_that_cannot_be_learned_from(give, tmp_path, capsys, change, more, sentence) -> None:
    path = write_file(tmp_path / "a.hdf5")
    if change is not None:
        change(path)
    with pytest.raises(SystemExit):
        train(give, tmp_path, "RobomimicSource", path, HAND, *more)
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and sentence.format(path=path) in last


def write_store(store: Any) -> None:
    random = np.random.default_rng(0)
    group = zarr.open_group(store, mode="w", zarr_format=2)
    for key, size in (("data/state", 3), ("data/action", 2)):
        group.create_array(key, data=random.normal(size=(60, size)).astype(np.float32))
    group.create_array("meta/episode_ends", data=np.array([20, 40, 60]))


def test_a_store_as_diffusion_policy_publishes_it(give, tmp_path) -> None:
    """Images of floats beside the numbers, blosc, and an attribute that nobody reads."""
    write_store(tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr")
    image = np.random.default_rng(0).uniform(0, 255, (60, 8, 8, 3)).astype(np.float32)
    group.create_array("data/img", data=image, chunks=(20, 8, 8, 3))
    train(give, tmp_path, "ZarrSource", tmp_path / "a.zarr", ("state:3", "action:2"))


@pytest.mark.parametrize("installed", [True, False])
def test_numbers_beside_images_of_jpeg_xl_in_a_zip(give, tmp_path, monkeypatch, installed) -> None:
    """As UMI publishes them. Written with imagecodecs, read without it where the images are not asked for."""
    codecs = pytest.importorskip("imagecodecs.numcodecs", reason="imagecodecs is not installed")
    import numcodecs

    numcodecs.register_codec(codecs.Jpegxl)
    path = tmp_path / "dataset.zarr.zip"
    store = zarr.storage.ZipStore(path, mode="w")
    write_store(store)
    array = zarr.open_group(store, mode="a").create_array(
        "data/camera0_rgb",
        shape=(60, 32, 32, 3),
        chunks=(1, 32, 32, 3),
        dtype="u1",
        compressors=codecs.Jpegxl(level=99, numthreads=1),
    )
    array[:] = np.random.default_rng(0).integers(0, 255, (60, 32, 32, 3)).astype("u1")
    store.close()
    if not installed:
        monkeypatch.setitem(sys.modules, "imagecodecs", None)
        monkeypatch.setattr(
            "numcodecs.registry.codec_registry",
            {
                name: kind
                for name, kind in numcodecs.registry.codec_registry.items()
                if "imagecodecs" not in name
            },
        )
        monkeypatch.setattr("numcodecs.registry.entries", {})
    train(give, tmp_path, "ZarrSource", path, ("state:3", "action:2"))
