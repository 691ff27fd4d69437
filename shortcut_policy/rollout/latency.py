"""How long a robot waits for an action chunk."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from shortcut_policy.adaptive import time_calls
from shortcut_policy.policy import Policy


@dataclass(frozen=True)
class Latency:
    """Wall-clock of `Policy.act` on one observation, in milliseconds.

    Attributes:
        p50: Median.
        p95: 95th percentile.
        repeats: Calls measured, after the warm-up.
        device: Name of the processor.
        threads: Threads torch computes with; 1 on a GPU says nothing.
    """

    p50: float
    p95: float
    repeats: int
    device: str
    threads: int


def measure_latency(
    policy: Policy, steps: int, repeats: int = 100, warm_up: int = 3, seconds: float = 10.0
) -> Latency:
    """Time ``policy.act`` at batch size 1, up to and including the copy of the actions to the host.

    Args:
        policy: The policy, on the device to measure.
        steps: Sampling steps.
        repeats: Calls to measure; slow policies stop early, see ``seconds``.
        warm_up: Calls before the clock starts (allocator, kernel choice).
        seconds: Stop after this long, but never before 10 calls.
    """
    return summarise_calls(time_calls(_call(policy, steps), repeats, warm_up, seconds), policy.device)


def latencies_in_turns(
    policies: Sequence[tuple[Policy, int]], rounds: int = 5, repeats: int = 20, seconds: float = 5.0
) -> list[Latency]:
    """`measure_latency` of several policies and their steps, a few calls of each in its turn, several times.

    What slows the machine for a while slows some calls of all of them, and not all calls of some.

    Args:
        policies: Policies and the steps of each.
        rounds: Turns of each.
        repeats: Calls of a turn; slow policies make fewer, see `time_calls`.
        seconds: A policy whose calls have taken so long has no further turn.
    """
    calls = [_call(policy, steps) for policy, steps in policies]
    milliseconds: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, own in zip(calls, milliseconds, strict=True):
            if sum(own) < 1000 * seconds:
                own += time_calls(call, repeats, seconds=seconds / rounds)
    return [
        summarise_calls(own, policy.device) for own, (policy, _) in zip(milliseconds, policies, strict=True)
    ]


def _call(policy: Policy, steps: int) -> Callable[[], torch.Tensor]:
    """Acts on one observation, from the middle of the data: zeros may be far from them."""
    obs = {}
    for name, shape in policy.obs_shapes.items():
        middle = torch.zeros((1, policy.n_obs_steps, *shape), device=policy.device)
        dtype = torch.uint8 if name in policy.cameras else torch.float32
        obs[name] = policy.normalizer.unnormalize(name, middle).to(dtype)
    generator = torch.Generator().manual_seed(0)
    return lambda: policy.act(obs, steps=steps, generator=[generator]).cpu()


def summarise_calls(milliseconds: Sequence[float], device: torch.device) -> Latency:
    """The latency that calls on ``device`` of this many ``milliseconds`` amount to."""
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Latency(float(p50), float(p95), len(milliseconds), device_name(device), torch.get_num_threads())


def device_name(device: torch.device) -> str:
    """The name of the processor behind ``device``, as its maker sells it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
