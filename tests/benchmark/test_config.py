"""What a benchmark compares with what."""

import pytest

from shortcut_policy.benchmark.config import with_comparisons
from shortcut_policy.commands import benchmark
from shortcut_policy.paths import CONFIG_DIR
from tests.benchmark.test_harness import configuration


@pytest.mark.parametrize(
    ("given", "names", "used", "said"),
    [
        ([], ["diffusion", "flow matching"], ("diffusion", "flow matching"), ""),
        ([], ["mine"], (None, None), ""),
        (
            [],
            ["diffusion", "mine"],
            ("diffusion", None),
            "nothing is compared at equal numbers of steps: baseline=... names one of diffusion, mine, ",
        ),
        (["baseline=null"], ["diffusion", "mine"], ("diffusion", None), ""),
        (["reference=mine", "baseline=mine"], ["mine", "other"], ("mine", "mine"), ""),
        (
            ["reference=null", "baseline=flow"],
            ["diffusion", "flow matching"],
            (None, "flow"),
            "baseline=flow is none of diffusion, flow matching: nothing is compared at equal",
        ),
    ],
)
def test_a_comparison_that_is_left_out_is_told_where_it_is_missed(given, names, used, said, capsys):
    """One that nobody asked for is not, and a name by default is not blamed on the user."""
    entries = ",".join(f"{{name: {name}, checkpoint: x, steps: [1]}}" for name in names)
    config = benchmark.read_benchmark(configuration("benchmark", f"entries=[{entries}]", *given))
    found = with_comparisons(config, names)
    assert (found.reference, found.baseline) == used
    out = capsys.readouterr().out
    assert out.count("\n") == bool(said) and out.startswith(said)


def test_no_shipped_benchmark_misses_a_comparison(capsys):
    for path in sorted(CONFIG_DIR.glob("benchmark_*.yaml")):
        if "features" not in (composed := configuration(path.stem)):  # of images
            config = benchmark.read_benchmark(composed)
            with_comparisons(config, [method.name for method in config.entries])
    config = benchmark.read_benchmark(configuration("demo"))
    with_comparisons(config, [method.name for method in config.entries])
    assert capsys.readouterr().out == ""
