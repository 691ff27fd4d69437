"""What is fuzzed: for each reader, small valid files, how they are damaged, and how they are read."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import zarr
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from shortcut_policy.build import build
from shortcut_policy.checkpoint import load_training_state, save_model
from shortcut_policy.commands.configuration import to_plain
from shortcut_policy.data import DemonstrationDataset, EpisodeWriter, Field
from shortcut_policy.data.convert import ConvertOptions, convert
from shortcut_policy.data.formats import format_of, open_demonstrations
from shortcut_policy.data.lerobot_writer import LeRobotSettings
from shortcut_policy.data.normalizer import Normalizer, RunningStatistics
from shortcut_policy.data.view import summary
from shortcut_policy.errors import InputError, first_line
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.settings import flatten, parse
from tests.campaign.fuzz_damage import damage_folder, fresh_copy

OBS, ACTION = {"state": Field("state", shape=(3,))}, Field("action", shape=(2,))
#: Lengths of episodes.
LENGTHS = (5, 4, 6)
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes:
        make: Writes valid files into an empty folder.
        read: Reads them as the library's commands do; given the folder, and one for what it writes.
        damage: Changes the files in a folder.
    """

    make: Callable[[Path], None]
    read: Callable[[Path, Path], None]
    damage: Callable[[Path, Random], None] = damage_folder


def episodes() -> list[dict[str, np.ndarray]]:
    """Small ones, with numbers and pictures."""
    rng = np.random.default_rng(0)
    return [
        {
            "state": rng.normal(size=(length, 3)).astype(np.float32),
            "action": rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            "camera": rng.integers(0, 255, (length, 6, 5, 3), np.uint8),
        }
        for length in LENGTHS
    ]


def small_policy() -> Policy:
    """Untrained, with statistics."""
    torch.manual_seed(0)
    # Statistics of each field, as a dataset would find them.
    statistics = {name: RunningStatistics() for name in ("state", "action")}
    for name, width in (("state", 3), ("action", 2)):
        statistics[name].update(np.linspace(-1, 1, 10 * width).reshape(10, width))
    policy = Policy.build(OBS, ACTION, horizon=4, n_obs_steps=2, n_action_steps=2, backbone=SMALL)
    policy.normalizer = Normalizer({**OBS, "action": ACTION}, statistics)
    policy.metadata = {"task": {"name": "small"}}
    return policy.eval()


SMALL = {"_target_": "shortcut_policy.backbones.Mlp", "width": 8, "depth": 1, "embedding_dim": 8}


# Demonstrations


def look(path: Path, work: Path, obs: str = "state") -> None:
    """What `view`, `train` and `convert` read of demonstrations, by turns."""
    source = open_demonstrations(path)
    summary(source)
    fields = {obs: Field(obs, shape=(3,))}
    action = Field("actions" if "actions" in source.keys else "action", shape=(2,))
    dataset = DemonstrationDataset(
        source, fields, action, horizon=4, n_obs_steps=2, n_action_steps=2, cache=work
    )
    dataset[0]


def change_format(path: Path, work: Path) -> None:
    """What `convert` reads of demonstrations."""
    to = work / ("made.hdf5" if format_of(path) != "robomimic" else "made.zarr")
    told = LeRobotSettings(fps=10, task="move")
    options = ConvertOptions(lossy=True, env_args=str(work / "env_args.json"), lerobot=told)
    (work / "env_args.json").write_text('{"env_name": "x", "type": 1, "env_kwargs": {}}')
    convert(path, to, options)


def make_zarr(root: Path) -> None:
    """As the writer writes it, of format 2."""
    with EpisodeWriter(root / "a.zarr", attributes={"about": {"rate": 10}}) as writer:
        for episode in episodes():
            writer.add_episode(episode)


