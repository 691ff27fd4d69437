"""The rollout command: checkpoints x step counts, each in its own folder, and one table."""

import json
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from shortcut_policy.checkpoint import load_policy
from shortcut_policy.evaluation.evaluate import Machinery, Protocol, check, evaluate
from shortcut_policy.evaluation.provenance import command_line, commit
from shortcut_policy.evaluation.simulation import rollout
from shortcut_policy.evaluation.table import (
    Cell,
    Measured,
    add_comparison,
    make_row,
    results_table,
    row_label,
)
from shortcut_policy.paths import write_atomic

__all__ = ["checkpoint_name", "protocol", "rollout", "run"]


def run(config: DictConfig) -> None:
    """Roll checkpoints out as ``configs/rollout.yaml`` describes, print the table and write ``results.json``.

    Raises:
        InputError: a checkpoint, step count or environment cannot be used; nothing has been rolled out then.
    """
    paths = [config.checkpoint] if isinstance(config.checkpoint, str) else list(config.checkpoint)
    counts = [config.steps] if isinstance(config.steps, int) else list(config.steps)
    rules = protocol(config)
    machinery = Machinery(
        num_envs=config.num_envs,
        asynchronous=config.asynchronous,
        videos=config.videos,
        plot=config.plot,
        overwrite=config.overwrite,
    )
    policies = [load_policy(path, config.device) for path in paths]
    for policy in policies:
        for steps in counts:
            check(policy, steps, rules)
    output = Path(config.output)
    rows = []
    for path, policy in zip(paths, policies, strict=True):
        name = checkpoint_name(path)
        for steps in counts:
            folder = output / name / f"steps_{steps:03d}"
            summary = evaluate(policy, steps, folder, rules, machinery, title=row_label(name, steps))
            measured = Measured(name, [[Cell.read(summary, folder)]])
            row = make_row(measured, command_line(), commit())
            add_comparison(row, measured, None)
            rows.append(row)
    write_atomic(output / "results.json", json.dumps(rows, indent=2) + "\n")
    console = Console()
    console.print(results_table(rows).rich())
    console.print(f"Episodes, summaries and figures are in {output}", highlight=False)


def protocol(config: DictConfig) -> Protocol:
    """The evaluation protocol of a rollout or benchmark configuration."""
    env = OmegaConf.to_container(config.env, resolve=True)
    assert isinstance(env, dict)
    return Protocol(
        config.episodes,
        config.seed,
        config.noise_seed,
        config.batch_size,
        {str(k): v for k, v in env.items()},
    )


def checkpoint_name(path: str | Path) -> str:
    """Call ``runs/a/checkpoints/step_00014000`` "a/step_00014000", and any other folder by its name."""
    folder = Path(path).resolve()
    return f"{folder.parents[1].name}/{folder.name}" if folder.parent.name == "checkpoints" else folder.name
