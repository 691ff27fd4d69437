"""What no policy at all reaches: the actions of a demonstration, played blindly from another start.

    python benchmarks/blind_replay.py task=metaworld/mt10 --episodes 100 [env.max_steps=200]

A task on which this succeeds says nothing of a policy. Each start gets a demonstration that is drawn with its
seed, of the same task where there are several, and its episode ends with the demonstration's last action.
Arguments with ``=`` are those of ``scripts/train.py`` and, with ``env.`` before them, of the environment.
``results/blind_replay/<task>.json`` has success and, of several tasks, that of each.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from shortcut_policy.build import build
from shortcut_policy.commands.train import read_training
from shortcut_policy.data import EpisodeSource
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR, write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.episode import UNSAID, ActionChunkEpisode
from shortcut_policy.rollout.statistics import wilson_interval
from shortcut_policy.training.config import PolicyTask

ROOT = Path(__file__).resolve().parents[1]
FIRST_SEED = 100_000  # those of rollouts


def main() -> None:
    """Play, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="+", help="task=..., and other settings of a training")
    parser.add_argument("--episodes", type=int, default=100)
    options = parser.parse_intermixed_args()
    given = {one: one.startswith("env.") for one in options.overrides}
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", [one for one, of_env in given.items() if not of_env])
    task = read_training(config).task
    if not isinstance(task, PolicyTask) or task.env is None:
        raise InputError(f"task {task.name} has no environment to play in")
    overrides = dict(one.removeprefix("env.").split("=", 1) for one, of_env in given.items() if of_env)
    env = build({**task.env, **{key: json.loads(value) for key, value in overrides.items()}})
    rows = replay(build(task.source), task, env, options.episodes)
    result = {"task": task.name, "episodes": options.episodes, "first_seed": FIRST_SEED, "env": overrides}
    result |= {"replay": rates(rows), "command": command_line(), "commit": commit()}
    result |= {"versions": library_versions()}
    print(json.dumps(result["replay"], indent=2))
    write_atomic(ROOT / "results" / "blind_replay" / f"{task.name}.json", json.dumps(result, indent=2) + "\n")


def replay(source: EpisodeSource, task: PolicyTask, env: Any, episodes: int) -> list[dict[str, Any]]:
    """What became of each start: ``task``, ``success``, ``success_now``."""
    episode, found = ActionChunkEpisode(env, 1, 1), []
    of_task = tasks_of_demonstrations(source, task)
    for seed in range(FIRST_SEED, FIRST_SEED + episodes):
        stacked, _ = episode.reset(seed=seed)
        number = int(np.argmax(stacked["task"][-1])) if "task" in stacked else 0
        chosen = np.flatnonzero(of_task == number)
        if not len(chosen):
            raise InputError(f"{source.path} holds no demonstration of task number {number}")
        one = int(np.random.default_rng([0, seed]).choice(chosen))
        actions = source.read(task.action["key"], *episode_rows(source, one))
        *_, info = episode.step(actions)
        found.append({key: info[key] for key in ("task", "success", "success_now")})
    return found


def tasks_of_demonstrations(source: EpisodeSource, task: PolicyTask) -> np.ndarray:
    """(E,) number of the task of each demonstration; 0 where there is one task."""
    count = len(source.episode_ends)
    if "task" not in task.obs:
        return np.zeros(count, np.int64)
    first = [episode_rows(source, episode)[0] for episode in range(count)]
    return np.array([int(source.read("task", start, start + 1).argmax()) for start in first])


def rates(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Success with its interval, at some step and at the last one, of all and of each task."""
    names = sorted({row["task"] for row in rows})
    solved = sum(row["success"] for row in rows)
    result = {"success": solved / len(rows), "success_ci": wilson_interval(solved, len(rows))}
    if UNSAID not in [row["success_now"] for row in rows]:
        result["success_at_end"] = float(np.mean([row["success_now"] for row in rows]))
    if len(names) > 1:
        parts = {name: [row for row in rows if row["task"] == name] for name in names}
        result["success_over_tasks"] = float(
            np.mean([np.mean([r["success"] for r in p]) for p in parts.values()])
        )
        result["tasks"] = {
            name: {"episodes": len(part), "success": float(np.mean([row["success"] for row in part]))}
            for name, part in parts.items()
        }
    return result


if __name__ == "__main__":
    main()
