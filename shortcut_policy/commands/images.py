"""The commands of images: samples, a benchmark, latents."""

from pathlib import Path

from omegaconf import DictConfig

from shortcut_policy.benchmark.methods import parse_methods
from shortcut_policy.commands.configuration import read, to_plain
from shortcut_policy.commands.trainings import trainings
from shortcut_policy.images.benchmark import compare_images
from shortcut_policy.images.config import EncodeLatentsConfig, ImageBenchmarkConfig, SampleConfig
from shortcut_policy.images.latents import encode_latents
from shortcut_policy.images.sampling import sample_images
from shortcut_policy.settings import parse


def sample(config: DictConfig) -> Path:
    """Sample an image model as ``configs/sample.yaml`` describes; the output folder.

    Raises:
        InputError: See `sample_images`; or a setting cannot be used.
    """
    return sample_images(read(config, SampleConfig))


def benchmark(config: DictConfig) -> None:
    """Compare methods of making images as ``configs/benchmark_images.yaml`` describes.

    Raises:
        InputError: See `compare_images`; or a setting cannot be used.
    """
    compare_images(read_image_benchmark(config), trainings())


def read_image_benchmark(config: DictConfig) -> ImageBenchmarkConfig:
    """The settings of an image benchmark.

    Raises:
        InputError: One of them cannot be used.
    """
    plain = to_plain(config)
    plain["entries"] = parse_methods(plain.get("entries"))
    return parse(ImageBenchmarkConfig, plain, "the configuration")


def encode(config: DictConfig) -> None:
    """Make latents of images as ``configs/encode_latents.yaml`` describes.

    Raises:
        InputError: See `encode_latents`; or a setting cannot be used.
    """
    encode_latents(read(config, EncodeLatentsConfig))
