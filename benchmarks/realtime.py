"""A control loop against the wall clock: how late its steps begin, and how many deadlines are missed.

python benchmarks/realtime.py [--rates 10 50 200] [--seconds 20] [--background thread]

An observation and an action a step, with a policy that infers beside the loop (`ChunkExecutor`). Then 100,000
steps of an executor without a network and without waiting, for the memory that it keeps.
"""

import argparse
import json
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure

from shortcut_policy import Policy, load_policy
from shortcut_policy.figures import COLOURS, STYLE, save
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.chunk_executor import ChunkExecutor
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.rollout.policy_planner import executor_of

PERCENTILES = {"p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}
GROWTH_STEPS, WARM_STEPS = 100_000, 10_000


class Still:
    """A planner that has nothing to compute."""

    chunk = np.zeros((15, 2), np.float32)

    def plan(self, history: Mapping[str, np.ndarray], prefix: np.ndarray | None) -> np.ndarray:
        """Zeros (15, 2)."""
        return self.chunk


def run_loop(policy: Policy, rate_hz: float, seconds: float, background: Any) -> dict[str, Any]:
    """Loop for so many seconds; a step that begins after the next one is due is left out and counted."""
    random = np.random.default_rng(0)
    seen = [
        {
            name: random.uniform(100, 400, shape).astype(np.float32)
            for name, shape in policy.obs_shapes.items()
        }
        for _ in range(64)
    ]
    late, took, skipped = [], [], 0
    with executor_of(policy, rate_hz, background=background) as executor:
        executor.observe(seen[0], time.monotonic())
        executor.action(time.monotonic())  # warm: the first call chooses kernels
        executor.reset()
        start, step = time.monotonic() + 0.1, 0
        while step < rate_hz * seconds:
            due = start + step / rate_hz
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            executor.observe(seen[step % len(seen)], began)
            executor.action(began)
            late.append(1000 * (began - due))
            took.append(1000 * (time.monotonic() - began))
            behind = int((time.monotonic() - start) * rate_hz) - step
            skipped += max(0, behind - 1)
            step += max(1, behind)
        counts = executor.counts
    return {
        "rate_hz": rate_hz,
        "background": background,
        "seconds": seconds,
        "late_ms": percentiles(late),
        "call_ms": percentiles(took),
        "skipped_steps": skipped,
        **asdict(counts),
        "histogram_of_late_ms": histogram(late),
    }


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Those of `PERCENTILES`."""
    found = np.percentile(values, list(PERCENTILES.values()))
    return {name: round(float(value), 4) for name, value in zip(PERCENTILES, found, strict=True)}


def histogram(milliseconds: Sequence[float]) -> dict[str, list[float]]:
    """Counts between logarithmic edges, from a microsecond to ten seconds."""
    edges = np.logspace(-3, 4, 71)
    counts, _ = np.histogram(np.clip(milliseconds, edges[0], edges[-1]), edges)
    return {"edges": edges.round(6).tolist(), "counts": counts.tolist()}


def growth(steps: int = GROWTH_STEPS) -> dict[str, Any]:
    """Bytes of Python that an executor has kept more after ``steps`` steps than after the first ones."""
    obs, kept = {"state": np.zeros(2)}, 0
    with ChunkExecutor(Still(), 50, 2, 8, background="thread", clock=lambda: 0.0) as executor:
        tracemalloc.start()
        for step in range(WARM_STEPS + steps):
            if step == WARM_STEPS:
                kept = tracemalloc.get_traced_memory()[0]
            executor.observe(obs, step / 50)
            executor.action(step / 50)
        more = tracemalloc.get_traced_memory()[0] - kept
        tracemalloc.stop()
    return {"steps": steps, "bytes": more, "chunks": executor.counts.chunks}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """How late the steps of each loop began."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.7 * len(rows), 3.4), layout="constrained")
        for axes, row, colour in zip(
            figure.subplots(1, len(rows), squeeze=False)[0], rows, COLOURS, strict=False
        ):
            found = row["histogram_of_late_ms"]
            axes.stairs(found["counts"], found["edges"], fill=True, color=colour)
            axes.axvline(1000 / row["rate_hz"], color="#888888", linestyle=":")
            axes.set(xscale="log", yscale="log", xlabel="late by (ms)", xlim=(1e-2, 1e3))
            axes.set_title(f"{row['rate_hz']:g} Hz: {row['misses']} of {row['actions']} missed", fontsize=10)
        figure.axes[0].set_ylabel("steps")
        save(figure, path)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="pretrained/pusht")
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 50, 200])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--background", default="thread", choices=["none", "thread", "process"])
    parser.add_argument("--threads", type=int, default=1, help="that torch computes with")
    parser.add_argument("--publish", type=Path, default=Path("results/realtime"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy = load_policy(arguments.checkpoint)
    rows = [run_loop(policy, rate, arguments.seconds, arguments.background) for rate in arguments.rates]
    for row in rows:
        print(
            f"{row['rate_hz']:g} Hz: steps begin {row['late_ms']['p50']:.2f} ms late (p50), "
            f"{row['late_ms']['p99.9']:.2f} (p99.9); a call takes {row['call_ms']['p99.9']:.2f} ms (p99.9); "
            f"{row['misses']} of {row['actions']} deadlines missed, {row['skipped_steps']} steps left out"
        )
    kept = growth()
    print(f"{kept['steps']} steps more keep {kept['bytes']} bytes more")
    results = {
        "command": command_line(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": device_name(policy.device),
        "threads": arguments.threads,
        "rows": rows,
        "growth": kept,
    }
    write_atomic(arguments.publish / "results.json", json.dumps(results, indent=2) + "\n")
    draw(rows, arguments.publish / "late.png")


if __name__ == "__main__":
    main()
