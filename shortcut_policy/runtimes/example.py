"""The example that lies beside an exported graph: what needs nothing of this library."""

from collections.abc import Mapping
from typing import Any

TEMPLATE = '''"""Acts once with this exported policy; needs numpy and what it imports below."""

import json

import numpy as np

manifest = json.load(open("manifest.json"))
shapes = {{part["name"]: (part["shape"][1:], part["dtype"]) for part in manifest["inputs"]}}
# Your robot's last {n_obs_steps} observations, oldest first, in the units of the demonstrations; zeros here.
obs = {{name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in shapes.items() if name != "noise"}}
noise = np.random.default_rng(0).standard_normal((1, *shapes["noise"][0])).astype(np.float32)

{run}
# action: the next {n_action_steps} actions, (1, {n_action_steps}, {action_dim}); chunk: all of them.
print(np.asarray(action).round(3))
'''


def example_script(manifest: Mapping[str, Any], run: str) -> str:
    """``example.py`` of an export.

    Args:
        manifest: Of the export.
        run: What `Format.example` says.
    """
    return TEMPLATE.format(
        run=run.rstrip(),
        n_obs_steps=manifest["n_obs_steps"],
        n_action_steps=manifest["n_action_steps"],
        action_dim=manifest["outputs"][0]["shape"][-1],
    )
