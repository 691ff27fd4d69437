"""Time of `Policy.act` at batch size 1: one shortcut step against DDPM's 100 on the same network.

python benchmarks/latency.py [--device cuda] [overrides of configs/train.yaml, such as backbone=unet_large]
"""

import argparse

from policies import untrained_policy
from rich.console import Console
from rich.table import Table

from shortcut_policy.rollout.latency import latencies_in_turns

CASES = (
    ("shortcut", 1),
    ("shortcut", 2),
    ("shortcut", 4),
    ("shortcut", 16),
    ("diffusion", 10),
    ("diffusion", 100),
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    policies = {
        name: untrained_policy(f"objective={name}", *arguments.overrides, device=arguments.device)
        for name in dict(CASES)
    }
    found = latencies_in_turns([(policies[name], steps) for name, steps in CASES])
    results = dict(zip(CASES, found, strict=True))
    slowest = results["diffusion", 100]
    parameters = sum(p.numel() for p in policies["shortcut"].parameters()) / 1e6
    table = Table(
        "method", "steps", "p50 (ms)", "p95 (ms)", "times faster than DDPM",
        title=f"{parameters:.1f}M parameters, batch size 1, {slowest.device}, threads: {slowest.threads}",
    )  # fmt: skip
    for (name, steps), latency in results.items():
        row = (
            name,
            str(steps),
            f"{latency.p50:.2f}",
            f"{latency.p95:.2f}",
            f"{slowest.p50 / latency.p50:.1f}",
        )
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
