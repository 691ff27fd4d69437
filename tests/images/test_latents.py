"""Latents of a small autoencoder with random weights: no trained one is needed to test the whole path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from hydra import compose, initialize_config_dir
from PIL import Image

from shortcut_policy.build import build
from shortcut_policy.commands.configuration import to_plain
from shortcut_policy.commands.train import read_training
from shortcut_policy.errors import InputError
from shortcut_policy.images import latents as module
from shortcut_policy.images.folder import ImageFolder
from shortcut_policy.images.latents import Autoencoder, encode, latents, read_about
from shortcut_policy.paths import CONFIG_DIR

SCALE = 0.18215


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=SCALE,
        )
    folder = tmp_path_factory.mktemp("vae")
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Eight images of 12x16 for each of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(8):
            pixels = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    return tmp_path / "images"


def folder_of(images: Path, **settings: object) -> ImageFolder:
    return ImageFolder(images, **{"size": 8, "channels": 3, "test_fraction": 0.25, **settings})


def test_latents_are_scaled_means_of_the_autoencoder(images: Path, vae: str, tmp_path: Path):
    folder = folder_of(images)
    encode(folder, Autoencoder(vae), tmp_path / "latents.zarr", block=5)
    source = latents(tmp_path / "latents.zarr")
    assert source.train.images.shape == (12, 4, 4, 4) and source.test.images.shape == (4, 4, 4, 4)
    assert source.train.class_names == ("cats", "dogs")
    np.testing.assert_array_equal(source.train.labels, folder.splits["train"].labels)
    pixels, _ = folder.decoder.decode(folder.splits["train"].names)
    network = AutoencoderKL.from_pretrained(vae)
    with torch.no_grad():
        means = network.encode(torch.from_numpy(pixels) / 127.5 - 1).latent_dist.mean
    np.testing.assert_allclose(source.train.images, SCALE * means.numpy(), rtol=1e-4, atol=1e-6)
    assert read_about(tmp_path / "latents.zarr")["scaling_factor"] == SCALE


def test_decoder_of_a_store_makes_pixels(images: Path, vae: str, tmp_path: Path):
    encode(folder_of(images), Autoencoder(vae), tmp_path / "latents.zarr")
    source = latents(tmp_path / "latents.zarr")
    assert source.decoder is not None
    scaled = torch.from_numpy(source.test.images)
    with torch.no_grad():
        pixels = AutoencoderKL.from_pretrained(vae).decode(scaled / SCALE).sample
    expected = ((pixels + 1) * 127.5).round().clamp(0, 255).byte()
    assert torch.equal(build(source.decoder)(scaled), expected) and expected.shape == (4, 3, 8, 8)


@pytest.mark.parametrize("seed", [None, 3])
def test_stopped_encoding_goes_on_with_the_same_latents(
    images: Path, vae: str, tmp_path: Path, seed: int | None, monkeypatch: pytest.MonkeyPatch
):
    whole, stopped = tmp_path / "whole.zarr", tmp_path / "stopped.zarr"
    encode(folder_of(images), Autoencoder(vae), whole, seed, mirrored=True, block=4)
    append = module._append

    def fail(group: object, part: str, rows: int, values: dict[str, np.ndarray]) -> int:
        found = append(group, part, rows, values)
        if rows:
            raise KeyboardInterrupt  # after the values, before the count
        return found

    monkeypatch.setattr(module, "_append", fail)
    with pytest.raises(KeyboardInterrupt):
        encode(folder_of(images), Autoencoder(vae), stopped, seed, mirrored=True, block=4)
    monkeypatch.undo()
    with pytest.raises(InputError, match="not finished"):
        latents(stopped)
    encoded: list[int] = []
    original = Autoencoder.encode
    monkeypatch.setattr(
        Autoencoder, "encode", lambda self, x, *rest: encoded.append(len(x)) or original(self, x, *rest)
    )
    encode(folder_of(images), Autoencoder(vae), stopped, seed, mirrored=True, block=4)
    assert sum(encoded) == 2 * 8 + 4  # the first block of the training images was kept
    assert len(latents(stopped).train) == 24
    for part in ("train", "test"):
        a, b = (getattr(latents(store), part) for store in (whole, stopped))
        np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal(a.labels, b.labels)


def test_unreadable_first_image_is_skipped_if_asked(images: Path, vae: str, tmp_path: Path):
    (images / folder_of(images).splits["train"].names[0]).write_bytes(b"not a picture")
    with pytest.raises(
        InputError, match=r"give task\.source\.skip_unreadable=true \(source\.skip_unreadable"
    ):
        encode(folder_of(images), Autoencoder(vae), tmp_path / "latents.zarr")
    encode(folder_of(images, skip_unreadable=True), Autoencoder(vae), tmp_path / "latents.zarr")
    assert len(latents(tmp_path / "latents.zarr").train) == 11


def test_draws_differ_from_means_and_from_one_another(images: Path, vae: str, tmp_path: Path):
    stores = []
    for seed in (None, 0, 1):
        encode(folder_of(images), Autoencoder(vae), tmp_path / f"{seed}.zarr", seed)
        stores.append(latents(tmp_path / f"{seed}.zarr").train.images)
    mean, first, second = stores
    assert np.abs(first - mean).max() > 1e-3 and np.abs(first - second).max() > 1e-3


def test_what_cannot_be_encoded_is_said(images: Path, vae: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"images of 12x16|multiples of 2"):
        encode(folder_of(images, size=9), Autoencoder(vae), tmp_path / "odd.zarr")
    with pytest.raises(InputError, match="images of 1 channels"):
        encode(folder_of(images, channels=1), Autoencoder(vae), tmp_path / "grey.zarr")
    with pytest.raises(InputError, match=r"vae=.*cannot be loaded"):
        Autoencoder(str(images))
    encode(folder_of(images), Autoencoder(vae), tmp_path / "latents.zarr")
    with pytest.raises(InputError, match="other images"):
        encode(folder_of(images, size=16), Autoencoder(vae), tmp_path / "latents.zarr")


@pytest.mark.parametrize(
    ("name", "batch_size", "guided", "parameters"),
    [("celeba_hq_256", 64, False, 131e6), ("imagenet_256", 256, True, 131e6)],
)
def test_settings_of_the_paper_compose(name: str, batch_size: int, guided: bool, parameters: float):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", [f"experiment=images/{name}", "task.source.path=latents.zarr"])
    plain = to_plain(config)
    assert plain["task"]["name"] == name and plain["trainer"]["batch_size"] == batch_size
    assert (plain["objective"]["guidance"] is not None) == guided
    assert (
        plain["backbone"]["_target_"].endswith("ImageDit") and "ClassEncoder" in plain["encoder"]["_target_"]
    )
    read_training(config)
    with torch.device("meta"):
        network = build(plain["backbone"], image_shape=(4, 32, 32), cond_dim=10)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(parameters, rel=0.03)
