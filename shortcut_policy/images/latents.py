"""Latents of an autoencoder in place of pixels, as latent diffusion trains on (Rombach et al. 2022).

A store of latents is a zarr group: ``train_latents`` (N, C, h, w) float32, ``train_labels`` (N,) int64 where
there are classes, the same for ``test``, and as attributes the autoencoder and its scale. Latents are stored
scaled, with a standard deviation of about 1. Writing goes on where it was stopped.
"""

import hashlib
import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from tqdm import tqdm

from shortcut_policy.build import build
from shortcut_policy.data.source import expand
from shortcut_policy.data.zarr_files import open_store
from shortcut_policy.device import usable_device
from shortcut_policy.errors import InputError, first_line
from shortcut_policy.images.config import EncodeLatentsConfig
from shortcut_policy.images.folder import ImageFolder
from shortcut_policy.images.image_set import ImageSet, ImageSource
from shortcut_policy.training.batches import seeded_generator

#: Attribute of a store that tells what it holds.
ABOUT = "latents"
PARTS = ("train", "test")
#: Latents that are decoded at a time.
BATCH = 32


class Autoencoder:
    """Between pixels and scaled latents; called with latents, it makes pixels of them.

    Args:
        name: Folder of a `diffusers.AutoencoderKL`, or its id on the hub.
        device: Where it computes.

    Attributes:
        name: As given, with the whole path of a folder.
        scale: What latents are multiplied with, after ``shift`` was taken off.
        factor: Pixels of a latent, in height and in width.

    Raises:
        InputError: it is neither here nor on the hub.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        from diffusers import AutoencoderKL

        folder = expand(name)
        # A checkpoint of latents finds it from any directory.
        self.name = str(folder.resolve()) if folder.is_dir() else name
        try:
            self.network = AutoencoderKL.from_pretrained(self.name)
        except (OSError, ValueError) as error:
            raise InputError(
                f"vae={name} cannot be loaded ({first_line(error)}): give the folder of an "
                "AutoencoderKL that diffusers has saved, or its id on the hub and a network connection"
            ) from error
        self.network.to(device).eval().requires_grad_(False)
        self.device = device
        settings = self.network.config
        self.scale, self.shift = float(settings.scaling_factor), float(settings.shift_factor or 0.0)
        self.factor = 2 ** (len(settings.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, images: np.ndarray, generator: torch.Generator | None, batch_size: int) -> np.ndarray:
        """Latents of images (N, 3, H, W) uint8, (N, C, H / factor, W / factor) float32.

        Args:
            images: The images.
            generator: Draw from each image's posterior with it; None: take the mean.
            batch_size: Images that are encoded at a time.
        """
        parts = []
        for part in torch.from_numpy(images).split(batch_size):
            posterior = self.network.encode(part.to(self.device) / 127.5 - 1).latent_dist
            drawn = posterior.mode() if generator is None else posterior.sample(generator)
            parts.append(((drawn - self.shift) * self.scale).float().cpu())
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> Tensor:
        """Images of scaled latents (N, C, h, w), (N, 3, H, W) uint8, on the device of the latents."""
        self.network.to(latents.device)
        parts = [self.network.decode(part / self.scale + self.shift).sample for part in latents.split(BATCH)]
        return ((torch.cat(parts) + 1) * 127.5).round().clamp(0, 255).byte()


def latents(path: str | PathLike[str]) -> ImageSource:
    """The latents of a store that `encode` has written, as images of ``task=latents``.

    Raises:
        InputError: there is no such store, or it is not finished.
    """
    store, about = expand(path), read_about(path)
    if not about["complete"]:
        raise InputError(f"{store} is not finished; give its scripts/encode_latents.py command again")
    group, names = open_store(str(store)), tuple(about["class_names"])
    sets = (
        ImageSet(
            np.asarray(group[f"{part}_latents"]),
            np.asarray(group[f"{part}_labels"]) if names else None,
            names,
        )
        for part in PARTS
    )
    train, test = sets
    decoder = {"_target_": "shortcut_policy.images.latents.Autoencoder", "name": about["vae"]}
    return ImageSource(str(store), train, test, decoder)


def read_about(path: str | PathLike[str]) -> dict[str, Any]:
    """What a store of latents says of itself: ``vae``, ``scaling_factor``, ``shift_factor`` and more.

    Raises:
        InputError: there is no store of latents.
    """
    store = expand(path)
    about = dict(open_store(str(store)).attrs).get(ABOUT)
    if not isinstance(about, dict):
        raise InputError(f"{store} holds no latents; write them with scripts/encode_latents.py")
    return about


def encode_latents(config: EncodeLatentsConfig) -> None:
    """Encode a folder of images, or go on with it, and say how many latents there are.

    Raises:
        InputError: images or autoencoder cannot be used, or the output is something else.
    """
    device, output = usable_device(config.device), expand(config.output)
    folder: ImageFolder = build(config.source)
    encode(
        folder,
        Autoencoder(config.vae, device),
        output,
        seed=config.seed if config.posterior == "sample" else None,
        mirrored=config.mirrored,
        batch_size=config.batch_size,
        block=config.block,
    )
    print(f"{output}: {', '.join(f'{n} {part}' for part, n in count(output).items())}")


def count(path: str | PathLike[str]) -> dict[str, int]:
    """Latents of each part of a store."""
    group = open_store(str(expand(path)))
    return {part: group[f"{part}_latents"].shape[0] for part in PARTS}  # type: ignore[union-attr]


def encode(
    folder: ImageFolder,
    autoencoder: Autoencoder,
    output: Path,
    seed: int | None = None,
    mirrored: bool = False,
    batch_size: int = 32,
    block: int = 1024,
) -> None:
    """Write the latents of a folder of images to a store, or go on with it.

    Args:
        folder: The images.
        autoencoder: What encodes them.
        output: The store.
        seed: Draw from the posteriors with it; None: take their means.
        mirrored: Encode each training image a second time, left to right: latents cannot be mirrored later.
        batch_size: Images that are encoded at a time.
        block: Images that are read at a time; stopped in one, it is encoded again.

    Raises:
        InputError: the store is of other images or settings, or an image cannot be used.
    """
    described = [folder.fingerprint, autoencoder.name, autoencoder.scale, seed, mirrored, block]
    about: dict[str, Any] = {
        "vae": autoencoder.name,
        "scaling_factor": autoencoder.scale,
        "shift_factor": autoencoder.shift,
        "posterior": "mean" if seed is None else "sample",
        "class_names": list(folder.class_names),
        "key": hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16],
        # Files of each part that are done, and the latents that came of them: fewer if some were skipped.
        "files": dict.fromkeys(PARTS, 0),
        "rows": dict.fromkeys(PARTS, 0),
        "complete": False,
    }
    _check_images(folder, folder.decoder.first(folder.splits["train"].names)[None], autoencoder)
    group, about = _open(output, about)
    for number, part in enumerate(PARTS):
        split, mirror = folder.splits[part], mirrored and part == "train"
        bar = tqdm(total=len(split.names), initial=about["files"][part], desc=f"encode {part}", unit="image")
        with bar:
            for start in range(about["files"][part], len(split.names), block):
                names = split.names[start : start + block]
                images, kept = folder.decoder.decode(names)
                _check_images(folder, images, autoencoder)
                images = np.concatenate([images, images[..., ::-1]]) if mirror else images
                generator = (
                    None if seed is None else seeded_generator(autoencoder.device, seed, number, start)
                )
                values = {"latents": autoencoder.encode(images, generator, batch_size)}
                if split.labels is not None:
                    values["labels"] = np.tile(split.labels[start + kept], 2 if mirror else 1)
                about["rows"][part] = _append(group, part, about["rows"][part], values)
                about["files"][part] += len(names)
                group.attrs[ABOUT] = about
                bar.update(len(names))
        if not split.names:
            shape = group["train_latents"].shape[1:]  # type: ignore[union-attr]
            empty = {"latents": np.zeros((0, *shape), np.float32), "labels": np.zeros(0, np.int64)}
            _append(group, part, 0, empty if folder.class_names else {"latents": empty["latents"]})
    group.attrs[ABOUT] = about | {"complete": True}


def _open(output: Path, about: dict[str, Any]) -> tuple[zarr.Group, dict[str, Any]]:
    """The store to write, and what it says of itself: ``about`` if it is new."""
    if not output.exists():
        group = zarr.open_group(str(output), mode="w")
        group.attrs[ABOUT] = about
        return group, about
    found = read_about(output)
    if found["key"] != about["key"]:
        raise InputError(
            f"{output} holds latents of other images, of another autoencoder or of other settings; delete "
            "it, or give another output"
        )
    return zarr.open_group(str(output), mode="r+"), found


def _append(group: zarr.Group, part: str, rows: int, values: Mapping[str, np.ndarray]) -> int:
    """Put values behind the first ``rows`` of their arrays, in place of what a stopped run left there."""
    for key, value in values.items():
        name = f"{part}_{key}"
        if name not in group:
            chunks = (max(1, len(value)), *value.shape[1:])
            group.create_array(name, shape=(0, *value.shape[1:]), dtype=value.dtype, chunks=chunks)
        array = group[name]
        assert isinstance(array, zarr.Array)
        array.resize((rows + len(value), *value.shape[1:]))
        array[rows:] = value
    return rows + len(values["latents"])


def _check_images(folder: ImageFolder, images: np.ndarray, autoencoder: Autoencoder) -> None:
    channels, height, width = images.shape[1:]
    if channels != autoencoder.network.config.in_channels:
        raise InputError(
            f"{folder.path} has images of {channels} channels, and vae={autoencoder.name} encodes "
            f"{autoencoder.network.config.in_channels}: give source.channels="
            f"{autoencoder.network.config.in_channels}"
        )
    if height % autoencoder.factor or width % autoencoder.factor:
        raise InputError(
            f"{folder.path} has images of {height}x{width}, and vae={autoencoder.name} needs multiples of "
            f"{autoencoder.factor}: give source.size=256, for example"
        )
