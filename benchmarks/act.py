"""How long a robot waits for actions: of the policy, its exports, its earlier build, LeRobot's policy.

    OMP_NUM_THREADS=1 python benchmarks/act.py [--old 28240b4] [--lerobot PYTHON] [--rounds 3]

Batches of one observation, from NumPy to the executed actions, on one thread. Rows take turns: a block of
calls each, several times, so that what slows the machine slows all of them. ``--old`` is a commit of this
repository, cloned and measured in a process of its own; ``--lerobot`` an interpreter of Python 3.12 with
LeRobot 0.6.1 (``pip install "lerobot[diffusion]==0.6.1"``): its DiffusionPolicy gets a UNet of our widths.

``results/act/results.json`` has the ``rows``, and as ``limit`` what the core reads in a second and how
long the weights that are left in the graph take at that rate; ``docs/fast_act.md`` gets the table.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortcut_policy import Field, Policy, load_policy
from shortcut_policy.benchmark.text_table import write_into
from shortcut_policy.data import Normalizer
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.runtimes.graph import example_inputs, make_program

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "pretrained" / "pusht"
Call = Callable[[], Any]

#: Runtime and precision of the shipped policy at one step; those that are also measured at 16 steps.
RUNTIMES = (
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("inductor", "fp32"),
    ("aoti", "fp32"),
    ("aoti", "bf16"),
)
SIXTEEN = ("openvino", "fp32")
PEER = """
import json, sys, time
import numpy as np, torch
sys.path.insert(0, {folder!r})
torch.set_num_threads(1)
{make}
while (line := sys.stdin.readline()):
    times = []
    for _ in range(int(line)):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    print(json.dumps(times), flush=True)
"""
OLD = """
sys.path.insert(0, {folder!r} + "/envs")
from shortcut_policy import load_policy
policy = load_policy({checkpoint!r})
obs = {{"keypoint": np.full((1, 2, 9, 2), 256, np.float32), "agent_pos": np.full((1, 2, 2), 256, np.float32)}}
call = lambda: policy.act(obs, steps=1).numpy()
"""
LEROBOT = """
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
state = PolicyFeature(type=FeatureType.STATE, shape=(20,))
config = DiffusionConfig(
    input_features={{"observation.state": state, "observation.environment_state": PolicyFeature(
        type=FeatureType.ENV, shape=(1,))}},
    output_features={{"action": PolicyFeature(type=FeatureType.ACTION, shape=(2,))}},
    down_dims=(64, 128, 256), kernel_size=3, horizon=16, n_obs_steps=2, n_action_steps=8, device="cpu",
    noise_scheduler_type={scheduler!r}, num_inference_steps={steps},
)
policy = DiffusionPolicy(config).eval()
obs = {{"observation.state": torch.zeros(1, 20), "observation.environment_state": torch.zeros(1, 1)}}
def call():
    policy.reset()
    with torch.no_grad():
        return policy.select_action(dict(obs)).numpy()
"""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", default="28240b4", help="commit of the earlier build; '' for none")
    parser.add_argument("--lerobot", help="interpreter with LeRobot 0.6.1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=150, help="of a block; slow rows make fewer")
    parser.add_argument("--quick", action="store_true", help="without what takes minutes to make")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows, blocks = own_rows(options.quick)
        with peers(options, Path(folder)) as more:
            for row, block in more:
                rows.append(row)
                blocks.append(block)
            times: list[list[float]] = [[] for _ in rows]
            for _ in range(options.rounds):
                for number, block in enumerate(blocks):
                    times[number] += block(options.calls)
    device = device_name(torch.device("cpu"))
    for row, own in zip(rows, times, strict=True):
        p50, p95 = np.percentile(own, (50, 95))
        row |= {"p50_ms": round(float(p50), 3), "p95_ms": round(float(p95), 3), "device": device}
    found = {
        "command": command_line(),
        "commit": commit(),
        "versions": library_versions(),
        "threads": torch.get_num_threads(),
        "limit": limit(),
        "rows": rows,
    }
    write_atomic(ROOT / "results" / "act" / "results.json", json.dumps(found, indent=2) + "\n")
    write_into(ROOT / "docs" / "fast_act.md", "act", table(rows))
    print(table(rows), json.dumps(found["limit"]), sep="\n")


def own_rows(quick: bool) -> tuple[list[dict[str, Any]], list[Callable[[int], list[float]]]]:
    """Rows without their times, and what times a block of calls of each."""
    small = load_policy(CHECKPOINT)
    image = untrained(
        {"image": Field("img", (96, 96, 3), normalize="image"), "agent_pos": Field("state", (2,))},
        encoder="image_light",
    )
    found: list[tuple[str, str, str, int, Policy]] = [
        ("eager", "fp32", "4.5M", 1, small),
        ("eager", "fp32", "4.5M", 16, small),
        ("eager", "fp32", "4.5M and light encoder, one 96 x 96 camera", 1, image),
    ]
    for runtime, precision in RUNTIMES:
        if quick and runtime in ("aoti", "inductor"):
            continue
        found.append((runtime, precision, "4.5M", 1, compiled(small, runtime, 1, precision)))
    if not quick:
        found.append((*SIXTEEN, "4.5M", 16, compiled(small, SIXTEEN[0], 16, SIXTEEN[1])))
    for runtime in ("onnx", "openvino"):
        fast = compiled(image, runtime, 1, "fp32")
        found.append((runtime, "fp32", "4.5M and light encoder, one 96 x 96 camera", 1, fast))
    if not quick:
        large = untrained(
            {"keypoint": Field("keypoint", (9, 2)), "agent_pos": Field("state", (2,))}, "unet_large"
        )
        found.append(("eager", "fp32", "66M", 1, large))
        for precision in ("fp32", "bf16"):
            found.append(("openvino", precision, "66M", 1, compiled(large, "openvino", 1, precision)))
    keys = ("runtime", "precision", "network", "steps")
    rows = [dict(zip(keys, row[:4], strict=True)) for row in found]
    return rows, [timed(acting(policy, steps)) for *_, steps, policy in found]


def compiled(policy: Policy, runtime: str, steps: int, precision: str) -> Policy:
    """With a line that says what is being made: some take minutes."""
    start = time.perf_counter()
    fast = policy.compile(runtime, steps=steps, precision=precision)
    print(f"{runtime} {precision}, {steps} steps: made in {time.perf_counter() - start:.0f} s", flush=True)
    return fast


def untrained(obs: dict[str, Field], backbone: str = "unet", encoder: str = "lowdim") -> Policy:
    """Random weights and statistics: times do not depend on them."""
    action = Field("action", (2,))
    policy = Policy.build(obs, action, backbone=backbone, encoder=encoder)
    fields, statistics = {**obs, "action": action}, {}
    for name, field in fields.items():
        if field.normalize == "limits":
            statistics[name] = RunningStatistics()
            statistics[name].update(np.stack([np.zeros(field.shape), np.full(field.shape, 512.0)]))
    policy.normalizer = Normalizer(fields, statistics)
    return policy.eval()


def acting(policy: Policy, steps: int) -> Call:
    """From arrays to an array, as in a robot's loop."""
    obs = {name: value.numpy() for name, value in example_inputs(policy, 1)[0].items()}
    generator = torch.Generator().manual_seed(0)
    return lambda: policy.act(obs, steps, generator).numpy()


