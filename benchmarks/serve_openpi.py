"""Push-T driven by a client that is none of ours, openpi's, through `scripts/serve.py`.

    python benchmarks/serve_openpi.py [--episodes 20] [--checkpoint pretrained/pusht] [--output results/serve]

Makes an environment with openpi-client in a temporary folder: it wants another NumPy than this library. There
`serve_openpi_side.py` plays the episodes, in four ways, against a server in this environment. The same
starts are played in this process, with the same noise. Writes openpi.json.
"""

import argparse
import json
import os
import subprocess
import tempfile
import venv
from pathlib import Path

import numpy as np
import torch
from serve_openpi_record import Record
from serve_process import ROOT, served

from shortcut_policy import load_policy
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit, library_versions
from shortcut_policy.rollout.evaluate import environment_maker

#: The client, what it imports without saying so, and what Push-T needs, in the versions of this library.
PACKAGES = ("openpi-client==0.1.2", "numpy<2", "typing_extensions")
SIMULATION = ("gymnasium", "pymunk", "shapely", "pillow", "annotated-types")
FIRST_SEED = 100_000


def client_python(folder: Path) -> Path:
    """The interpreter of a new environment with openpi's client and what Push-T needs."""
    venv.create(folder, with_pip=True)
    pinned = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    wanted = [line for line in pinned if line.split("==")[0] in SIMULATION]
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # What is on this process's path is not in the new environment.
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([*pip, *PACKAGES, *wanted], check=True, env=alone)
    return folder / "bin" / "python"


def in_process(checkpoint: str, episodes: int) -> list[dict]:
    """The same starts with the same noise, one at a time, without a server."""
    policy = load_policy(checkpoint)
    env = environment_maker(policy, {})()
    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + episodes):
        policy.reset(seed=0, episode=seed)
        obs, _ = env.reset(seed=seed)
        record = Record(seed)
        while not record.over:
            action = policy.select_action(obs)
            obs, *outcome = env.step(action)
            record.add(action, *outcome)
        rows.append(record.row())
    return rows


def compared(rows: list[dict], reference: list[dict]) -> dict:
    """Successes, and on how many starts every action is that of the reference, bit for bit."""
    return {
        "successes": sum(row["success"] for row in rows),
        "mean_score": round(float(np.mean([row["score"] for row in rows])), 4),
        "equal_starts": sum(
            row["actions_sha256"] == other["actions_sha256"]
            for row, other in zip(rows, reference, strict=True)
        ),
        "episodes": rows,
    }


def main() -> None:
    """Play and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--checkpoint", default="pretrained/pusht")
    parser.add_argument("--output", type=Path, default=Path("results/serve"))
    parser.add_argument("--python", type=Path, help="with openpi-client, not a new environment")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    reference = in_process(arguments.checkpoint, arguments.episodes)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{ROOT / 'envs'}"}
    with tempfile.TemporaryDirectory() as folder:
        python = arguments.python or client_python(Path(folder))
        with served(arguments.checkpoint) as server:
            side = Path(__file__).with_name("serve_openpi_side.py")
            command = [python, side, server.url, str(FIRST_SEED), str(arguments.episodes)]
            played = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told = json.loads(played.stdout.splitlines()[-1])
    ways = {name: compared(rows, reference) for name, rows in told["ways"].items()}
    content = {
        "command": command_line(),
        "commit": commit(),
        "checkpoint": arguments.checkpoint,
        "client": told["versions"],
        "server": library_versions("torch", "numpy", "websockets", "msgpack"),
        "in_process": compared(reference, reference),
        "ways": ways,
    }
    write_atomic(arguments.output / "openpi.json", json.dumps(content, indent=1) + "\n")
    for name, way in {"in process": content["in_process"], **ways}.items():
        print(
            f"{name}: {way['successes']} of {arguments.episodes} succeed, {way['equal_starts']} starts equal "
            f"in every action, mean score {way['mean_score']:.4f}"
        )


if __name__ == "__main__":
    main()
