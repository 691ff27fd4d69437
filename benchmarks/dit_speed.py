"""Speed of the transformer over images beside diffusers' of the same size, both in turns; and its memory.

    python benchmarks/dit_speed.py --sizes S B --batch 128 --device cuda
    python benchmarks/dit_speed.py --sizes 128x4x4 --channels 1 --side 8 --classes 10

Prints Markdown, and writes JSON with --output. Training is forward, backward and AdamW's step on one batch;
sampling is one step, a single evaluation.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from shortcut_policy.backbones import ImageDit
from shortcut_policy.backbones.dit import DitSize, dit_size
from shortcut_policy.benchmark.compute import take_turns
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.latency import device_name

Batch = dict[str, Tensor]
Forward = Callable[[Batch], Tensor]


def ours(size: DitSize, arguments: argparse.Namespace, recompute: bool = False) -> tuple[nn.Module, Forward]:
    """Our network and how to call it."""
    shape = arguments.channels, arguments.side, arguments.side
    network = ImageDit(shape, arguments.classes, vars(size), arguments.patch, recompute=recompute)
    return network, lambda batch: network(batch["x"], batch["t"], batch["d"], batch["cond"])


def theirs(size: DitSize, arguments: argparse.Namespace) -> tuple[nn.Module, Forward]:
    """The network of diffusers, which embeds a class and one time."""
    network = DiTTransformer2DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.width // size.heads,
        in_channels=arguments.channels,
        num_layers=size.depth,
        sample_size=arguments.side,
        patch_size=arguments.patch,
        num_embeds_ada_norm=arguments.classes,
    )
    return network, lambda batch: network(batch["x"], batch["level"], batch["labels"]).sample


def make_batch(rows: int, arguments: argparse.Namespace) -> Batch:
    """Random images, times and classes, as both networks take them."""
    device, side = arguments.device, arguments.side
    labels, t = torch.arange(rows, device=device) % arguments.classes, torch.rand(rows, device=device)
    return {
        "x": torch.randn(rows, arguments.channels, side, side, device=device),
        "t": t,
        "d": torch.zeros_like(t),
        "cond": nn.functional.one_hot(labels, arguments.classes).float(),
        "level": (1000 * t).long(),
        "labels": labels,
    }


def make_update(network: nn.Module, forward: Forward, batch: Batch, bf16: bool) -> Callable[[], None]:
    """Forward, backward and a step of AdamW."""
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=True)

    def update() -> None:
        with torch.autocast(batch["x"].device.type, torch.bfloat16, enabled=bf16):
            loss = (forward(batch).float() - batch["x"]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return update


def make_sampler(forward: Forward, batch: Batch, bf16: bool) -> Callable[[], None]:
    """One step from noise to images."""

    @torch.no_grad()
    def sample() -> None:
        with torch.autocast(batch["x"].device.type, torch.bfloat16, enabled=bf16):
            forward(batch)

    return sample


def speed(size: str, bf16: bool, compiled: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """Images a second of both networks, in training and in sampling."""
    row: dict[str, Any] = {
        "size": size,
        "precision": "bf16" if bf16 else "fp32",
        "mode": "compiled" if compiled else "eager",
    }
    batch, jobs = make_batch(arguments.batch, arguments), {}
    for name, make in (("ours", ours), ("diffusers", theirs)):
        network, forward = make(named_size(size), arguments)
        network.to(arguments.device).train()
        if compiled:
            network.compile()
        row[f"{name}_parameters"] = sum(p.numel() for p in network.parameters())
        jobs[name, "training"] = make_update(network, forward, batch, bf16)
        jobs[name, "sampling"] = make_sampler(forward, batch, bf16)
    clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    for (name, job), milliseconds in take_turns(jobs, arguments.rounds, clock).items():
        row[f"{name}_{job}"] = 1000 * arguments.batch / milliseconds
    return row


def memory(size: str, rows: int, recompute: bool, arguments: argparse.Namespace) -> float:
    """Most memory that a forward and backward pass of ours in bf16 takes, in GiB.

    Measured on a GPU. For a CPU the tensors that are alive at once are counted, without computing anything;
    what kernels need for themselves is not in it.
    """
    if torch.device(arguments.device).type == "cpu":
        MemTracker, FakeTensorMode = counters()
        tracker = MemTracker()
        with FakeTensorMode():
            network, forward = ours(named_size(size), arguments, recompute)
            tracker.track_external(network)
            with tracker:
                _pass(network, forward, rows, arguments)
        return sum(peak["Total"] for peak in tracker.get_tracker_snapshot("peak").values()) / 2**30
    gc.collect()
    torch.cuda.empty_cache()
    network, forward = ours(named_size(size), arguments, recompute)
    network.to(arguments.device)
    torch.cuda.reset_peak_memory_stats()
    try:
        _pass(network, forward, rows, arguments)
    except torch.cuda.OutOfMemoryError:
        return float("nan")
    return torch.cuda.max_memory_allocated() / 2**30


def counters() -> tuple[type, type]:
    """``MemTracker`` and ``FakeTensorMode``, which torch promises nobody: it may move them.

    Raises:
        SystemExit: This torch has them elsewhere.
    """
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.distributed._tools.mem_tracker import MemTracker
    except ImportError as error:
        raise SystemExit(
            f"torch {torch.__version__} cannot count memory without a GPU as other versions can ({error}): "
            "leave it out, with --memory-batches and no number"
        ) from error
    return MemTracker, FakeTensorMode


def _pass(network: nn.Module, forward: Forward, rows: int, arguments: argparse.Namespace) -> None:
    network.train()
    batch = make_batch(rows, arguments)
    with torch.autocast(batch["x"].device.type, torch.bfloat16):
        loss = forward(batch).float().square().mean()
    loss.backward()


def named_size(text: str) -> DitSize:
    """S, B, L or XL, or width x depth x heads, as 128x4x4."""
    if "x" not in text:
        return dit_size(text)
    return dit_size(dict(zip(("width", "depth", "heads"), map(int, text.split("x")), strict=True)))


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the speeds, ours first, and how many times diffusers' they are."""
    lines = [
        "| size | parameters | precision | | training, images/s | one step, samples/s |",
        "|:--" * 6 + "|",
    ]
    for row in rows:
        cells = [f"{row['ours_parameters'] / 1e6:.1f}M, {row['diffusers_parameters'] / 1e6:.1f}M"]
        cells += [row["precision"], row["mode"]]
        for job in ("training", "sampling"):
            mine, other = row[f"ours_{job}"], row[f"diffusers_{job}"]
            cells.append(f"{mine:,.0f} against {other:,.0f} ({mine / other:.2f}x)")
        lines.append(f"| {row['size']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def memory_table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the memory."""
    lines = ["| size | batch | GiB | GiB, blocks recomputed |", "|:--" * 4 + "|"]
    lines += [f"| {r['size']} | {r['batch']} | {r['kept']:.2f} | {r['recomputed']:.2f} |" for r in rows]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", default=["S"], help="S, B, L, XL, or such as 128x4x4")
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--modes", nargs="+", choices=["eager", "compiled"], default=["eager"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--memory-batches", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu time is what to compare on a busy machine, with OMP_NUM_THREADS=1",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    if arguments.memory_batches and device.type == "cpu":
        counters()  # before the long work
    speeds = [
        speed(size, precision == "bf16", mode == "compiled", arguments)
        for size in arguments.sizes
        for precision in arguments.precisions
        for mode in arguments.modes
    ]
    shape = f"{arguments.channels}x{arguments.side}x{arguments.side}"
    print(
        f"{device_name(device)}, threads: {torch.get_num_threads()}, images {shape}, "
        f"patch {arguments.patch}, batch {arguments.batch}; ours against diffusers' "
        f"DiTTransformer2DModel\n\n{speed_table(speeds)}"
    )
    memories = [
        {"size": size, "batch": rows}
        | {name: memory(size, rows, name == "recomputed", arguments) for name in ("kept", "recomputed")}
        for size in arguments.sizes
        for rows in arguments.memory_batches
    ]
    if memories:
        how = "measured" if device.type == "cuda" else "tensors alive at once, counted by torch's MemTracker"
        print(f"\nMemory of a forward and backward pass in bf16, {how}:\n\n{memory_table(memories)}")
    if arguments.output:
        record = {
            "speed": speeds,
            "memory": memories,
            "device": device_name(device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in vars(arguments).items()},
            "commit": commit(),
            "command": command_line(),
        }
        write_atomic(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
