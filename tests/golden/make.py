"""Writes the files that later releases have to read, as this one writes them: ``tests/golden/v<version>``.

    python tests/golden/make.py

Run it once for a release, with the versions of ``constraints.txt``, and commit the folder. Folders of earlier
releases stay as they are. Beside the files lie the values that were read from them: ``expected.npz`` and
``expected.json``. Everything is tiny and seeded.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shortcut_policy import EpisodeWriter, Field, Policy, save_policy
from shortcut_policy.benchmark import result_files
from shortcut_policy.build import build
from shortcut_policy.checkpoint import package_versions, save_model
from shortcut_policy.data import Normalizer
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.formats import open_demonstrations
from shortcut_policy.data.lerobot_writer import LeRobotSettings
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.errors import InputError
from shortcut_policy.images.model import ImageModel, image_fields
from shortcut_policy.model import Model
from shortcut_policy.objectives.base import usable_steps
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.recipes import recipe
from shortcut_policy.runtimes.export import write_export

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MLP = {"_target_": "shortcut_policy.backbones.Mlp", "width": 8, "depth": 1, "embedding_dim": 8}
STATE, ACTION = {"state": Field("state", shape=(3,))}, Field("action", shape=(2,))
CAMERA = {**STATE, "camera": Field("camera", shape=(24, 24, 3), normalize="image")}
PUSHT = {"keypoint": Field("keypoint", shape=(9, 2)), "agent_pos": Field("state", (2,), columns=(0, 1))}
SIZES = {"horizon": 4, "n_obs_steps": 2, "n_action_steps": 2}
#: Lengths of the episodes in the stores.
LENGTHS = (5, 4, 6)


def policies() -> dict[str, Policy]:
    """Every objective on the smallest network, and every network, encoder and setting of a policy once."""
    made = {}
    for file in sorted(Path(CONFIG_DIR, "objective").glob("*.yaml")):
        # Some objectives are of images alone.
        with contextlib.suppress(InputError):
            made[file.stem] = Policy.build(STATE, ACTION, **SIZES, objective=file.stem, backbone=MLP)
    unet = recipe("backbone", "unet_small", down_dims=[8], embedding_dim=8)
    dit = recipe("backbone", "dit", size={"width": 8, "depth": 1, "heads": 2}, embedding_dim=8)
    encoder = recipe("encoder", "image_light", crop=20, n_points=4, feature_dim=8)
    encoder["trunk"] = {**encoder["trunk"], "width": 16, "depth": 0}
    made["unet"] = Policy.build(STATE, ACTION, **SIZES, backbone=unet)
    made["dit"] = Policy.build(STATE, ACTION, **SIZES, backbone=dit, prefix_steps=2, obs_clamp=2.0)
    made["camera"] = Policy.build(CAMERA, ACTION, **SIZES, backbone=MLP, encoder=encoder)
    env = {
        "_target_": "gymnasium.make",
        "id": "shortcut_envs:shortcut_policy/PushTKeypoints-v0",
        "max_steps": 16,
    }
    made["pusht"] = Policy.build(PUSHT, ACTION, **SIZES, backbone=MLP, task="pusht", env=env)
    for name, policy in made.items():
        policy.metadata |= {"method": name, "backbone": "tiny", "dataset": "drawn"}
    return {name: trained(policy) for name, policy in made.items()}


def trained(policy: Policy) -> Policy:
    """With statistics, and weights that no start at zero hides."""
    fields = fields_of(policy)
    statistics = {}
    for name, field in fields.items():
        if field.normalize != "image":
            statistics[name] = RunningStatistics()
            size = int(np.prod(field.shape))
            statistics[name].update(
                np.linspace(-1, 300, 20 * size).reshape(20, *field.shape).astype(np.float32)
            )
    policy.normalizer = Normalizer(fields, statistics)
    shake(policy)
    return policy.eval()


def fields_of(policy: Policy) -> dict[str, Field]:
    """Observations and action, from the specification."""
    specs = {**policy.spec["obs"], "action": policy.spec["action"]}
    return {name: build(spec) for name, spec in specs.items()}


def shake(model: Model) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def image_model() -> ImageModel:
    """A generator of pictures."""
    spec = {
        "_target_": "shortcut_policy.images.model.ImageModel",
        "images": {
            "shape": [1, 4, 4],
            "dtype": "uint8",
            "class_names": ["a", "b"],
            "flip": False,
            "decoder": None,
        },
        "encoder": {"_target_": "shortcut_policy.encoders.ClassEncoder"},
        "backbone": {
            "_target_": "shortcut_policy.backbones.ImageDit",
            "size": {"width": 8, "depth": 1, "heads": 2},
            "patch_size": 2,
            "embedding_dim": 8,
        },
        "objective": {"_target_": "shortcut_policy.objectives.FlowMatching"},
        "precondition": None,
    }
    torch.manual_seed(0)
    model = ImageModel.from_spec(spec)
    model.normalizer = Normalizer(image_fields(model.shape, model.dtype), {})
    shake(model)
    return model.eval()


def observations(policy: Policy) -> dict[str, torch.Tensor]:
    """Two rows in the range of the data."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, shape in policy.obs_shapes.items():
        drawn = torch.rand((2, policy.n_obs_steps, *shape), generator=generator) * 255
        found[name] = drawn.round() if name in policy.cameras else drawn
    return found


