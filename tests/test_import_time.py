"""What ``import shortcut_policy`` brings along: who acts must not wait for what only training needs."""

import subprocess
import sys

import pytest

import shortcut_policy
import shortcut_policy.data

#: Libraries that weigh: none of them is needed to load a policy and act.
HEAVY = {
    *(
        "accelerate",
        "diffusers",
        "gymnasium",
        "h5py",
        "httpx",
        "huggingface_hub",
        "hydra",
        "imageio",
        "jinja2",
    ),
    *("matplotlib", "numcodecs", "omegaconf", "pandas", "pydantic", "rich", "scipy", "shapely", "sklearn"),
    *("msgpack", "prometheus_client", "websockets"),
    *("statsmodels", "sympy", "torchmetrics", "tqdm", "wandb", "zarr"),
}
PROGRAM = """
import sys
import shortcut_policy
assert "torch" not in sys.modules, "the names are lazy"
import torch
before = set(sys.modules)
from shortcut_policy import Auto, Field, InputError, Policy, load_policy, save_policy
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.slow
def test_acting_needs_torch_and_little_else() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    brought = set(done.stdout.split())
    assert "shortcut_policy.policy" in brought
    assert not HEAVY & {name.partition(".")[0] for name in brought}
    assert not any(name.startswith("torch._dynamo") for name in brought), "torch's compiler takes two seconds"


@pytest.mark.parametrize("package", [shortcut_policy, shortcut_policy.data])
def test_every_public_name_is_there(package) -> None:
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name).__name__.rpartition(".")[2] == name
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'nothing'"):
        package.nothing  # noqa: B018
