"""Images that a zarr store holds as JPEG XL, JPEG 2000, PNG or JPEG, as UMI publishes them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from shortcut_policy.data import DemonstrationDataset, Field, ZarrSource
from shortcut_policy.errors import InputError

SIZES = {"horizon": 4, "n_obs_steps": 2, "n_action_steps": 2}
LOSSLESS = ("imagecodecs_jpegxl", "imagecodecs_jpeg2k", "imagecodecs_png")


def images() -> np.ndarray:
    """Smooth ones, which JPEG does little harm to."""
    ramp = np.add.outer(np.arange(16), np.arange(16))[:, :, None] * 4 + np.arange(3) * 20
    return np.stack([ramp + step for step in range(12)]).astype(np.uint8)


def store(path: Path, codec: str | None = None) -> Path:
    """Of format 2, a frame a chunk."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("data/action", data=np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32))
    compressor = None
    if codec is not None:
        numcodecs = pytest.importorskip("numcodecs")
        pytest.importorskip("imagecodecs")
        compressor = numcodecs.get_codec({"id": codec} | ({"lossless": True} if "xl" in codec else {}))
    chunks = {"chunks": (1, 16, 16, 3), "compressors": compressor}
    group.create_array("data/camera0_rgb", data=images(), config={"write_empty_chunks": True}, **chunks)
    group.create_array("meta/episode_ends", data=np.array([6, 12]))
    return path


def dataset(source: ZarrSource, **options: object) -> DemonstrationDataset:
    camera = {"camera": Field("camera0_rgb", (16, 16, 3), normalize="image")}
    return DemonstrationDataset(source, camera, Field("action", (2,)), **SIZES, **options)


@pytest.mark.parametrize("codec", [*LOSSLESS, "imagecodecs_jpeg"])
def test_published_codecs_are_read_from_folders_and_zips(tmp_path: Path, codec: str) -> None:
    path = store(tmp_path / "umi.zarr", codec)
    packed = shutil.make_archive(str(tmp_path / "umi.zarr"), "zip", path)
    for source in (ZarrSource(path), ZarrSource(packed)):
        assert not source.lacking
        difference = source.read("camera0_rgb", 0, 12).astype(int) - images()
        assert np.abs(difference).max() <= (0 if codec in LOSSLESS else 12)
    for limit in (1024, 0):
        found = dataset(source, memory_limit_mb=limit).batch(torch_rows())["obs"]["camera"]
        np.testing.assert_array_equal(found, source.read("camera0_rgb", 2, 4)[None])


def torch_rows():
    import torch

    return torch.tensor([[2, 0, 6]])


@pytest.mark.parametrize("codec", ["imagecodecs_jpegxl", "imagecodecs_jpeg2k", "imagecodecs_jpeg"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_a_frame_that_was_cut_short_is_named(tmp_path: Path, codec: str, part: float) -> None:
    path = store(tmp_path / "umi.zarr", codec)
    chunk = path / "data/camera0_rgb/3.0.0.0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match=r"chunk file .*data/camera0_rgb/3\.0\.0\.0 cannot be decoded"):
        dataset(ZarrSource(path))


@pytest.mark.parametrize("packed", [False, True])
def test_a_codec_that_is_not_there_is_said_by_who_needs_it_alone(tmp_path: Path, packed: bool) -> None:
    path = store(tmp_path / "umi.zarr")
    metadata = path / "data/camera0_rgb/.zarray"
    changed = json.loads(metadata.read_text()) | {"compressor": {"id": "imagecodecs_jpegxs2"}}
    metadata.write_text(json.dumps(changed))
    source = ZarrSource(shutil.make_archive(str(path), "zip", tmp_path, "umi.zarr") if packed else path)
    assert source.keys == ("action",)
    assert DemonstrationDataset(source, {"a": Field("action", (2,))}, Field("action", (2,)), **SIZES)
    wanted = (
        r"^key 'camera0_rgb' of .* stored with the codec imagecodecs_jpegxs2, which is not installed: pip in"
    )
    for use in (lambda: dataset(source), lambda: source.read("camera0_rgb", 0, 1)):
        with pytest.raises(InputError, match=wanted):
            use()
    (path / "data/action/.zarray").write_text(json.dumps(changed | {"compressor": {"id": "of_somebody"}}))
    shutil.rmtree(path / "data/camera0_rgb")
    with pytest.raises(
        InputError, match=r"key 'action' .*codec of_somebody, .*install the package that brings"
    ):
        ZarrSource(path)
