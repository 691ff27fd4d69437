"""How often Meta-World's scripted experts succeed, as they are and as demonstrations are recorded of them.

    python benchmarks/metaworld_experts.py --starts 20 --workers 2

Noise and a way round make demonstrations of more than one way, and could make an expert fail. Both variants
are played from the same starts, with the settings of ``configs/expert/metaworld.yaml``.
``results/metaworld_experts/results.json`` has a row for each task, with the mean length of what succeeded,
and gets each as soon as it is known: rows of an earlier call with the same settings are kept.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from tqdm import tqdm

from shortcut_envs.metaworld.tasks import TASKS
from shortcut_policy.build import build
from shortcut_policy.data.collect import pool_of
from shortcut_policy.paths import CONFIG_DIR, write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.statistics import wilson_interval

ROOT = Path(__file__).resolve().parents[1]
#: What is laid over the settings of the expert.
VARIANTS = {"alone": {"noise": 0.0, "waypoint": 0.0}, "as_recorded": {}}


def main() -> None:
    """Play, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=20, help="of each task")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    options = parser.parse_args()
    spec, path = settings(), ROOT / "results" / "metaworld_experts" / "results.json"
    result: dict[str, Any] = {"starts": options.starts, "expert": spec, "variants": VARIANTS}
    rows = known_rows(path, result)
    left = [task for task in options.tasks if task not in rows]
    with pool_of(options.workers) as pool:
        for one in tqdm(pool.map(partial(row, spec, options.starts), left), total=len(left), unit="task"):
            rows[one["task"]] = one
            told = [rows[task] for task in TASKS if task in rows]
            mean = {name: float(np.mean([one[name]["success"] for one in told])) for name in VARIANTS}
            made = {"command": command_line(), "commit": commit(), "versions": library_versions()}
            write_atomic(path, json.dumps({"rows": told, "mean": mean, **result, **made}, indent=2) + "\n")
    for one in sorted(rows.values(), key=lambda row: row["as_recorded"]["success"]):
        print(f"{one['task']:32s}" + "".join(f"  {name} {one[name]['success']:.2f}" for name in VARIANTS))


def known_rows(path: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Task -> row, of an earlier call with these settings."""
    if not path.is_file():
        return {}
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if any(earlier[key] != value for key, value in json.loads(json.dumps(settings)).items()):
        return {}
    return {one["task"]: one for one in earlier["rows"]}


def settings() -> dict[str, Any]:
    """Of the expert, but for its task."""
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        expert = OmegaConf.to_container(compose("collect", ["expert=metaworld"]).expert)
    assert isinstance(expert, dict)
    return {str(key): value for key, value in expert.items() if key != "task"}


def row(spec: dict[str, Any], starts: int, task: str) -> dict[str, Any]:
    """Success of the expert of a task in both variants."""
    found: dict[str, Any] = {"task": task}
    for name, changes in VARIANTS.items():
        expert = build({**spec, "task": task, **changes})
        # Start i is drawn first, with the same seed in both.
        episodes = [expert.episode(np.random.default_rng([0, start])) for start in range(starts)]
        lengths = [len(episode["action"]) for episode in episodes if episode is not None]
        found[name] = {
            "success": len(lengths) / starts,
            "success_ci": wilson_interval(len(lengths), starts),
            "steps": float(np.mean(lengths)) if lengths else None,
        }
    return found


if __name__ == "__main__":
    main()