def timed(call: Call) -> Callable[[int], list[float]]:
    """Milliseconds of each call of a block; at most three seconds of them, and ten to warm up."""

    def block(calls: int) -> list[float]:
        times: list[float] = []
        for number in range(calls + 10):
            start = time.perf_counter()
            call()
            times.append(1000 * (time.perf_counter() - start))
            if number >= 13 and sum(times) > 3000:
                break
        return times[10:]

    return block


@contextmanager
def peers(
    options: argparse.Namespace, folder: Path
) -> Iterator[list[tuple[dict[str, Any], Callable[[int], list[float]]]]]:
    """Rows that need another interpreter or another build, each in a process that waits for its turn."""
    codes: list[tuple[str, str, int, str, int]] = []
    if options.old:
        clone = folder / "old"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", options.old], check=True)
        checkpoint = clone / CHECKPOINT.relative_to(ROOT)
        make = OLD.format(folder=str(clone), checkpoint=str(checkpoint))
        code = PEER.format(folder=str(clone), make=make)
        codes.append((sys.executable, f"eager_{options.old}", 1, code, options.calls))
    if options.lerobot:
        for name, scheduler, steps in (("ddpm100", "DDPM", 100), ("ddim10", "DDIM", 10), ("1", "DDIM", 1)):
            code = PEER.format(folder="", make=LEROBOT.format(scheduler=scheduler, steps=steps))
            codes.append((options.lerobot, f"lerobot_{name}", steps, code, max(4, options.calls // steps)))
    environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [python, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for python, _, _, code, _ in codes
    ]
    try:
        yield [
            (
                {"runtime": name, "precision": "fp32", "network": "4.5M", "steps": steps},
                lambda _, process=process, calls=calls: ask(process, calls),
            )
            for (_, name, steps, _, calls), process in zip(codes, started, strict=True)
        ]
    finally:
        for process in started:
            process.kill()


def ask(process: "subprocess.Popen[str]", calls: int) -> list[float]:
    """The times of a block in another process, without its first calls."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{calls + 3}\n")
    process.stdin.flush()
    times: list[float] = json.loads(process.stdout.readline())
    return times[3:]


def limit() -> dict[str, Any]:
    """How fast this core reads what its own caches do not hold, and what that means for the weights."""
    policy = load_policy(CHECKPOINT)
    program = make_program(policy, 1, None, 1)
    constant = sum(
        p.numel() for name, p in policy.named_parameters() if ".embed_" in name or ".film.weight" in name
    )
    cond = policy.encoder.cond_dim
    films = [p for name, p in policy.named_parameters() if ".film.weight" in name]
    left = sum(p.numel() for p in program.parameters()) - constant + sum(len(p) * cond for p in films)
    numbers = torch.randn(left)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        numbers.sum()
        times.append(time.perf_counter() - start)
    rate = 4 * left / float(np.median(times)) / 1e9
    return {
        "weights_mb": round(4 * sum(p.numel() for p in policy.parameters()) / 1e6, 1),
        "weights_left_mb": round(4 * left / 1e6, 1),
        "read_gb_per_s": round(rate, 1),
        "fp32_ms": round(4e-6 * left / rate, 3),
        "bf16_ms": round(2e-6 * left / rate, 3),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown, with the ratio to the policy itself at one step of the same network."""
    lines = [
        "| runtime | precision | network | steps | p50 ms | p95 ms | as fast |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        old = [r for r in rows if r["runtime"].startswith("eager_") and row["network"] == "4.5M"]
        own = [r for r in rows if r["runtime"] == "eager" and r["network"] == row["network"]]
        reference = (old or own)[0]["p50_ms"]
        ratio = f"{reference / row['p50_ms']:.1f}x" if row["steps"] == 1 else ""
        cells = (
            row["runtime"],
            row["precision"],
            row["network"],
            row["steps"],
            row["p50_ms"],
            row["p95_ms"],
            ratio,
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