def make_zarr_3(root: Path) -> None:
    """Of format 3, sharded, with several codecs."""
    whole = {key: np.concatenate([episode[key] for episode in episodes()]) for key in episodes()[0]}
    group = zarr.create_group(root / "a.zarr", zarr_format=3)
    codecs = (zarr.codecs.BloscCodec(), zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec())
    for (key, value), codec in zip(whole.items(), codecs, strict=True):
        chunks, shards = (4, *value.shape[1:]), (8, *value.shape[1:])
        made = group.create_array(
            f"data/{key}",
            shape=value.shape,
            dtype=value.dtype,
            chunks=chunks,
            shards=shards,
            compressors=codec,
        )
        made[:] = value
    group.create_array("meta/episode_ends", data=np.cumsum(LENGTHS))


def make_zip(root: Path) -> None:
    """A store of format 2 in an archive."""
    make_zarr(root)
    with zipfile.ZipFile(root / "a.zarr.zip", "w") as archive:
        for file in sorted((root / "a.zarr").rglob("*")):
            archive.write(file, str(file.relative_to(root)))
    shutil.rmtree(root / "a.zarr")


def make_hdf5(root: Path) -> None:
    """As robomimic writes it."""
    import h5py

    with h5py.File(root / "a.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(
            {"env_name": "Lift", "type": 1, "env_kwargs": {"robots": "Panda"}}
        )
        data.attrs["total"] = sum(LENGTHS)
        for number, episode in enumerate(episodes()):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = len(episode["action"])
            demo["actions"] = episode["action"]
            demo["states"] = np.zeros((len(episode["action"]), 4))
            demo.create_dataset("rewards", data=np.zeros(len(episode["action"])), compression="gzip")
            for name in ("state", "camera"):
                demo[f"obs/{name}"] = episode[name]
        file["mask/train"] = np.array([b"demo_0", b"demo_2"])


def make_minari(root: Path) -> None:
    """As Minari writes it."""
    fresh_copy(FIXTURES / "small-v0", root / "small-v0")


def make_lerobot(root: Path, version: str = "v3.0") -> None:
    """A folder of LeRobot's, with a video and pictures in tables."""
    from tests.data import lerobot_folders as folders

    made = [folders.episode(length, seed) for seed, length in enumerate((4, 3))]
    folders.write_folder(root / "a", made, version)


def the_only(root: Path) -> Path:
    """What lies in a folder."""
    return next(root.iterdir(), root / "nothing")


def look_or_convert(root: Path, work: Path) -> None:
    """Both, for what is damaged may only show in one of them; the first that refuses it ends it."""
    path = the_only(root)
    if os.stat(root).st_mtime_ns % 3:
        look(path, work)
    else:
        change_format(path, work)


def look_at_lerobot(root: Path, work: Path) -> None:
    """The same with the keys of LeRobot, and all its pictures."""
    path = the_only(root)
    look(path, work, "observation.state")
    source = open_demonstrations(path)
    for key in source.keys:
        source.read(key, 0, 2)


def make_mcap(root: Path) -> None:
    """Joints, a pose, pictures and a flag, half a second of them."""
    from tests.data import test_mcap as made

    messages = []
    for step in range(6):
        seconds = step / 10
        messages += [
            made.joints(seconds, 0.1 * step, 1, 2),
            made.pose(seconds, step, 0.1 * step),
            made.compressed(seconds, made.colours(step)),
            made.raw(seconds, made.colours(step), "rgb8"),
            made.plain("/on", "Bool", seconds, step > 1),
        ]
    made.write(root / "a.mcap", messages)


def read_mcap(root: Path, work: Path) -> None:
    """All of its topics, as an import does."""
    from shortcut_policy.data.import_mcap import import_mcap
    from shortcut_policy.data.mcap_reader import Recording

    keys = {
        "joints": {"topic": "/joints", "field": "position"},
        "pose": {"topic": "/pose", "field": "pose.position", "resample": "interpolate", "stamp": "log"},
        "angle": {"topic": "/pose", "field": "pose.orientation", "resample": "slerp"},
        "camera": {"topic": "/camera"},
        "raw": {"topic": "/raw"},
    }
    recording = parse(Recording, {"rate": 10, "keys": keys, "split_topic": "/on"}, "a recording")
    import_mcap([str(the_only(root))], str(work / "made.zarr"), recording)


