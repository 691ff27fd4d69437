"""What an update costs, and what the trainer adds to it. Alternatives take turns, so noise meets all alike.

    python benchmarks/training_step.py --rounds 30

Prints medians, and writes them as JSON with --output.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch.nn import functional as F

from shortcut_policy.backbones import unet1d
from shortcut_policy.benchmark.compute import Update, take_turns
from shortcut_policy.commands.train import make_dataset, read_training
from shortcut_policy.objectives import Draws
from shortcut_policy.paths import CONFIG_DIR, write_atomic
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.latency import device_name
from shortcut_policy.training.parts import make_model
from shortcut_policy.training.trainer import Trainer


def make_trainer(*overrides: str) -> Trainer:
    """A trainer on the bundled demonstrations."""
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        config = compose("train", list(overrides))
    dataset = make_dataset(read_training(config))
    policy = make_model(read_training(config), dataset)
    return Trainer(policy, dataset, read_training(config).trainer, Path(tempfile.mkdtemp()), seed=0)


def bare_update(trainer: Trainer, progress: float = 0.0) -> Update:
    """Forward, backward and optimizer step of a trainer's policy on one fixed batch, and nothing else."""
    rows = trainer.stream.rows(0)
    batch = trainer.dataset.batch(trainer.dataset.train[rows])
    draws = Draws(torch.Generator(trainer.device).manual_seed(0))

    def update() -> None:
        with torch.autocast(trainer.device.type, torch.bfloat16, enabled=trainer.bf16):
            losses, _ = trainer.wrapped(batch["obs"], batch["action"], trainer.ema_model, draws, progress)
        for optimizer in trainer.optimizers:
            optimizer.zero_grad()
        losses.mean().backward()
        for optimizer in trainer.optimizers:
            optimizer.step()

    return update


def with_other(update: Update, holder: Any, name: str, value: Any) -> Update:
    """The same update while ``holder.name`` is another value."""

    def changed() -> None:
        usual = getattr(holder, name)
        setattr(holder, name, value)
        try:
            update()
        finally:
            setattr(holder, name, usual)

    return changed


REFERENCE = "flow matching: forward, backward, optimizer step (Muon)"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument(
        "--clock",
        choices=["wall", "cpu"],
        default="wall",
        help="cpu time is what to compare on a busy machine, with OMP_NUM_THREADS=1",
    )
    parser.add_argument(
        "--precision", choices=["bf16", "fp32"], default="bf16", help="of all that do not name theirs"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    precision = f"trainer.precision={arguments.precision}"
    default = make_trainer(precision)
    flow = make_trainer("objective=flow_matching", precision)
    adamw = make_trainer("objective=flow_matching", precision, "trainer.optimizer=adamw")
    exact = make_trainer("objective=flow_matching", "trainer.precision=fp32", "trainer.optimizer=adamw")
    wide = make_trainer(
        "objective=flow_matching",
        "trainer.precision=fp32",
        "trainer.optimizer=adamw",
        "backbone.kernel_size=5",
    )
    other = "without" if unet1d.HAS_AVX512 else "with"
    updates: dict[str, Update] = {
        REFERENCE: bare_update(flow),
        "flow matching: update of the trainer": flow._update,
        "flow matching, wide convolutions as convolutions": with_other(
            bare_update(flow), unet1d._Convolution, "WIDE", sys.maxsize
        ),
        "default, first 60%": bare_update(default),
        "default, self-consistency rows included": bare_update(default, progress=0.99),
        "flow matching, AdamW": bare_update(adamw),
        "flow matching, AdamW, fp32": bare_update(exact),
        f"flow matching, AdamW, fp32, computed as {other} AVX-512": with_other(
            bare_update(exact), unet1d, "HAS_AVX512", not unet1d.HAS_AVX512
        ),
        "flow matching, AdamW, fp32, Mish, kernel 5 (the baseline's block)": with_other(
            bare_update(wide), unet1d.F, "silu", F.mish
        ),
    }
    medians = take_turns(
        updates, arguments.rounds, time.process_time if arguments.clock == "cpu" else time.perf_counter
    )
    reference = medians[REFERENCE]
    for name, value in medians.items():
        print(f"{value:8.1f} ms  {value / reference:5.2f}x  {name}")
    if arguments.output:
        record = {
            "milliseconds": medians,
            "clock": arguments.clock,
            "precision": arguments.precision,
            "batch_size": flow.config.batch_size,
            "parameters": sum(p.numel() for p in flow.model.parameters()),
            "device": device_name(flow.device),
            "threads": torch.get_num_threads(),
            "commit": commit(),
            "command": command_line(),
        }
        write_atomic(arguments.output, json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
