#!/usr/bin/env bash
# A training that LeRobot resumes sees the same batches, but draws other noise than one that was not interrupted.
#
# A checkpoint of lerobot-train 0.6.1 holds the state of every random generator (training_state/rng_state.safetensors),
# --resume=true restores it, and the sampler says that it resumes "sample-exactly": on a CPU, with one process, one
# thread and a seed, a good engineer concludes that 2 + 2 updates are 4 updates. Without random numbers in the loss they
# are, bit for bit; with some they are not, for LeRobot's own policies either. The data loader's iterator draws its base
# seed from the global generator when it is made, once an epoch, and again in a run that goes on, after the state was
# restored. From there on all noise of a diffusion policy, and every dropout, is another one. What helps: a generator of
# the policy's own, seeded by the number of the update.
#
# Seen, 4 updates against 2 and 2 more with --resume=true, in the middle of an epoch:
#   lerobot 0.6.1: act, without dropout and latent: the same weights: True, the same state of torch's generator: False
#   lerobot 0.6.1: diffusion: the same weights: False, the same state of torch's generator: False
#
# Needs Python 3.12 and a few gigabytes; PYTHON names the interpreter.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
"${PYTHON:-python3.12}" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check 'lerobot[training,dataset,diffusion]==0.6.1' \
    torch==2.11.0 diffusers==0.39.0 accelerate==1.15.0 2> pip.log || {
    cat pip.log
    exit 1
}
cat > resume.py <<'PY'
import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.scripts import lerobot_train

torch.set_num_threads(1)
logging.disable(logging.INFO)
KEYS = {"observation.state": 2, "observation.environment_state": 3, "action": 2}


def write(folder):
    features = {key: {"dtype": "float32", "shape": (size,), "names": None} for key, size in KEYS.items()}
    data = LeRobotDataset.create("local/random", fps=10, features=features, root=folder, use_videos=False)
    random = np.random.default_rng(0)
    for _ in range(60):
        frame = {key: random.normal(size=size).astype(np.float32) for key, size in KEYS.items()}
        data.add_frame({**frame, "task": "nothing"})
    data.save_episode()
    data.finalize()


def train(**options):
    sys.argv = ["lerobot-train", *(f"--{key}={value}" for key, value in options.items())]
    lerobot_train.main()


def compare(name, **policy):
    output = Path(name)
    settings = {f"policy.{key}": value for key, value in {"push_to_hub": "false", "device": "cpu", **policy}.items()}
    data = {"dataset.repo_id": "local/random", "dataset.root": "data"}
    train(output_dir=output, steps=4, save_freq=2, batch_size=4, num_workers=0, seed=0, **data, **settings)
    whole = output / "checkpoints/000004"
    weights, state = (load_file(whole / part) for part in FILES)
    shutil.rmtree(whole)
    train(config_path=output / "checkpoints/000002/pretrained_model/train_config.json", resume="true")
    again = [load_file(whole / part) for part in FILES]
    moved = load_file(output / "checkpoints/000002" / FILES[0])
    assert any(not torch.equal(moved[key], weights[key]) for key in weights), "nothing was learned"
    same = all(torch.equal(again[0][key], weights[key]) for key in weights)
    return same, torch.equal(again[1]["torch_rng_state"], state["torch_rng_state"])


FILES = ("pretrained_model/model.safetensors", "training_state/rng_state.safetensors")
SMALL_ACT = dict(dim_model=16, n_heads=2, dim_feedforward=16, n_encoder_layers=1, chunk_size=8, n_action_steps=8)
SMALL_DIFFUSION = dict(down_dims=[16, 32], n_groups=4, diffusion_step_embed_dim=16, scheduler_warmup_steps=0)
write("data")
seen = [
    ("act, without dropout and latent", compare("act", type="act", dropout=0.0, use_vae="false", **SMALL_ACT)),
    ("diffusion", compare("diffusion", type="diffusion", **SMALL_DIFFUSION)),
]
text = "".join(
    f"lerobot 0.6.1: {name}: the same weights: {weights}, the same state of torch's generator: {state}\n"
    for name, (weights, state) in seen
)
Path("seen.txt").write_text(text)
PY
HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 venv/bin/python -W ignore resume.py > run.log 2>&1 || {
    tail -n 20 run.log
    exit 1
}
cat seen.txt
[ "$(cat seen.txt)" = "lerobot 0.6.1: act, without dropout and latent: the same weights: True, the same state of torch's \
generator: False
lerobot 0.6.1: diffusion: the same weights: False, the same state of torch's generator: False" ] || {
    echo "this has changed"
    exit 1
}