# Policies


def make_checkpoint(root: Path) -> None:
    """A policy as it is saved."""
    save_model(small_policy(), root)


def read_checkpoint(root: Path, work: Path) -> None:
    """Load it, and act once if that is possible."""
    policy = load_policy(root)
    shapes = policy.obs_shapes
    if all(np.prod(shape) * policy.n_obs_steps < 10**6 for shape in shapes.values()):
        policy.act({name: np.zeros((1, policy.n_obs_steps, *shape)) for name, shape in shapes.items()})


def make_training_state(root: Path) -> None:
    """What a training goes on with."""
    generator = torch.Generator().manual_seed(0)
    state = {
        "step": 3,
        "ema": {"a": torch.ones(3)},
        "rng": generator.get_state(),
        "losses": [0.1, float("nan")],
    }
    torch.save(state, root / "training_state.pt")


def read_training_state(root: Path, work: Path) -> None:
    """As a training does."""
    load_training_state(root, torch.device("cpu"))


def make_export(root: Path) -> None:
    """An exported policy."""
    from shortcut_policy.runtimes.export import write_export

    write_export(small_policy(), root / "export", format="onnx")


def read_export(root: Path, work: Path) -> None:
    """As `make_checkpoint`'s."""
    read_checkpoint(root / "export", work)


def damage_export(root: Path, rng: Random) -> None:
    """All but the graph, which ONNX Runtime reads."""
    graph = (root / "export/policy.onnx").read_bytes()
    (root / "export/policy.onnx").unlink()
    damage_folder(root, rng)
    (root / "export").mkdir(exist_ok=True)
    (root / "export/policy.onnx").write_bytes(graph)


# Settings


def kinds_of_settings() -> dict[str, Any]:
    """Name of a configuration -> what reads it."""
    from shortcut_policy.commands import (
        benchmark,
        collect,
        convert,
        export,
        images,
        render,
        serve,
        teleop,
        train,
        view,
    )
    from shortcut_policy.commands.configuration import read
    from shortcut_policy.rollout.config import RolloutConfig

    def reading(kind: type) -> Callable[[Any], Any]:
        return lambda config: read(config, kind)

    return {
        "train": train.read_training,
        "rollout": reading(RolloutConfig),
        "benchmark_pusht": benchmark.read_benchmark,
        "benchmark_digits": images.read_image_benchmark,
        "collect": reading(collect.CollectSettings),
        "convert": reading(convert.ConvertSettings),
        "export": reading(export.ExportSettings),
        "render": reading(render.RenderSettings),
        "serve": reading(serve.ServeConfig),
        "teleop": reading(teleop.TeleopSettings),
        "view": reading(view.ViewSettings),
    }


