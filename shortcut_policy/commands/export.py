"""The command that exports a policy: ``scripts/export.py checkpoint=... output=... format=onnx``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Gt
from omegaconf import DictConfig
from rich.console import Console
from torch import Tensor

from shortcut_policy.adaptive import check_steps, say_untaught
from shortcut_policy.commands.configuration import read
from shortcut_policy.data import DemonstrationDataset
from shortcut_policy.data.fields import read_fields
from shortcut_policy.data.formats import open_demonstrations
from shortcut_policy.errors import InputError
from shortcut_policy.paths import written_out
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.rollout.evaluate import environment_maker, environment_spec
from shortcut_policy.rollout.observations import record_observations
from shortcut_policy.runtimes.export import write_export
from shortcut_policy.settings import Count, Words

OBSERVATIONS = 50


@dataclass(frozen=True)
class ExportSettings:
    """``configs/export.yaml``.

    Attributes:
        checkpoint: See `load_policy`,
        trust: as well.
        output: See `write_export`,
        format: as well,
        steps: as well,
        precision: as well,
        guidance: as well,
        tolerance: as well,
        rate: as well; there ``rate_hz``.
        store: Demonstrations on which parity is checked; None: what the policy meets in the task's
            environment.
        env: Laid over that environment.
    """

    checkpoint: str
    output: str
    format: str = "onnx"
    steps: Count = 1
    precision: str | None = None
    guidance: float | None = None
    tolerance: (
        Annotated[float, Gt(0), Words("a number above 0, a part of half the action's range")] | None
    ) = None
    rate: Annotated[float, Gt(0), Words("a number above 0, of control steps a second")] | None = None
    store: str | None = None
    env: Mapping[str, Any] | None = None
    trust: str | Sequence[str] | None = None


def run(config: DictConfig) -> None:
    """Write the folder ``output`` and say how near its actions are.

    Raises:
        InputError: A setting is wrong; or see `load_policy`, `record_observations` and `write_export`.
    """
    settings = read(config, ExportSettings)
    policy, console = load_policy(settings.checkpoint, trust=settings.trust), Console()
    if policy.runtime is not None:
        raise InputError(f"checkpoint={settings.checkpoint} is an export already: give the checkpoint itself")
    check_steps(policy.objective, settings.steps)
    say_untaught(policy.objective, policy.metadata, settings.steps)
    observations, recorded = _observations(policy, settings)
    console.print(f"Exporting to {settings.output} as {settings.format}, steps={settings.steps} ...")
    manifest = write_export(
        policy,
        settings.output,
        format=settings.format,
        steps=settings.steps,
        precision=settings.precision,
        guidance=settings.guidance,
        observations=observations,
        recorded=recorded,
        tolerance=settings.tolerance,
        rate_hz=settings.rate,
    )
    worst = max(batch["largest"] for batch in manifest["parity"]["batches"].values())
    size = sum(file.stat().st_size for file in written_out(settings.output).rglob("*") if file.is_file())
    console.print(
        f"{size / 2**20:.1f} MiB after {manifest['export_seconds']:.0f} s; actions differ from its own by "
        f"at most {worst:.3g} in their units, on {recorded}",
        highlight=False,
    )


def _observations(policy: Policy, settings: ExportSettings) -> tuple[dict[str, Tensor], str]:
    """Recorded observations and where they come from."""
    if settings.store is not None:
        return _from_store(policy, settings.store), f"{OBSERVATIONS} histories of {settings.store}"
    overrides = dict(settings.env or {})
    known = overrides or policy.metadata.get("task")
    if not known or "_target_" not in environment_spec(policy, overrides):
        raise InputError(
            "the policy's task has no environment, in which observations could be recorded to check the "
            "export on: give store=<demonstrations>"
        )
    found = record_observations(policy, environment_maker(policy, overrides), OBSERVATIONS)
    return found, f"{OBSERVATIONS} histories of its own in the task's environment"


def _from_store(policy: Policy, path: str) -> dict[str, Tensor]:
    """Histories spread over all windows of a store, whose keys are those of the policy's fields."""
    obs, action = read_fields(policy.spec["obs"], policy.spec["action"])
    sizes = (policy.horizon, policy.n_obs_steps, policy.n_action_steps)
    dataset = DemonstrationDataset(open_demonstrations(path), obs, action, *sizes, val_fraction=0.0)
    windows = torch.linspace(0, len(dataset) - 1, OBSERVATIONS).long()
    return dict(dataset.batch(dataset.train[windows])["obs"])
