"""What cameras cost: latency of acting by encoder, in parts, and memory of a training update by batch.

    OMP_NUM_THREADS=1 python benchmarks/image_encoders.py

Policies of one camera of 96 x 96, cropped to 84, with random weights: times do not depend on these. Encoders
and networks take turns: what slows the machine slows all of them. ``results/image_encoders/results.json``
has ``latency``, rows of one sampling step at batch size 1 with the parts of the encoder and the network, and
``update``, rows of an update of flow matching and of the shortcut policy's second half: its seconds, and
``rss_mb``, the peak beyond a process that has imported the library and built the policy.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortcut_policy.data import Field, Normalizer
from shortcut_policy.objectives import Draws
from shortcut_policy.paths import write_atomic
from shortcut_policy.policy import Policy
from shortcut_policy.provenance import commit
from shortcut_policy.rollout.latency import device_name

ROOT = Path(__file__).resolve().parents[1]
ENCODERS, BATCHES = ("image_light", "image_resnet18"), (16, 64)
OBS = {
    "image": Field("img", (96, 96, 3), normalize="image"),
    "agent_pos": Field("state", (2,), normalize="identity"),
}
ACTION = Field("action", (2,), normalize="identity")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--update", nargs=3, metavar=("ENCODER", "OBJECTIVE", "BATCH"), help=argparse.SUPPRESS
    )
    options = parser.parse_args()
    if options.update:
        print(json.dumps(update(options.update[0], options.update[1], int(options.update[2]))))
        return
    found = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/image_encoders.py",
        "commit": commit(),
        "device": device_name(torch.device("cpu")),
        "threads": torch.get_num_threads(),
        "latency": latency(options.rounds),
        "update": [
            in_process(encoder, objective, batch)
            for encoder in ENCODERS
            for objective in ("flow_matching", "shortcut")
            for batch in BATCHES
        ],
    }
    write_atomic(ROOT / "results" / "image_encoders" / "results.json", json.dumps(found, indent=2) + "\n")
    for row in (*found["latency"], *found["update"]):
        print(row)


def make(encoder: str, objective: str = "shortcut", backbone: str = "unet") -> Policy:
    """A policy with random weights, ready to act."""
    policy = Policy.build(OBS, ACTION, encoder=encoder, objective=objective, backbone=backbone)
    policy.normalizer = Normalizer({**OBS, "action": ACTION}, {})  # these fields need no statistics
    return policy.eval()


@torch.no_grad()
def latency(rounds: int) -> list[dict[str, Any]]:
    """Rows of the table of latencies."""
    policies = [(e, b, make(e, backbone=b)) for e in ENCODERS for b in ("unet_small", "unet")]
    obs = {
        "image": torch.randint(0, 256, (1, 2, 96, 96, 3), dtype=torch.uint8),
        "agent_pos": torch.zeros(1, 2, 2),
    }
    times: dict[tuple[int, str], list[float]] = {}
    for round_ in range(rounds + 3):
        for number, (_, _, policy) in enumerate(policies):
            cond, noise = policy.encode(obs), torch.randn(1, policy.horizon, policy.action_dim)
            parts = {
                "act": lambda policy=policy: policy.act(obs),
                "encoder": lambda policy=policy: policy.encode(obs),
                "network": lambda policy=policy, noise=noise, cond=cond: policy.objective.sample(
                    policy.backbone, noise, cond, 1
                ),
            }
            for name, call in parts.items():
                start = time.perf_counter()
                call()
                if round_ >= 3:
                    times.setdefault((number, name), []).append(1000 * (time.perf_counter() - start))
    return [
        {
            "encoder": encoder,
            "backbone": backbone,
            "parameters": sum(p.numel() for p in policy.parameters()),
            "act_ms_p50": round(float(np.median(times[number, "act"])), 3),
            "act_ms_p95": round(float(np.percentile(times[number, "act"], 95)), 3),
            "encoder_ms_p50": round(float(np.median(times[number, "encoder"])), 3),
            "network_ms_p50": round(float(np.median(times[number, "network"])), 3),
        }
        for number, (encoder, backbone, policy) in enumerate(policies)
    ]


def in_process(encoder: str, objective: str, batch: int) -> dict[str, Any]:
    """`update` in a process of its own, whose peak is that of nothing else."""
    command = [sys.executable, __file__, "--update", encoder, objective, str(batch)]
    row: dict[str, Any] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True).stdout
    )
    return row


def update(encoder: str, objective: str, batch: int) -> dict[str, Any]:
    """One update after another; the median of their times and the memory that they took."""
    policy, ema = make(encoder, objective).train(), make(encoder, objective)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    given = {
        "obs": {
            "image": torch.randint(0, 256, (batch, 2, 96, 96, 3), dtype=torch.uint8),
            "agent_pos": torch.zeros(batch, 2, 2),
        },
        "action": torch.zeros(batch, 16, 2),
    }
    before, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for step in range(4):
        start = time.perf_counter()
        draws = Draws(torch.Generator().manual_seed(step))
        policy(**given, ema=ema, draws=draws, progress=0.75)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "encoder": encoder,
        "objective": objective,
        "batch_size": batch,
        "rss_mb": round((peak - before) / 1024),
        "seconds": round(float(np.median(seconds[1:])), 3),
    }


if __name__ == "__main__":
    main()
