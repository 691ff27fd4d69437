"""Pictures of what policies sample in one, few and many steps: points of a toy, action chunks of Push-T."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from shortcut_envs.pusht.physics import transform_points
from shortcut_policy.build import build
from shortcut_policy.checkpoint import load_policy
from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import allowed_steps
from shortcut_policy.paths import write_atomic
from shortcut_policy.policy import Policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.settings import check_whole, listed
from shortcut_policy.training.run_folder import method_name
from shortcut_studies import toy
from shortcut_studies.ablations import read_sweep
from shortcut_studies.pictures import Samples, on_the_left, plot_fans, plot_points

#: The T's axis of symmetry in its own frame: from the top of the bar down the stem.
BLOCK_AXIS = np.array([[0.0, 0.0], [0.0, 1.0]])


def draw_toy(config: DictConfig) -> None:
    """Points of every method of a sweep, as ``studies/configs/toy_samples.yaml`` describes.

    Raises:
        InputError: there are no finished runs, or they are not of a toy task.
    """
    runs = read_sweep(Path(config.runs))
    if not runs:
        raise InputError(f"runs={config.runs} holds no runs: give the folder of a sweep, such as `methods`")
    source = build(runs[0].config["task"]["source"])
    if not isinstance(source, toy.Mixture):
        raise InputError(f"the runs in {config.runs} are not of a toy task, such as task=two_modes")
    samples: dict[str, Samples] = {}
    columns = _columns(config)
    for one in runs:
        name = method_name(one.config["name"], one.config["objective"])
        if name not in samples:  # one training seed of each
            samples[name] = _in_steps(
                load_policy(one.folder), columns, lambda policy, n: toy.sample(policy, n, config.points)
            )
    data = source.draw(config.points, np.random.default_rng(0))
    plot_points(samples, data, Path(config.output), limit=1.2)


def draw_fans(config: DictConfig) -> None:
    """Action chunks of policies from one state, and how many go which way, as ``fans.yaml`` says.

    Raises:
        InputError: a checkpoint cannot be used in Push-T.
    """
    env, columns = build(dict(config.env)), _columns(config)
    observation, info = env.reset(options={"state": list(config.state)})
    scene = env.render()
    origin, tip = transform_points(BLOCK_AXIS, info["block_pose"])
    axis = np.stack([origin, tip - origin])

    def chunks(policy: Policy, steps: int) -> np.ndarray:
        history = {
            name: torch.as_tensor(value).repeat(config.chunks, policy.n_obs_steps, *[1] * np.ndim(value))
            for name, value in observation.items()
        }
        chunk = policy.predict(history, steps, torch.Generator().manual_seed(config.seed))
        return chunk[:, policy.n_obs_steps - 1 :].numpy()

    fans = {
        str(name): _in_steps(load_policy(path), columns, chunks) for name, path in config.policies.items()
    }
    output = Path(config.output)
    plot_fans(fans, scene, axis, output)
    counts = {
        name: {n: int(on_the_left(chunk, axis).sum()) for n, chunk in own.values()}
        for name, own in fans.items()
    }
    described = {
        "command": command_line(),
        "commit": commit(),
        "state": list(config.state),
        "chunks": config.chunks,
        "policies": OmegaConf.to_container(config.policies),
        "left_of_the_axis": counts,
    }
    write_atomic(output.with_suffix(".json"), json.dumps(described, indent=2) + "\n")


def _columns(config: DictConfig) -> list[int]:
    columns = listed("steps", config.steps)
    for steps in columns:
        check_whole("steps", steps, 1)
    return columns


def _in_steps(policy: Policy, wanted: Sequence[int], sample: Callable[[Policy, int], np.ndarray]) -> Samples:
    """Column -> steps and samples: for each wanted count the most steps up to it, each count once."""
    found: Samples = {}
    for column in wanted:
        steps = allowed_steps(policy.objective, range(column, 0, -1))[0]
        if steps not in [n for n, _ in found.values()]:
            found[column] = (steps, sample(policy, steps))
    return found