def act(policy: Policy, steps: int) -> np.ndarray:
    """Two chunks of a policy with noise of a seed."""
    chunk: torch.Tensor = policy.act(
        observations(policy), steps=steps, generator=torch.Generator().manual_seed(2)
    )
    return chunk.detach().numpy()


def step_counts(policy: Policy) -> list[int]:
    """One step, and two where the objective samples in several."""
    return list(usable_steps(policy.objective, [1, 2], "steps"))


def draw(model: ImageModel) -> np.ndarray:
    """Two pictures, in the network's units."""
    noise = torch.randn((2, *model.shape), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        sampled: torch.Tensor = model.objective.sample(
            model.backbone, noise, model.encode(torch.tensor([0, 1])), 1
        )
    return sampled.numpy()


def write_stores(folder: Path) -> None:
    """The same demonstrations in all formats that are written."""
    rng = np.random.default_rng(0)
    with EpisodeWriter(folder / "store.zarr", attributes={"rate": 10}) as writer:
        for length in LENGTHS:
            moving = np.zeros((length, 16, 16, 3), np.uint8)
            for step in range(length):
                moving[step, step : step + 6, 4:12] = (200, 60, 90)
            writer.add_episode(
                {
                    "state": rng.normal(size=(length, 3)).astype(np.float32),
                    "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
                    "camera": moving,
                }
            )
    (folder / "env_args.json").write_text('{"env_name": "Golden", "type": 1, "env_kwargs": {}}\n')
    for name in ("store.hdf5", "store.lerobot", "store-v0"):
        told = LeRobotSettings(fps=10, task="move", videos=True)
        options = ConvertOptions(lossy=True, env_args=str(folder / "env_args.json"), lerobot=told)
        convert(folder / "store.zarr", folder / name, options)
    for left in [*folder.glob("*.lost.txt"), folder / "env_args.json"]:
        left.unlink()


def stores(folder: Path) -> list[Path]:
    """Those of a release."""
    return sorted(
        path for path in folder.iterdir() if path.name.startswith("store") and "frames" not in path.name
    )


def write_results(folder: Path, policy: Path) -> None:
    """What rollouts and benchmarks write."""
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, str(ROOT / "scripts/rollout.py"), f"checkpoint={policy}", "steps=[1]"]
        command += ["episodes=2", "num_envs=2", "batch_size=2", "plot=false", f"output={made}"]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        for file in sorted(Path(made).rglob("*.json*")):
            text = file.read_text("utf-8").replace(made, "output").replace(f"{ROOT}/", "")
            (folder / f"rollout_{file.name}").write_text(text)
    run = result_files.read_published(ROOT / "results/pusht/cells/regression.jsonl")[0]
    first = replace(run, cells=dict(list(run.cells.items())[:1]))
    result_files.write_published(result_files.published_file(folder, "regression"), [first])
    for name in ("results.json", "compute.json"):
        rows = json.loads((ROOT / "results/pusht" / name).read_text("utf-8"))[:2]
        (folder / name).write_text(json.dumps(rows, indent=1) + "\n")


def main() -> None:
    folder = HERE / f"v{package_versions()['shortcut-policy']}"
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("policies", "stores", "results"):
        (folder / part).mkdir(parents=True)
    values: dict[str, np.ndarray] = {}
    for name, policy in policies().items():
        save_policy(policy, folder / "policies" / name)
        values |= {f"policies/{name}/{steps}": act(policy, steps) for steps in step_counts(policy)}
    save_model(image_model(), folder / "images")
    values["images"] = draw(image_model())
    small = policies()["shortcut"]
    write_export(small, folder / "export", format="onnx")
    values["export"] = act(small, 1)
    write_stores(folder / "stores")
    about: dict[str, Any] = {"versions": package_versions(), "stores": {}}
    for path in stores(folder / "stores"):
        source = open_demonstrations(path)
        rows = int(source.episode_ends[-1])
        about["stores"][path.name] = {key: list(source.shapes[key]) for key in source.keys}
        for key in source.keys:
            values[f"stores/{path.name}/{key}"] = source.read(key, 0, rows)
        values[f"stores/{path.name}/ends"] = source.episode_ends
    for decoded in folder.glob("stores/*.frames"):
        shutil.rmtree(decoded)
    write_results(folder / "results", folder / "policies/pusht")
    np.savez_compressed(folder / "expected.npz", **values)
    (folder / "expected.json").write_text(json.dumps(about, indent=1) + "\n")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder.relative_to(ROOT)}: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
