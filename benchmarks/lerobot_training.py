"""How fast LeRobot's own `diffusion` and our plugin train in `lerobot-train`: one data set, one network.

    python benchmarks/lerobot_training.py --lerobot ENV/bin/python

where ENV has LeRobot 0.6.1 with its extras `training` and `diffusion`, and the plugin
(docs/lerobot_plugin.md). Prints and writes results/lerobot_training/results.json. The trainings take turns,
in one thread each, so that other work on the machine meets all of them; what is to be compared is the ratio
of the medians.

An update of `shortcut` costs more in the second half of a training, where the targets of its large steps are
computed: its time is the mean of both halves.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch

from shortcut_policy.data import bundled
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import commit
from shortcut_policy.rollout.latency import device_name

ROOT = Path(__file__).resolve().parent.parent
EPISODES = 40
SIZES = {"horizon": 16, "n_obs_steps": 2, "n_action_steps": 8}
#: The network of ``configs/backbone/unet.yaml``, in LeRobot's words.
UNET = {"down_dims": "[64,128,256]", "kernel_size": 3, "n_groups": 8, "diffusion_step_embed_dim": 256}
POLICIES: dict[str, dict[str, Any]] = {
    "lerobot diffusion": {"type": "diffusion", **UNET},
    "plugin diffusion": {"type": "shortcut", "objective": "diffusion"},
    "plugin shortcut": {"type": "shortcut"},
}
#: A line of LeRobot's log: seconds of an update and of its batch, means since the line before.
LINE = re.compile(r"updt_s:([\d.]+) data_s:([\d.]+)")
PARAMETERS = re.compile(r"num_learnable_params=(\d+)")


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lerobot", required=True, help="interpreter that has LeRobot and the plugin")
    parser.add_argument("--rounds", type=int, default=3, help="how often each trains")
    parser.add_argument("--updates", type=int, default=48, help="of a training, a multiple of 8")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--output", type=Path, default=ROOT / "results/lerobot_training/results.json")
    given = parser.parse_args()

    measured: dict[str, list[tuple[float, int]]] = {name: [] for name in POLICIES}
    with tempfile.TemporaryDirectory() as folder:
        write_data(given.lerobot, Path(folder))
        for number in range(given.rounds):
            for name, settings in POLICIES.items():
                output = Path(folder, f"{name}_{number}".replace(" ", "_"))
                measured[name].append(train(given, settings, Path(folder, "data"), output))
    reference = median(seconds for seconds, _ in measured["lerobot diffusion"])
    rows = [
        {
            "policy": name,
            "trainable_parameters": runs[0][1],
            "seconds_per_update": [round(seconds, 4) for seconds, _ in runs],
            "updates_per_second": round(1 / median(seconds for seconds, _ in runs), 3),
            "speed_over_lerobot_diffusion": round(reference / median(seconds for seconds, _ in runs), 2),
        }
        for name, runs in measured.items()
    ]
    write_report(rows, given.updates, given.batch, Path(__file__).name, given.output)


def write_report(
    rows: list[dict[str, Any]], updates: int, batch: int, script: str, output: Path, more: str = ""
) -> None:
    """Print and write rows with what they were measured on; ``more`` are further arguments of the script."""
    report = {
        "rows": rows,
        "updates": updates,
        "batch_size": batch,
        "threads": 1,
        "data": f"{EPISODES} bundled Push-T demonstrations, 18 + 2 numbers observed, without pictures",
        "machine": f"{device_name(torch.device('cpu'))}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{os.cpu_count()} cores, shared with other work",
        "commit": commit(),
        "command": f"python benchmarks/{script} --lerobot ENV/bin/python{more}",
    }
    text = json.dumps(report, indent=2) + "\n"
    sys.stdout.write(text)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(output, text)


def write_data(python: str, folder: Path) -> None:
    """The demonstrations as a LeRobot data set, in ``folder / "data"``."""
    source = bundled("pusht")
    stop = int(source.episode_ends[EPISODES - 1])
    np.savez(
        folder / "frames.npz",
        keypoint=source.read("keypoint", 0, stop),
        agent_pos=source.read("state", 0, stop)[:, :2],
        action=source.read("action", 0, stop),
        episode_ends=source.episode_ends[:EPISODES],
    )
    script = Path(__file__).with_name("lerobot_training_data.py")
    run([python, "-W", "ignore", str(script), str(folder / "frames.npz"), str(folder / "data")])


def train(given: argparse.Namespace, settings: dict[str, Any], data: Path, output: Path) -> tuple[float, int]:
    """Seconds of an update with its batch, and trainable parameters."""
    every = given.updates // 8
    options = {
        **{f"policy.{key}": value for key, value in {**settings, **SIZES}.items()},
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        "dataset.repo_id": "local/pusht",
        "dataset.root": data,
        "output_dir": output,
        "batch_size": given.batch,
        "steps": given.updates,
        "log_freq": every,
        "save_checkpoint": "false",
        "num_workers": 0,
        "seed": 0,
    }
    command = [given.lerobot, "-W", "ignore", "-m", "lerobot.scripts.lerobot_train"]
    log = run([*command, *(f"--{key}={value}" for key, value in options.items())])
    times = [float(update) + float(batch) for update, batch in LINE.findall(log)]
    assert len(times) == 8, log
    (parameters,) = PARAMETERS.findall(log)
    # The first line is of a start: caches, and the first call of everything.
    return mean([median(times[1:4]), median(times[5:])]), int(parameters)


def run(command: list[str]) -> str:
    """What a command prints, in one thread and without a hub."""
    print("$", " ".join(command), file=sys.stderr, flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{done.stdout}\nthis command failed: {' '.join(command)}")
    return done.stdout


if __name__ == "__main__":
    main()
