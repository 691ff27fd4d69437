"""The paths that only a GPU has, checked on one within five minutes; prints what was found as JSON.

    python benchmarks/gpu_check.py
    python benchmarks/gpu_check.py --updates 6 --device cpu

Trains a small UNet on drawn demonstrations, so it needs no data: with its updates recorded as a CUDA
graph and without, in bfloat16 and in float32, interrupted and in one go, compiled, and, where there are
several GPUs, on two of them. Then the policy acts on the GPU and on the CPU. A check that fails says so
in ``failed``, and the exit status is 1. Without a GPU, what can runs on the CPU, and the rest says why
not in ``skipped``.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shortcut_policy import (
    DemonstrationDataset,
    EpisodeWriter,
    Field,
    Policy,
    Trainer,
    TrainerConfig,
    ZarrSource,
    load_policy,
)
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.latency import device_name

OBS, ACTION = {"state": Field("state", shape=(4,))}, Field("action", shape=(2,))
SIZES = {"horizon": 16, "n_obs_steps": 2, "n_action_steps": 8}
#: Largest difference between weights, relative to the largest of their tensor, after the same updates with
#: sums in another order.
SAME_WEIGHTS = 1e-2
#: Between actions on a GPU and on a CPU, relative to their range.
SAME_ACTIONS = 1e-3
#: Part by which a loss may lie above that of float32 in bfloat16, at the end.
SAME_LOSS = 0.25
#: Memory that later updates may take beyond that of the first ones, bytes.
GROWTH = 2**20
#: Updates of two processes.
TOGETHER = 6


class Skipped(Exception):
    """This machine does not have what a check needs."""


class Checks:
    """The checks, each a method that returns what it found.

    Args:
        folder: For demonstrations and runs.
        device: ``cuda`` or ``cpu``.
        updates: Of each training.
    """

    def __init__(self, folder: Path, device: str, updates: int) -> None:
        self.folder, self.device, self.updates = folder, device, updates
        self.runs = 0
        if (folder / "demonstrations.zarr").exists():
            return
        rng = np.random.default_rng(0)
        with EpisodeWriter(folder / "demonstrations.zarr") as writer:
            for _ in range(40):
                state = np.cumsum(rng.normal(size=(60, 4)), axis=0).astype(np.float32)
                writer.add_episode({"state": state, "action": state[:, :2] - state[:, 2:]})

    def train(
        self,
        updates: int | None = None,
        output: str = "",
        resume: bool = False,
        rollouts: Callable[[Any, int], dict[str, float]] | None = None,
        **settings: Any,
    ) -> Trainer:
        """A finished training."""
        self.runs += 1
        dataset = DemonstrationDataset(ZarrSource(self.folder / "demonstrations.zarr"), OBS, ACTION, **SIZES)
        updates = self.updates if updates is None else updates
        given = {"precision": "fp32", "warmup_steps": 2, "validate_every": 0, "log_every": 1}
        given |= {"max_steps": updates, "checkpoint_every": updates, **settings}
        config = TrainerConfig(**given)
        policy = Policy.build(OBS, ACTION, **SIZES, backbone="unet_small")
        place = self.folder / (output or f"run{self.runs}")
        cpu = self.device == "cpu"
        trainer = Trainer(policy, dataset, config, place, 0, rollouts, cpu, resume=resume)
        trainer.fit()
        return trainer

    def need_gpu(self) -> None:
        """Raise `Skipped` without one."""
        if self.device != "cuda":
            raise Skipped("there is no GPU")

    def cuda_graph(self) -> dict[str, Any]:
        """Recorded updates give the weights of others, and take less time."""
        self.need_gpu()
        recorded, other = (self.train(cuda_graph=choice) for choice in (True, False))
        assert recorded.captured is not None and other.captured is None, "no update was recorded"
        off = difference(recorded.model.state_dict(), other.model.state_dict())
        assert off < SAME_WEIGHTS, f"weights differ by {off:.2g}"
        return {
            "difference": off,
            "recorded_ms": round(1000 * recorded.seconds / self.updates, 3),
            "other_ms": round(1000 * other.seconds / self.updates, 3),
        }

    def bfloat16(self) -> dict[str, Any]:
        """A training in bfloat16 learns as one in float32 does; ``auto`` takes it on a GPU."""
        low, high = self.train(precision="bf16"), self.train(precision="fp32")
        assert low.bf16 and not high.bf16, "the precision is not what was asked for"
        losses = [last_losses(trainer.output) for trainer in (low, high)]
        assert np.isfinite(losses).all() and losses[0] < (1 + SAME_LOSS) * losses[1], f"losses are {losses}"
        found: dict[str, Any] = {"loss_bf16": losses[0], "loss_fp32": losses[1]}
        if self.device == "cuda":
            found["auto"] = "bf16" if self.train(2, precision="auto").bf16 else "fp32"
        return found

    def resumed(self) -> dict[str, Any]:
        """A training that is told to end goes on bit for bit."""

        def stop(model: Any, step: int) -> dict[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            return {"score": 0.0}

        whole = self.train()
        with contextlib.suppress(SystemExit):
            self.train(output="parts", rollouts=stop, rollout_every=max(1, self.updates // 2))
        assert not (self.folder / f"parts/checkpoints/step_{self.updates:08d}").exists(), "it did not end"
        again = self.train(output="parts", resume=True)
        off = difference(again.model.state_dict(), whole.model.state_dict())
        assert off == 0, f"weights differ by {off:.2g}"
        return {"difference": off}

    def compiled(self) -> dict[str, Any]:
        """``trainer.compile`` gives the weights of others."""
        self.need_gpu()
        off = difference(self.train(6, compile=True).model.state_dict(), self.train(6).model.state_dict())
        assert off < SAME_WEIGHTS, f"weights differ by {off:.2g}"
        return {"difference": off}

    def memory(self) -> dict[str, Any]:
        """Later updates take no more memory than the first ones."""
        self.need_gpu()
        peaks = []
        for updates in (max(6, self.updates // 10), self.updates):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            self.train(updates)
            peaks.append(torch.cuda.max_memory_allocated())
        assert peaks[1] - peaks[0] < GROWTH, f"{peaks[1] - peaks[0]} bytes more after {self.updates} updates"
        return {"first_mb": round(peaks[0] / 2**20, 1), "later_mb": round(peaks[1] / 2**20, 1)}

    def processes(self) -> dict[str, Any]:
        """Two processes train together: on two GPUs, or on the CPU."""
        if self.device == "cuda" and torch.cuda.device_count() < 2:
            raise Skipped(f"there are {torch.cuda.device_count()} GPUs, and two processes need two")
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        command += [__file__, "--device", self.device, "--together", str(self.folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (done.stderr.strip().splitlines() or ["no reason"])[-1][:300]
        alone = self.train(TOGETHER).ema_model.state_dict()
        off = difference(load_policy(self.folder / "together").state_dict(), alone)
        assert off < SAME_WEIGHTS, f"weights differ by {off:.2g} from those of one process"
        return {"difference": off}

    def acting(self) -> dict[str, Any]:
        """A policy acts on this device as it does on the CPU, with the same noise."""
        folder = self.train(4, "acting").output
        obs = {"state": torch.linspace(-1, 1, 16).reshape(2, 2, 4)}
        here, there = (load_policy(folder, device=device) for device in (self.device, "cpu"))
        noise = torch.randn((2, 16, 2), generator=torch.Generator().manual_seed(0))
        chunks = []
        for policy in (here, there):
            placed = {name: value.to(policy.device) for name, value in obs.items()}
            with torch.no_grad():
                cond = policy.encode(placed)
                x = policy.objective.sample(policy.backbone, noise.to(policy.device), cond, 1)
                chunks.append(policy.normalizer.unnormalize("action", x).float().cpu())
        off = float((chunks[0] - chunks[1]).abs().max() / (chunks[1].max() - chunks[1].min()))
        assert off < SAME_ACTIONS, f"actions differ by {off:.2g} of their range"
        here.reset(steps=1, seed=0)
        assert here.select_action({"state": np.zeros(4)}).shape == (2,)
        return {"difference": off}


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest one between tensors of the same names, relative to the largest number of each tensor."""
    assert one.keys() == other.keys()
    parts = [0.0]
    for name, value in one.items():
        a, b = value.detach().cpu().double(), other[name].detach().cpu().double()
        parts.append(float((a - b).abs().max() / b.abs().max().clamp(min=1e-6)))
    return max(parts)


