"""How long a robot waits for actions: of the policy, its exports, its earlier build, LeRobot's policy.

    OMP_NUM_THREADS=1 python benchmarks/act.py [--old 28240b4] [--lerobot PYTHON] [--rounds 3]

Batches of one observation, from NumPy to the executed actions, on one thread. Every row has a process of its
own, as on a robot: runtimes in one process disturb each other's memory and threads. They take turns, a block
of calls each, several times, so that what slows the machine slows all of them. ``--old`` is a commit of this
repository, which is cloned; ``--lerobot`` an interpreter of Python 3.12 with LeRobot 0.6.1
(``pip install "lerobot[diffusion]==0.6.1"``): its DiffusionPolicy gets a UNet of our widths.

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
from contextlib import ExitStack
from dataclasses import dataclass, field
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

SMALL, IMAGE, LARGE = "4.5M", "4.5M and light encoder, one 96 x 96 camera", "66M"
#: Runtime, precision, network and steps of our own rows.
OWN = (
    ("eager", "fp32", SMALL, 1),
    ("onnx", "fp32", SMALL, 1),
    ("openvino", "fp32", SMALL, 1),
    ("openvino", "bf16", SMALL, 1),
    ("openvino", "int8", SMALL, 1),
    ("inductor", "fp32", SMALL, 1),
    ("aoti", "fp32", SMALL, 1),
    ("aoti", "bf16", SMALL, 1),
    ("eager", "fp32", SMALL, 16),
    ("onnx", "fp32", SMALL, 16),
    ("openvino", "fp32", SMALL, 16),
    ("eager", "fp32", IMAGE, 1),
    ("onnx", "fp32", IMAGE, 1),
    ("openvino", "fp32", IMAGE, 1),
    ("eager", "fp32", LARGE, 1),
    ("openvino", "fp32", LARGE, 1),
    ("openvino", "bf16", LARGE, 1),
    ("openvino", "int8", LARGE, 1),
)
#: What a row's process does, once ``call`` is there: says so, then times as many calls as it is asked for.
BLOCKS = """
print("ready", flush=True)
while (line := sys.stdin.readline()):
    times = []
    for _ in range(int(line)):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
        if len(times) > 12 and sum(times) > 3000:
            break
    print(json.dumps(times), flush=True)
"""
OURS = """
import json, sys, time
sys.path.insert(0, {folder!r})
from act import call_of
call = call_of(*{row!r})
"""
PEER = """
import json, sys, time
import numpy as np, torch
sys.path.insert(0, {folder!r})
torch.set_num_threads(1)
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


@dataclass
class Row:
    """A line of the table, the program whose process measures it, and its times so far in ms."""

    runtime: str
    precision: str
    network: str
    steps: int
    python: str
    code: str
    times: list[float] = field(default_factory=list)

    def start(self, stack: ExitStack) -> "subprocess.Popen[str]":
        """Its process, once all is made that is timed."""
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [self.python, "-c", self.code + BLOCKS]
        process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        stack.callback(process.kill)
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "ready\n":  # compilers print as well
            if not line:
                sys.exit(f"{self.runtime} {self.precision}, {self.network}: its process ended, see above")
        seconds = time.perf_counter() - began
        print(f"{self.runtime} {self.precision}, {self.network}, {self.steps} steps: {seconds:.0f} s to make")
        return process

    def measure(self, process: "subprocess.Popen[str]", calls: int) -> None:
        """Another block; without its first calls, which find cold caches."""
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{calls + 10}\n")
        process.stdin.flush()
        self.times += json.loads(process.stdout.readline())[10:]

    def result(self) -> dict[str, Any]:
        """As it is written."""
        p50, p95 = np.percentile(self.times, (50, 95))
        found = {name: getattr(self, name) for name in ("runtime", "precision", "network", "steps")}
        return found | {
            "p50_ms": round(float(p50), 3),
            "p95_ms": round(float(p95), 3),
            "device": device_name(torch.device("cpu")),
        }


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
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        rows = own_rows(options.quick) + list(peers(options.old, options.lerobot, Path(folder)))
        processes = [row.start(stack) for row in rows]
        for _ in range(options.rounds):
            for row, process in zip(rows, processes, strict=True):
                row.measure(process, options.calls)
    results = [row.result() for row in rows]
    found = {
        "command": command_line(),
        "commit": commit(),
        "versions": library_versions(),
        "threads": torch.get_num_threads(),
        "limit": limit(),
        "rows": results,
    }
    write_atomic(ROOT / "results" / "act" / "results.json", json.dumps(found, indent=2) + "\n")
    write_into(ROOT / "docs" / "fast_act.md", "act", table(results))
    print(table(results), json.dumps(found["limit"]), sep="\n")


