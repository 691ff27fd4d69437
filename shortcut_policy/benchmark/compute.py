"""What training costs: network evaluations and FLOPs, counted on the real loss, and measured time."""

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.flop_counter import FlopCounterMode

from shortcut_policy.benchmark.text_table import ResultRows, TextTable, count_of
from shortcut_policy.objectives import Draws
from shortcut_policy.objectives.base import (
    cost_phases,
    teacher_phase,
)
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.cost import evaluations
from shortcut_policy.training.optimizers import make_optimizers

Update = Callable[[], Any]
Key = TypeVar("Key")
#: Column relative to the baseline -> what it is made from.
RELATIVE = {"relative_flops": "flops", "relative_time": "milliseconds"}


@dataclass(frozen=True)
class PhaseCost:
    """What an update costs in one phase of a training.

    Attributes:
        start: Progress of the training at which the phase begins, in [0, 1].
        end: And at which it ends.
        forward: Rows that networks evaluate, those for targets included, for each row of the batch.
        derivative: Those of them that carry a forward-mode derivative along.
        backward: Rows through which the gradient flows back, for each row of the batch.
        flops: Floating-point operations of an update by torch's counter: matrix products and convolutions,
            a multiplication and an addition counted as two.
    """

    start: float
    end: float
    forward: float
    derivative: float
    backward: float
    flops: float


def phase_costs(policy: Policy) -> list[PhaseCost]:
    """Count each phase of the training of ``policy``; what a teacher from outside cost is not in it."""
    return [_count(policy, _batch_size(policy), start, end) for start, end in cost_phases(policy.objective)]


def untrained(spec: Mapping[str, Any], metadata: Mapping[str, Any], device: str = "cpu") -> Policy:
    """A policy with random weights: what it costs to train and to evaluate does not depend on them.

    Args:
        spec: See `Policy.from_spec`.
        metadata: Of the trained policy.
        device: Where to put it.
    """
    policy = Policy.from_spec(spec)
    for statistic in chain(policy.normalizer.buffers(), policy.encoder.buffers()):
        if statistic.is_floating_point():
            statistic.nan_to_num_(nan=1.0)
    policy.metadata = dict(metadata)
    return policy.to(device).eval()


def phase_mean(phases: Sequence[PhaseCost], values: Sequence[float]) -> float:
    """Mean over a training of something that each phase has a value of."""
    return sum((phase.end - phase.start) * value for phase, value in zip(phases, values, strict=True))


def training_flops(phases: Sequence[PhaseCost], updates: int, all_updates: int) -> float:
    """Floating-point operations of the first ``updates`` of a training of ``all_updates``."""
    done = updates / all_updates
    shares = [max(0.0, min(phase.end, done) - phase.start) for phase in phases]
    return all_updates * sum(share * phase.flops for share, phase in zip(shares, phases, strict=True))


def compute_rows(
    methods: Mapping[str, Policy],
    phases: Mapping[str, Sequence[PhaseCost]],
    claims: Mapping[str, str | None],
    baseline: str | None,
    rounds: int,
) -> list[dict[str, Any]]:
    """What an update of each method costs, counted and timed in turns.

    All are timed in one number format, that of the baseline's training, or of the first method's.

    Args:
        methods: Name -> a policy with the metadata of the trained one; its weights do not matter.
        phases: Name -> `phase_costs`.
        claims: Name -> what a paper says of it.
        baseline: Name of the method that the others are relative to; they have no relative cost without it.
        rounds: Updates that are timed of each.

    Returns:
        A row each, as JSON holds it; costs that change from phase to phase are means over the training.
    """
    precision = methods.get(str(baseline), next(iter(methods.values()))).metadata["precision"]
    updates = {
        (name, _evaluations(phase)): make_update(
            methods[name],
            _batch_size(methods[name]),
            (phase.start + phase.end) / 2,
            precision,
        )
        for name, own in phases.items()
        for phase in own
    }
    times = take_turns(updates, rounds)
    rows = [
        _row(policy, phases[name], [times[name, _evaluations(phase)] for phase in phases[name]])
        | {"name": name, "claim": claims[name], "precision": precision}
        for name, policy in methods.items()
    ]
    reference = next((row for row in rows if row["name"] == baseline), None)
    for row in rows:
        row["baseline"] = baseline if reference else None
        for relative, absolute in RELATIVE.items():
            row[relative] = row[absolute] / reference[absolute] if reference else None
    return rows


def published_costs(rows: ResultRows) -> dict[str, list[PhaseCost]]:
    """Name -> `phase_costs`, from earlier rows of `compute_rows`."""
    names = [field.name for field in fields(PhaseCost)]
    return {
        row["name"]: [PhaseCost(**{name: phase[name] for name in names}) for phase in row["phases"]]
        for row in rows
    }