def last_losses(run: Path) -> float:
    """Mean loss of the last quarter of a run."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    return round(float(np.mean(losses[-max(1, len(losses) // 4) :])), 4)


def run_checks(device: str, updates: int) -> dict[str, Any]:
    """All checks: name -> what was found, or why it failed or was skipped."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(Path(folder), device, updates)
        every: tuple[Callable[[], dict[str, Any]], ...] = (
            *(checks.cuda_graph, checks.bfloat16, checks.resumed, checks.compiled),
            *(checks.memory, checks.processes, checks.acting),
        )
        for check in every:
            started = time.perf_counter()
            try:
                found = check()
            except Skipped as reason:
                found = {"skipped": str(reason)}
            except Exception as error:  # the others are to be seen, too
                found = {"failed": f"{type(error).__name__}: {error}"}
            results[check.__name__] = {**found, "seconds": round(time.perf_counter() - started, 1)}
            print(check.__name__, results[check.__name__], file=sys.stderr, flush=True)
    return results


def main() -> None:
    """Run them, print the result, and end with status 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--together", type=Path, default=None, help="own use: train as one of two processes")
    given = parser.parse_args()
    if given.together is not None:
        Checks(given.together, given.device, TOGETHER).train(output="together")
        return
    result = {
        "checks": run_checks(given.device, given.updates),
        "device": device_name(torch.device(given.device)),
        "gpus": torch.cuda.device_count(),
        "versions": library_versions("torch", "numpy", "accelerate"),
        "commit": commit(),
        "command": command_line(),
    }
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if given.output is not None:
        write_atomic(given.output, text)
    if any("failed" in found for found in result["checks"].values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