def own_rows(quick: bool) -> list[Row]:
    """Those of this build; ``quick``: without what compiles for minutes, and the large network."""
    wanted = [row for row in OWN if not quick or not _slow(*row)]
    return [
        Row(*row, sys.executable, OURS.format(folder=str(Path(__file__).parent), row=row)) for row in wanted
    ]


def _slow(runtime: str, precision: str, network: str, steps: int) -> bool:
    return runtime in ("aoti", "inductor") or network == LARGE or (steps > 1 and runtime != "eager")


def call_of(runtime: str, precision: str, network: str, steps: int) -> Call:
    """What a robot's loop calls, in the process of a row."""
    torch.set_num_threads(1)
    keypoint, place = Field("keypoint", (9, 2)), Field("state", (2,))
    if network == SMALL:
        policy = load_policy(CHECKPOINT)
    elif network == LARGE:
        policy = untrained({"keypoint": keypoint, "agent_pos": place}, "unet_large")
    else:
        image = Field("img", (96, 96, 3), normalize="image")
        policy = untrained({"image": image, "agent_pos": place}, encoder="image_light")
    if runtime != "eager":
        policy = policy.compile(runtime, steps=steps, precision=precision)
    return acting(policy, steps)


def untrained(obs: dict[str, Field], backbone: str = "unet", encoder: str = "lowdim") -> Policy:
    """Random weights and statistics: times do not depend on them."""
    action = Field("action", (2,))
    policy = Policy.build(obs, action, backbone=backbone, encoder=encoder)
    fields, statistics = {**obs, "action": action}, {}
    for name, one in fields.items():
        if one.normalize == "limits":
            statistics[name] = RunningStatistics()
            statistics[name].update(np.stack([np.zeros(one.shape), np.full(one.shape, 512.0)]))
    policy.normalizer = Normalizer(fields, statistics)
    return policy.eval()


def acting(policy: Policy, steps: int) -> Call:
    """From arrays to an array, as in a robot's loop."""
    obs = {name: value.numpy() for name, value in example_inputs(policy, 1)[0].items()}
    generator = torch.Generator().manual_seed(0)
    return lambda: policy.act(obs, steps, generator).numpy()


def peers(old: str, lerobot: str | None, folder: Path) -> Iterator[Row]:
    """Rows of another build and of another library."""
    if old:
        clone = folder / "old"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run(["git", "-C", str(clone), "checkout", "--quiet", old], check=True)
        code = OLD.format(folder=str(clone), checkpoint=str(clone / CHECKPOINT.relative_to(ROOT)))
        yield Row(f"eager_{old}", "fp32", SMALL, 1, sys.executable, PEER.format(folder=str(clone)) + code)
    if lerobot:
        for name, scheduler, steps in (("ddpm100", "DDPM", 100), ("ddim10", "DDIM", 10), ("1", "DDIM", 1)):
            code = LEROBOT.format(scheduler=scheduler, steps=steps)
            yield Row(f"lerobot_{name}", "fp32", SMALL, steps, lerobot, PEER.format(folder="") + code)


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
        old = [r for r in rows if r["runtime"].startswith("eager_") and row["network"] == SMALL]
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
