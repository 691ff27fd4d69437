"""Settings of commands as their configurations give them, read once."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from shortcut_policy.commands.benchmark import read_benchmark
from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.images import read_image_benchmark
from shortcut_policy.errors import InputError
from shortcut_policy.images.config import EncodeLatentsConfig, SampleConfig
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.rollout.config import RolloutConfig

IMAGES = ("digits", "digits_guidance", "cifar10", "cifar10_cpu")


def composed(name: str, *overrides: str):
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose(name, list(overrides))


@pytest.mark.parametrize("name", ["demo", "benchmark_pusht", "benchmark_pusht_large", "benchmark_robomimic"])
def test_shipped_benchmarks_are_read(name: str):
    config = read_benchmark(composed(name))
    assert config.entries[0].name == "shortcut" and config.protocol.episode_seeds[0] == 100_000
    assert isinstance(config.output, Path) and config.last_k >= 1


def test_a_name_for_interpolations_alone_is_no_setting():
    config = read_benchmark(composed("benchmark_robomimic", "robomimic=can"))
    assert config.title.startswith("robomimic can") and "task=can" in config.training
    with pytest.raises(InputError, match="has no setting 'robominic': it has"):
        read_benchmark(composed("benchmark_robomimic", "+robominic=can"))


@pytest.mark.parametrize("name", IMAGES)
def test_shipped_image_benchmarks_are_read(name: str):
    config = read_image_benchmark(composed(f"benchmark_{name}"))
    assert config.entries and config.classifier.epochs > 1


@pytest.mark.parametrize(
    ("name", "kind", "given"),
    [
        ("rollout", RolloutConfig, "checkpoint=a"),
        ("sample", SampleConfig, "checkpoint=a"),
        ("encode_latents", EncodeLatentsConfig, "output=a"),
    ],
)
def test_commands_refuse_what_they_do_not_know(name: str, kind: type, given: str):
    more = ["source.path=images"] if name == "encode_latents" else []
    assert isinstance(read(composed(name, given, *more), kind), kind)
    with pytest.raises(InputError, match=r"has no setting 'batchsize': did you mean 'batch_size'\?"):
        read(composed(name, given, *more, "+batchsize=3"), kind)
    with pytest.raises(InputError, match=f"lacks the setting '{given.partition('=')[0]}'"):
        read(composed(name, *more), kind)


def test_automatic_steps_stand_among_others():
    config = read(composed("rollout", "checkpoint=a", "steps=[1,auto]", "tolerance=0.1"), RolloutConfig)
    one, auto = config.step_counts
    assert one == 1 and auto.tolerance == 0.1
    with pytest.raises(InputError, match=r"steps=automatic must be .* or auto"):
        read(composed("rollout", "checkpoint=a", "steps=automatic"), RolloutConfig)