def composed(name: str, overrides: list[str]) -> Any:
    """A configuration as the command line composes it."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose(name, overrides)


#: What the configurations need to be composed.
NEEDED = {
    "train": ["task=pusht"],
    "collect": ["expert=pusht", "output=x"],
    "render": ["task=pusht", "output=x"],
    "teleop": ["task=pusht", "output=x"],
    "export": ["checkpoint=x", "output=x"],
    "serve": ["checkpoint=x"],
    "rollout": ["checkpoint=x"],
    "view": ["store=x"],
    "convert": ["input=x", "output=y"],
}


def make_settings(root: Path) -> None:
    """Every configuration, as plain values."""
    from omegaconf import OmegaConf

    for name in kinds_of_settings():
        config = composed(name, NEEDED.get(name, []))
        values = OmegaConf.to_container(config, resolve=True)
        (root / f"{name}.json").write_text(json.dumps(values))


def damage_settings(root: Path, rng: Random) -> None:
    """One of them alone is damaged, and stays."""
    chosen = rng.choice(sorted(root.iterdir()))
    for other in root.iterdir():
        if other != chosen:
            other.unlink()
    damage_folder(root, rng)


def read_settings(root: Path, work: Path) -> None:
    """Parse, and build what needs no data."""
    from omegaconf import OmegaConf

    for file in filter(Path.is_file, root.iterdir()):
        try:
            values = json.loads(file.read_bytes())
        except ValueError:
            continue
        if not isinstance(values, dict):
            continue
        try:
            config = OmegaConf.create(values)
        except OmegaConfBaseException:
            continue
        except (RecursionError, ValueError, KeyError, TypeError):
            continue  # YAML gives no such values
        read_one(file.stem, config)


def read_one(name: str, config: Any) -> None:
    """What a command does with its configuration before its work."""
    try:
        settings = kinds_of_settings()[name](config)
    except OmegaConfBaseException as error:  # the command line says these in a sentence, too
        raise InputError(first_line(error)) from error
    if name == "train":
        build(settings.objective)


def make_overrides(root: Path) -> None:
    """A line of overrides for each command."""
    (root / "overrides.json").write_text(json.dumps({name: [] for name in kinds_of_settings()}))


#: Values as people type them, and as they mistype them.
TYPED = (
    *(
        "1",
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "null",
        "",
        "true",
        "yes",
        "[]",
        "[1,2]",
        "[1,[2,{a:b}]]",
        "{}",
        "{a:1}",
    ),
    *(
        "'x",
        '"x"',
        "${seed}",
        "${nothing}",
        "${oc.env:HOME}",
        "${oc.env:NOTHING}",
        "???",
        "a,b",
        "range(3)",
        "glob(*)",
    ),
    *(
        "x=y",
        "é",
        "1_000",
        "0x10",
        "{_target_: os.system}",
        "{_target_: 3}",
        "shortcut",
        "unet_small",
        "{",
        "\\",
        "a b",
    ),
)


@cache
def keys_of(name: str) -> tuple[str, ...]:
    """All settings of a command, under dotted names."""
    return tuple(flatten(to_plain(composed(name, NEEDED.get(name, [])))))


def damage_overrides(root: Path, rng: Random) -> None:
    """One to three overrides of one command."""
    name = rng.choice(list(kinds_of_settings()))
    keys = keys_of(name)
    overrides = []
    for _ in range(rng.randint(1, 3)):
        key = rng.choice(
            (*keys, "task", "objective", "backbone", "trainer", "encoder", "x", "hydra.run.dir", "@", "")
        )
        if rng.random() < 0.2:
            key = key.rpartition(".")[0] or key
        sign = rng.choice(("", "", "", "+", "++", "~"))
        overrides.append(f"{sign}{key}={rng.choice(TYPED)}" if rng.random() < 0.95 else f"{sign}{key}")
    (root / "overrides.json").write_text(json.dumps({name: overrides}))


def read_overrides(root: Path, work: Path) -> None:
    """Compose and parse them, as a command does."""
    for name, overrides in json.loads((root / "overrides.json").read_text()).items():
        try:
            config = composed(name, [*NEEDED.get(name, []), *overrides])
        except (HydraException, OmegaConfBaseException, AssertionError, TypeError, ValueError) as error:
            # The command line turns all of them into sentences.
            raise InputError(first_line(error)) from error
        read_one(name, config)


# Results, runs and images


def make_run(root: Path) -> None:
    """A run folder: configuration, log, a checkpoint with its training state; and a recording's settings."""
    import yaml

    config = {"task": {"name": "small"}, "trainer": {"max_steps": 3}, "seed": 0, "wandb": {}, "objective": {}}
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    lines = [{"step": step, "kind": "train", "loss": 0.1} for step in range(3)]
    (root / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    save_model(small_policy(), root / "checkpoints/step_00000003")
    recording = {"rate": 10, "keys": {"a": {"topic": "/a", "field": "b"}}}
    (root / "recording.yaml").write_text(yaml.safe_dump(recording))


def each_by_itself(*reads: Callable[[], Any]) -> None:
    """All of them; the first refusal is raised after the last, for it must not hide what others do."""
    refused: list[InputError] = []
    for read in reads:
        try:
            read()
        except InputError as error:
            refused.append(error)
    if refused:
        raise refused[0]


def read_run(root: Path, work: Path) -> None:
    """What a training that goes on, and tables and plots, read of a run."""
    from shortcut_policy.commands.import_mcap import read_recording
    from shortcut_policy.training.log import read_log
    from shortcut_policy.training.run_folder import check_data, check_output

    document = {"task": {"name": "small"}, "trainer": {"max_steps": 4}, "seed": 0}
    each_by_itself(
        lambda: check_output(root, document, resume=True),
        lambda: check_data(root, "x", {"episodes": 3}),
        lambda: read_log(root),
        lambda: read_recording(str(root / "recording.yaml")),
        lambda: load_policy(root),
    )


def make_results(root: Path) -> None:
    """Files of results as rollouts and benchmarks write them."""
    settings = {"steps": 1, "episodes": 2, "env": {"id": "x"}}
    cell: dict[str, Any] = {"settings": settings, "score": 0.5, "success": 0.5, "episodes": 2, "command": "x"}
    cell |= {"score_ci": [0.4, 0.6], "success_ci": [0.1, 0.9]}
    (root / "summary.json").write_text(json.dumps(cell))
    (root / "results.json").write_text(json.dumps([{"name": "a", "steps": 1, "score": 0.5}]))
    (root / "compute.json").write_text(
        json.dumps([{"name": "a", "phases": [{"name": "train", "seconds": 1.0}]}])
    )
    spec = small_policy().spec
    run = {
        "kind": "run",
        "run": 0,
        "spec": spec,
        "training": {"seed": 0},
        "checkpoints": ["x"],
        "losses": [[1, 0.5]],
    }
    line = {"kind": "cell", "run": 0, "checkpoint": "x", "steps": 1, "summary": cell}
    lines = [run, {**line, "score": [0.5, 0.6], "success": [1, 0]}]
    (root / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_results(root: Path, work: Path) -> None:
    """Each file by itself."""
    from shortcut_policy.benchmark import result_files
    from shortcut_policy.model_card import read_results as read_summary

    each_by_itself(
        lambda: result_files.read_rows(root),
        lambda: result_files.read_compute(root),
        lambda: result_files.read_published(root / "a.jsonl"),
        lambda: read_summary(root / "summary.json"),
    )


def make_images(root: Path) -> None:
    """A folder of images, the same as an archive, and arrays."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(4):
        path = root / f"folder/{'ab'[number % 2]}/{number}.{('png', 'jpg')[number // 2]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).save(path)
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for file in sorted((root / "folder").rglob("*.*")):
            archive.write(file, str(file.relative_to(root / "folder")))
    np.savez(
        root / "arrays.npz", images=rng.integers(0, 255, (4, 6, 6, 3), np.uint8), labels=np.arange(4) % 2
    )


def read_images(root: Path, work: Path) -> None:
    """Each of them by itself."""
    from shortcut_policy.images.sources import arrays, image_folder

    each_by_itself(
        lambda: image_folder(root / "folder", size=6, workers=0, cache=work),
        lambda: image_folder(root / "images.zip", size=6, workers=0, cache=work),
        lambda: arrays(root / "arrays.npz"),
    )


TARGETS: dict[str, Target] = {
    "zarr": Target(make_zarr, look_or_convert),
    "zarr_3": Target(make_zarr_3, look_or_convert),
    "zarr_zip": Target(make_zip, look_or_convert),
    "hdf5": Target(make_hdf5, look_or_convert),
    "minari": Target(make_minari, look_or_convert),
    "lerobot_3": Target(make_lerobot, look_at_lerobot),
    "lerobot_2": Target(lambda root: make_lerobot(root, "v2.1"), look_at_lerobot),
    "mcap": Target(make_mcap, read_mcap),
    "checkpoint": Target(make_checkpoint, read_checkpoint),
    "training_state": Target(make_training_state, read_training_state),
    "export": Target(make_export, read_export, damage_export),
    "settings": Target(make_settings, read_settings, damage_settings),
    "overrides": Target(make_overrides, read_overrides, damage_overrides),
    "run": Target(make_run, read_run),
    "results": Target(make_results, read_results),
    "images": Target(make_images, read_images),
}