def compute_table(rows: ResultRows) -> TextTable:
    """The rows of `compute_rows` for readers."""
    first = rows[0]
    caption = (
        "Cost of one update, averaged over the training where it changes. Forward, backward = network "
        "evaluations for each row of the batch, counted; in brackets those that carry a forward-mode "
        "derivative along. FLOPs by torch's counter. Time = median wall-clock of a whole update of "
        f"{' or '.join(map(str, sorted({row['batch_size'] for row in rows})))} rows in "
        f"{first['precision']} on {first['device']}, "
        f"{count_of(first['threads'], 'thread')}, methods taking turns."
    )
    if first["baseline"]:
        caption += f" Factors are relative to {first['baseline']}."
    if any(row["claim"] for row in rows):
        caption += " The paper's claims are those of Frans et al. 2025, relative to flow matching."
    header = (
        "method",
        "forward",
        "backward",
        "GFLOP / update",
        "FLOPs",
        "time (ms)",
        "time",
        "paper's claim",
    )
    lines = []
    for row in rows:
        carried = f" ({row['derivative']:.2f})" if row["derivative"] else ""
        factors = [f"{row[key]:.2f}×" if row[key] else "–" for key in RELATIVE]
        absolute = f"{row['flops'] / 1e9:.2f}", f"{row['milliseconds']:.0f}"
        lines.append(
            (
                row["name"],
                f"{row['forward']:.2f}{carried}",
                f"{row['backward']:.2f}",
                absolute[0],
                factors[0],
                absolute[1],
                factors[1],
                row["claim"] or "–",
            )
        )
    return TextTable(header, lines, caption)


def make_update(policy: Policy, batch_size: int, progress: float, precision: str) -> Update:
    """An update as the trainer does it, on random data: loss, gradient, clipping, step, averaged weights.

    Args:
        policy: Is copied.
        batch_size: Rows.
        progress: Of the training, which decides the phase.
        precision: ``bf16`` or ``fp32``.
    """
    student = copy.deepcopy(policy).train()
    ema = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.999))
    # The rate is small because a network that diverges on random data could run into slow numbers.
    name = policy.metadata.get("optimizer", TrainerConfig.optimizer)
    optimizers = make_optimizers(student, TrainerConfig(optimizer=name, learning_rate=1e-6))
    batch, teacher = _random_batch(policy, batch_size), _teacher(policy, progress)
    draws = Draws(torch.Generator(policy.device).manual_seed(0))

    def update() -> None:
        with torch.autocast(policy.device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses, _ = student(**batch, ema=ema.module, draws=draws, progress=progress, teacher=teacher)
        for optimizer in optimizers:
            optimizer.zero_grad()
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        ema.update_parameters(student)

    return update


def take_turns(
    updates: Mapping[Key, Update],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    warm_up: int = 3,
) -> dict[Key, float]:
    """Median milliseconds of each; alternatives take turns, so that noise meets all alike."""
    times: dict[Key, list[float]] = {key: [] for key in updates}
    for number in range(rounds + warm_up):
        for key, update in updates.items():
            start = clock()
            update()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warm_up:
                times[key].append(1000 * (clock() - start))
    return {key: statistics.median(values) for key, values in times.items()}


def _batch_size(policy: Policy) -> int:
    return int(policy.metadata["batch_size"])


def _evaluations(phase: PhaseCost) -> tuple[float, float, float]:
    """Phases with the same evaluations need to be timed once."""
    return phase.forward, phase.derivative, phase.backward


def _row(policy: Policy, phases: Sequence[PhaseCost], milliseconds: Sequence[float]) -> dict[str, Any]:
    counted = ("forward", "derivative", "backward", "flops")
    means = {key: phase_mean(phases, [getattr(phase, key) for phase in phases]) for key in counted}
    return {
        **means,
        "milliseconds": phase_mean(phases, milliseconds),
        "phases": [
            asdict(phase) | {"milliseconds": value} for phase, value in zip(phases, milliseconds, strict=True)
        ],
        "batch_size": _batch_size(policy),
        "parameters": policy.metadata["parameters"],
        "device": device_name(policy.device),
        "threads": torch.get_num_threads(),
    }


def _count(policy: Policy, batch_size: int, start: float, end: float) -> PhaseCost:
    progress, batch = (start + end) / 2, _random_batch(policy, batch_size)
    student, ema = copy.deepcopy(policy).train(), copy.deepcopy(policy).requires_grad_(False)
    draws = Draws(torch.Generator(policy.device).manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        losses, _ = student(
            **batch, ema=ema, draws=draws, progress=progress, teacher=_teacher(policy, progress)
        )
        losses.mean().backward()
    counted = evaluations(policy, batch, progress)
    return PhaseCost(
        start, end, counted.forward, counted.derivative, counted.backward, flops=counter.get_total_flops()
    )


def _teacher(policy: Policy, progress: float) -> Policy | None:
    """The teacher that the objective has at this point, if any: of the same size."""
    if teacher_phase(policy.objective, progress) == 0:
        return None
    return copy.deepcopy(policy).requires_grad_(False).eval()


def _random_batch(policy: Policy, batch_size: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(batch_size, *shape, generator=generator).to(policy.device)

    obs = {name: normal(policy.n_obs_steps, *shape) for name, shape in policy.obs_shapes.items()}
    obs |= {name: obs[name].mul(50).add(128).clamp(0, 255).byte() for name in policy.cameras}
    return {"obs": obs, "action": normal(policy.horizon, policy.action_dim)}
