"""Samples of a trained model of images: arrays, grids, and how many a second."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from shortcut_policy.adaptive import say_untaught
from shortcut_policy.checkpoint import load_model
from shortcut_policy.data.source import expand
from shortcut_policy.errors import InputError
from shortcut_policy.images.config import SampleConfig
from shortcut_policy.images.model import ImageModel
from shortcut_policy.images.pictures import save_grid, to_pixels
from shortcut_policy.paths import atomic_path, write_atomic
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.settings import check_whole
from shortcut_policy.training.batches import seeded_generator

#: A grid shows at most so many of the samples.
SHOWN = 100


@dataclass(frozen=True)
class Drawn:
    """Samples and what they took.

    Attributes:
        samples: (N, C, H, W), uint8 pixels or float32 latents, on the CPU.
        seconds: Of the network and the noise, until the samples were there.
    """

    samples: Tensor
    seconds: float

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return len(self.samples) / self.seconds


def sample_images(config: SampleConfig) -> Path:
    """Sample a checkpoint at every step count, and time it.

    Returns:
        The output folder: ``samples.png``, ``steps_<n>.npz`` for each step count, ``samples.json``.

    Raises:
        InputError: The checkpoint, a class, a step count or the guidance cannot be used.
    """
    model = load_image_model(config.checkpoint, config.device, config.trust)
    steps = config.step_counts
    for count in steps:
        model.objective.check_steps(count)
        say_untaught(model.objective, model.metadata, count)
    labels = class_labels(config.class_list, model.class_names, config.n)
    output, rows, throughput = expand(config.output), {}, {}
    # The first call of a process chooses kernels.
    how = (config.seed, config.batch_size, config.guidance, config.bf16)
    draw(model, labels[: config.batch_size], steps[0], *how)
    for count in steps:
        found = draw(model, labels, count, *how)
        throughput[count] = found.throughput
        shown = found.samples[:SHOWN]
        rows[str(count)] = to_pixels(model, shown.to(model.device))
        arrays = {"labels": labels.numpy(), "class_names": np.array(model.class_names)}
        with atomic_path(output / f"steps_{count}.npz") as temporary, temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, images=found.samples.numpy(), **arrays)
        print(f"steps={count}: {found.throughput:.1f} samples/s ({len(labels)} samples)")
    save_grid(rows, output / "samples.png")
    described = {
        "command": command_line(),
        "commit": commit(),
        "checkpoint": str(config.checkpoint),
        "samples": len(labels),
        "samples_per_second": throughput,
        "guidance": config.guidance,
        "seed": config.seed,
        "batch_size": config.batch_size,
        "precision": "bf16" if config.bf16 else "fp32",
        "device": device_name(model.device),
        "threads": torch.get_num_threads(),
        "model": model.metadata,
    }
    write_atomic(output / "samples.json", json.dumps(described, indent=2) + "\n")
    print(f"wrote {output}/samples.png (a row a step count, a column a noise), steps_*.npz, samples.json")
    return output


def load_image_model(
    path: str | Path, device: str | torch.device = "cpu", trust: str | Sequence[str] | None = ()
) -> ImageModel:
    """Load a trained model of images, ready to sample.

    Raises:
        InputError: See `load_model`; or what is there is a policy.
    """
    model = load_model(path, device, trust)
    if not isinstance(model, ImageModel):
        raise InputError(f"{path} holds a policy, not a model of images: roll it out with scripts/rollout.py")
    return model


def class_labels(wanted: Sequence[int | str] | None, names: Sequence[str], n: int) -> Tensor:
    """Classes of n samples, int64 (n,): those wanted in turns.

    Args:
        wanted: Names, or numbers, of classes; all if None.
        names: Of all classes.
        n: Number of samples, at least 1.

    Raises:
        InputError: There is no such class, or no sample is asked for.
    """
    check_whole("n", n, 1)
    by_name = {name: number for number, name in enumerate(names)}
    numbers = []
    for one in range(len(names)) if wanted is None else wanted:
        # Names first: a class may be called 7 and not be the seventh.
        number = by_name.get(str(one), one)
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise InputError(
                f"classes: {one} is not one of the {len(names)} that this model knows: {', '.join(names)}"
            )
        numbers.append(number)
    if not numbers:
        raise InputError("classes=[] names no class; leave it null for all of them")
    return torch.tensor(numbers)[torch.arange(n) % len(numbers)]


def draw(
    model: ImageModel,
    labels: Tensor,
    steps: int,
    seed: int = 0,
    batch_size: int = 256,
    guidance: float | None = None,
    bf16: bool = False,
) -> Drawn:
    """Sample an image for each label, sample i from noise that is a function of (seed, i) alone.

    Args:
        model: On the device that computes.
        labels: Classes, int64 (N,).
        steps: Sampling steps.
        seed: Of the noise.
        batch_size: Samples at a time; does not change them but for rounding.
        guidance: See `ImageModel.sample`.
        bf16: Compute the network's matrix products in bfloat16.
    """
    parts, seconds = [], 0.0
    numbers = torch.arange(len(labels)).split(batch_size)
    for rows in tqdm(numbers, desc=f"{steps} steps", unit="batch", disable=len(numbers) < 2, leave=False):
        generators = [seeded_generator("cpu", seed, row) for row in rows.tolist()]
        started = time.perf_counter()
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            parts.append(model.sample(labels[rows], steps, generators, guidance).cpu())
        seconds += time.perf_counter() - started
    return Drawn(torch.cat(parts), seconds)
