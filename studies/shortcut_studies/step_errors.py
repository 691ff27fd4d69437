"""How far samples of few steps are from those of many, for the same noise: where a few-step policy loses.

It takes half a minute, no rewards and no demonstrations, and ranks ideas before anything is rolled out at
length.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from shortcut_policy.benchmark.rollouts import checkpoint_name
from shortcut_policy.benchmark.text_table import TextTable
from shortcut_policy.checkpoint import load_policy
from shortcut_policy.commands.train import make_dataset
from shortcut_policy.data import DemonstrationDataset
from shortcut_policy.errors import InputError
from shortcut_policy.paths import write_atomic
from shortcut_policy.policy import Policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.evaluate import environment_maker
from shortcut_policy.rollout.play import rollout
from shortcut_policy.settings import check_whole, listed
from shortcut_policy.training.config import TrainingConfig, parse_training
from shortcut_policy.training.run_folder import read_config


def run(config: DictConfig) -> None:
    """Measure as ``studies/configs/step_errors.yaml`` describes; print the table and write it.

    Raises:
        InputError: a policy cannot be used, or draws noise while it samples.
    """
    rows, counts = [], listed("steps", config.steps)
    lowest = {"episodes": 1, "states": 1, "first_episode": 0, "noises": 2, "seed": 0}
    for key, least in lowest.items():
        check_whole(key, config[key], least)
    if not config.policies:
        raise InputError("policies names nothing: give a checkpoint or run under a name, policies.mine=...")
    for name, path in config.policies.items():
        policy = load_policy(path, config.device)
        for steps in (*counts, config.reference_steps):
            policy.objective.check_steps(steps)
        for where, conditions in _conditions(policy, Path(path), config).items():
            found = step_errors(
                policy, conditions, counts, config.reference_steps, config.noises, config.seed
            )
            shared = {"name": str(name), "policy": checkpoint_name(path), "where": where}
            rows += [shared | {"states": len(conditions), **row} for row in found]
    output = Path(config.output)
    described = {"command": command_line(), "commit": commit(), "rows": rows}
    write_atomic(output.with_suffix(".json"), json.dumps(described, indent=2) + "\n")
    text = table(rows, config.reference_steps, config.noises)
    write_atomic(output.with_suffix(".md"), text.markdown())
    Console().print(text.rich())


@torch.no_grad()
def step_errors(
    policy: Policy, conditions: Tensor, steps: Sequence[int], reference_steps: int, noises: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Compare step counts with a large one, over the executed part of a chunk and in normalised units.

    Args:
        policy: The policy.
        conditions: Encoded observations, (N, C).
        steps: Step counts.
        reference_steps: The step count that is taken for the truth.
        noises: Samples for each condition, at least 2, to tell bias from chance.
        seed: Of the noise.

    Returns:
        A row for each step count: ``distance``, the root mean square to the reference from the same noise;
        ``bias``, that part of it which is the same for all noise, the difference of the means under a
        condition, less what is left of the noise in them; ``spread``, the standard deviation of the reference
        under a condition.

    Raises:
        InputError: the sampler draws noise on the way, so that samples do not belong to each other.
    """
    check_whole("noises", noises, 2)  # with one, bias could not be told from chance
    generator = torch.Generator(policy.device).manual_seed(seed)
    cond = policy.objective.sampling_cond(conditions.repeat_interleave(noises, 0))
    shape = (len(cond), policy.horizon, policy.action_dim)
    noise = torch.randn(shape, generator=generator, device=policy.device)

    def sample(count: int) -> Tensor:
        state = generator.get_state()
        x = policy.executed(policy.objective.sample(policy.backbone, noise, cond, count, generator))
        if not torch.equal(state, generator.get_state()):
            raise InputError(
                f"{type(policy.objective).__name__} draws noise while it samples {count} steps, so that its "
                "samples of other step counts do not belong to these; leave that step count out"
            )
        return x.reshape(len(conditions), noises, *x.shape[1:])

    reference = sample(reference_steps)
    spread = reference.var(1).mean().sqrt().item()
    rows = []
    for count in steps:
        difference = sample(count) - reference
        chance = difference.var(1) / noises
        bias = (difference.mean(1).square() - chance).mean().clamp(min=0).sqrt().item()
        distance = difference.square().mean().sqrt().item()
        rows.append({"steps": count, "distance": distance, "bias": bias, "spread": spread})
    return rows


def visited(policy: Policy, episodes: int, states: int, seed: int) -> Tensor:
    """Encoded observations that ``policy`` meets when it acts in one step, (``states`` at most, C)."""
    seen: list[Tensor] = []
    handle = policy.encoder.register_forward_hook(lambda module, inputs, cond: seen.append(cond))
    try:
        make_env = environment_maker(policy, {})
        rollout(policy, make_env, range(seed, seed + episodes), 1, num_envs=episodes, batch_size=episodes)
    finally:
        handle.remove()
    # Rows of episodes that are over repeat a row of the others.
    found = torch.unique(torch.cat(seen), dim=0)
    return found[_some(len(found), states, seed)]


def held_out(policy: Policy, config: TrainingConfig, states: int, seed: int) -> Tensor:
    """Encoded observations of the validation windows of a training, (``states`` at most, C).

    Args:
        config: Of the training.

    Raises:
        InputError: its data cannot be read, or none of it was held out.
    """
    dataset = make_dataset(config)
    assert isinstance(dataset, DemonstrationDataset)  # its policy acts on observations
    if not len(dataset.val):
        raise InputError("the training held no episodes out (data.val_fraction): use a run that did")
    windows = dataset.val[_some(len(dataset.val), states, seed)]
    return policy.encode({k: v.to(policy.device) for k, v in dataset.batch(windows)["obs"].items()})


def table(rows: Sequence[dict[str, Any]], reference_steps: int, noises: int) -> TextTable:
    """The rows for readers."""
    lines = [
        (
            row["name"],
            f"{row['where']} ({row['states']})",
            str(row["steps"]),
            f"{row['distance']:.4f}",
            f"{row['bias']:.4f}",
            f"{row['distance'] / row['spread']:.0%}",
            f"{row['spread']:.4f}",
        )
        for row in rows
    ]
    caption = (
        f"Distance = root mean square to the policy's own sample of {reference_steps} steps from the same "
        f"noise, over the executed actions, in normalised units; {noises} samples a state. Bias = the part "
        "of it that is the same for all noise. Spread = standard deviation of samples under one observation."
    )
    header = ("policy", "states", "steps", "distance", "bias", "distance / spread", "spread")
    return TextTable(header, lines, caption)


def _conditions(policy: Policy, path: Path, config: DictConfig) -> dict[str, Tensor]:
    conditions = {"met in rollouts": visited(policy, config.episodes, config.states, config.first_episode)}
    training = path / "config.yaml"
    if training.is_file():
        trained = parse_training(read_config(path))
        with torch.no_grad():
            conditions["held out"] = held_out(policy, trained, config.states, config.seed)
    return conditions


def _some(count: int, wanted: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:wanted]
