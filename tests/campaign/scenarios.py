"""The commands of the campaign: what they are given, what they leave, and how two results are compared."""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

TRAIN = (
    "task=pusht_human task.source.path={inputs}/states.zarr "
    "backbone=unet_small backbone.down_dims=[8,16] backbone.embedding_dim=8 backbone.n_groups=4 "
    "trainer.max_steps=8 trainer.batch_size=4 trainer.warmup_steps=2 trainer.checkpoint_every=2 "
    "trainer.keep_last=2 trainer.log_every=1 trainer.validate_every=4 trainer.precision=fp32 "
    "trainer.validation_windows=4 data.val_fraction=0.2 cpu=true output=run"
)
PLAY = "episodes=2 +env.max_steps=9 num_envs=2"


@dataclass(frozen=True)
class Scenario:
    """A command that writes.

    Attributes:
        name: Of the scenario.
        command: Function of the command line, or of this module.
        arguments: With ``{inputs}`` for the folder of what `make_inputs` makes.
        again: What is added where the command is given a second time.
        whole: Whether what a kill has left is whole under each name that is seen, given the undisturbed
            result; raises if not.
        workers: It has processes of its own.
    """

    name: str
    command: str
    arguments: str
    again: str = ""
    whole: Callable[[Path, Path], int] | None = None
    workers: bool = False

    env: dict[str, str] = field(default_factory=dict)


def whole_run(work: Path, reference: Path) -> int:
    """Each checkpoint loads and is that of the undisturbed training, the log can be read; the last update."""
    import torch

    from shortcut_policy.checkpoint import checkpoint_step, list_checkpoints, load_model, load_training_state
    from shortcut_policy.training.log import read_log

    run = work / "run"
    for number, folder in enumerate(found := list_checkpoints(run)):
        load_model(folder)
        same = reference / "run" / "checkpoints" / folder.name / "policy.safetensors"
        if same.exists():
            assert same.read_bytes() == (folder / "policy.safetensors").read_bytes(), f"{folder} differs"
        if number == len(found) - 1:
            load_training_state(folder, torch.device("cpu"))
    read_log(run)
    return checkpoint_step(found[-1]) if found else 0


def whole_store(name: str) -> Callable[[Path, Path], int]:
    """The episodes of a zarr store are the first of the undisturbed one."""

    def check(work: Path, reference: Path) -> int:
        from shortcut_policy.data import ZarrSource
        from shortcut_policy.errors import InputError

        if not (work / name).exists():
            return 0
        try:
            found = ZarrSource(work / name)
        except InputError:  # without a whole episode
            from shortcut_policy.data import EpisodeWriter

            with EpisodeWriter(_copy(work / name)) as writer:
                assert writer.n_episodes == 0
            shutil.rmtree(work / f"copy_of_{name}")
            return 0
        wanted = ZarrSource(reference / name)
        ends = found.episode_ends
        assert ends.tolist() == wanted.episode_ends[: len(ends)].tolist(), "other episodes"
        for key in wanted.keys:
            same = np.array_equal(found.read(key, 0, int(ends[-1])), wanted.read(key, 0, int(ends[-1])))
            assert same, f"{key} differs"
        return len(ends)

    return check


def _copy(path: Path) -> Path:
    copy = path.with_name(f"copy_of_{path.name}")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(path, copy)
    return copy


def whole_files(*growing: str) -> Callable[[Path, Path], int]:
    """What has the name of a finished file is that file; but for those that grow."""

    def check(work: Path, reference: Path) -> int:
        wanted, found = contents(reference), contents(work)
        for name, value in found.items():
            if name in wanted and not any(re.search(pattern, name) for pattern in growing):
                assert value == wanted[name], f"{name} is not the finished file"
        return 0

    return check


SCENARIOS = [
    Scenario("train", "train", TRAIN, "resume=true", whole_run),
    Scenario(
        "train of images",
        "train",
        f"{TRAIN.replace('task=pusht_human', 'task=pusht_image_human')} "
        "task.source.path={inputs}/images.zarr encoder=image_light "
        "data.memory_limit_mb=0 data.cache=cache trainer.max_steps=4 trainer.checkpoint_every=2",
        "resume=true",
        whole_run,
    ),
    Scenario(
        "collect",
        "collect",
        "--config-dir {inputs}/configs expert=points episodes=5 output=demos.zarr",
        "",
        whole_store("demos.zarr"),
    ),
    Scenario(
        "collect with workers",
        "collect",
        "--config-dir {inputs}/configs expert=points episodes=4 workers=2 output=demos.zarr",
        "",
        whole_store("demos.zarr"),
        workers=True,
    ),
    Scenario(
        "collect to HDF5",
        "collect",
        "--config-dir {inputs}/configs expert=arms episodes=5 output=demos.hdf5",
        "",
        whole_files(r"\.parts/"),
    ),
    Scenario(
        "render",
        "render",
        "task.source.path={inputs}/states.zarr task=pusht_human output=images.zarr size=32",
        "",
        whole_store("images.zarr"),
    ),
    Scenario("convert to zarr", "convert", "input={inputs}/arms.hdf5 output=out.zarr", "", whole_files()),
    Scenario("convert to HDF5", "convert", "input={inputs}/arms.zarr output=out.hdf5", "", whole_files()),
    Scenario(
        "convert to LeRobot",
        "convert",
        "input={inputs}/images.zarr output=out.lerobot fps=10 instruction=push lossy=true",
        "",
        whole_files(),
    ),
    Scenario(
        "convert to LeRobot videos",
        "convert",
        "input={inputs}/images.zarr output=out.lerobot fps=10 instruction=push videos=true lossy=true",
        "",
        whole_files(),
    ),
    Scenario(
        "convert to Minari", "convert", "input={inputs}/arms.zarr output=out-v0 lossy=true", "", whole_files()
    ),
    Scenario(
        "rollout",
        "rollout",
        f"checkpoint={{inputs}}/run steps=[1,2] {PLAY} output=rolled videos=1",
        "",
        whole_files(
            r"\.part\.", r"episodes\.part", r"rolled/results\.json"
        ),  # a row for each number of steps
    ),
    Scenario(
        "rollout in processes",
        "rollout",
        f"checkpoint={{inputs}}/run steps=[1] {PLAY} output=rolled asynchronous=true",
        "",
        whole_files(r"\.part\.", r"episodes\.part"),
        workers=True,
    ),
    Scenario(
        "benchmark",
        "benchmark",
        f"--config-dir {{inputs}}/configs --config-name bench {PLAY} output=bench",
        "",
        whole_files(r"/runs/", r"\.part\.", r"episodes\.part"),
    ),
    Scenario("download", "download", "url={server}/arms.hdf5 output=data/arms.hdf5", "", whole_files()),
    Scenario(
        "download of a folder",
        "download",
        "dataset=zipped +sources.zipped.url={server}/zipped.zip +sources.zipped.path=data/arms.zarr",
        "",
        whole_files(),
    ),
    Scenario(
        "export",
        "export",
        "checkpoint={inputs}/run output=graph store={inputs}/states.zarr",
        "",
        whole_files(),
    ),
    Scenario(
        "import",
        "import_mcap",
        "input={inputs}/mcap recording={inputs}/robot.yaml output=out.zarr",
        "",
        whole_files(),
    ),
    Scenario("record", "record", "demos.zarr", "", whole_store("demos.zarr")),
    Scenario(
        "teleop", "teleop_played", "task=pusht output=demos.zarr size=64", "", whole_store("demos.zarr")
    ),
    Scenario("record to HDF5", "record_arms", "demos.hdf5", "", whole_files(r"\.parts/")),
    Scenario("view", "view", "store={inputs}/images.zarr output=shown", "", whole_files(r"\.part\.")),
    Scenario(
        "view as a page",
        "view",
        "store={inputs}/images.zarr output=shown format=html",
        "",
        whole_files(r"\.part\."),
    ),
    Scenario(
        "view in Rerun",
        "view",
        "store={inputs}/images.zarr output=shown format=rerun",
        "",
        whole_files(r"\.part\."),
    ),
]


def arguments_of(scenario: Scenario, inputs: Path, server: str, again: bool) -> list[str]:
    """The command line."""
    text = f"{scenario.arguments} {scenario.again if again else ''}"
    text = text.replace("{inputs}", str(inputs)).replace("{server}", server)
    return [part.strip("'") for part in re.findall(r"'[^']*'|\S+", text)]


# What is compared


#: What differs from run to run: times, dates and places.
VOLATILE = re.compile(
    r"seconds|latency|date|ms_p|_ms$|peak_|created|time|commit|flops_rate|command|per_second|memory"
    r"|^metadata$"  # a hash of what holds some of these
)


def plain(value: Any) -> Any:
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if not VOLATILE.search(str(key))}
    return [plain(item) for item in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, str]:
    """Each file below a folder: name -> what it comes to."""
    return {
        str(file.relative_to(folder)): _content(file)
        for file in sorted(folder.rglob("*"))
        # The state of a benchmark's session says when each part was made, and by whom.
        if file.is_file() and file.relative_to(folder).parts[0] != "tmp" and "parts" not in file.parts
    }


def _content(file: Path) -> str:
    data = file.read_bytes()
    try:
        if file.suffix == ".json":
            data = json.dumps(plain(json.loads(data))).encode()
        elif file.suffix == ".jsonl":
            data = b"\n".join(json.dumps(plain(json.loads(line))).encode() for line in data.splitlines())
        elif file.name == "config.yaml":  # says resume: true where it was
            data = b"".join(line for line in data.splitlines(True) if not line.startswith(b"resume:"))
        elif file.name == "training_state.pt":
            data = _state(file)
        elif file.suffix == ".npz":
            with np.load(io.BytesIO(data)) as arrays:
                data = b"".join(arrays[name].tobytes() for name in sorted(arrays))
        elif file.suffix == ".rrd":
            data = b"a recording of Rerun" if data[-12:-4] == b"RRF2FOOT" else data  # holds times
        elif file.name in ("report.html", "compute.md", "results.md", "compute.json") or (
            file.suffix in (".png", ".svg") and "bench" in str(file)
        ):
            data = b"a report with times" if data else b""
        elif file.suffix in (".hdf5", ".h5"):
            data = _hdf5(file)
    except Exception as error:
        return f"damaged: {type(error).__name__} {hashlib.sha256(data).hexdigest()[:12]}"
    return hashlib.sha256(data).hexdigest()[:16]


def _hdf5(file: Path) -> bytes:
    import h5py

    digest = hashlib.sha256()

    def add(name: str, item: Any) -> None:
        digest.update(name.encode())
        digest.update(repr(sorted((k, str(v)) for k, v in item.attrs.items())).encode())
        if hasattr(item, "shape"):
            digest.update(
                np.asarray(item[()]).tobytes() if item.dtype.kind != "O" else repr(item[()]).encode()
            )

    with h5py.File(file, "r") as opened:
        add("/", opened)
        opened.visititems(add)
    return digest.digest()


def _state(file: Path) -> bytes:
    import torch

    state = torch.load(file, weights_only=True)
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(value.numpy().tobytes())
        elif isinstance(value, dict):
            for key in value:
                if not VOLATILE.search(str(key)):
                    digest.update(str(key).encode())
                    add(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.digest()


# Commands without a command line


def in_one_sentence(command: Callable[[], None]) -> Callable[[], None]:
    """Errors as the command line says them."""

    def run() -> None:
        from shortcut_policy.errors import plain_sentence

        try:
            command()
        except Exception as error:
            sentence = plain_sentence(error)
            if sentence is None:
                raise
            print(f"error: {sentence}", file=sys.stderr)
            sys.exit(2)

    return run


@in_one_sentence
def record() -> None:
    """Episodes of a person, of which one is taken out again: what the page does, without it."""
    _record("task=pusht", 2)


@in_one_sentence
def record_arms() -> None:
    """Episodes into a file of robomimic, by the writer alone."""
    from shortcut_policy.data.robomimic_writer import RobomimicWriter

    with RobomimicWriter(sys.argv[1], {"env_args": ARMS_ENV}) as writer:
        while writer.n_episodes < 4:
            writer.add_episode(arms_episode(np.random.default_rng(writer.n_episodes)))


def _record(task: str, wanted: int) -> None:
    from hydra import compose, initialize_config_dir

    from shortcut_policy.commands.configuration import read
    from shortcut_policy.commands.teleop import TeleopSettings, make_session
    from shortcut_policy.paths import CONFIG_DIR

    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        settings = read(compose("teleop", overrides=[task, f"output={sys.argv[1]}"]), TeleopSettings)
    session, writer = make_session(settings, None)
    try:
        while writer.n_episodes < wanted:
            for _ in range(2 if writer.n_episodes == 1 else 1):
                session.begin()
                for step in range(14):
                    session.step([0.25 + 0.02 * step, 0.5], False)
                session.finish()
            if writer.n_episodes == 3:
                session.undo()
    finally:
        writer.close()


def teleop_played() -> None:
    """The command that serves the page, with a person who plays through the page's socket."""
    from shortcut_policy.commands import cli

    sys.argv += ["port=0", "rate=1000", "size=64"]
    # A daemon: a command that fails before it listens does not wait for the person.
    threading.Thread(target=_person, daemon=True).start()
    cli.teleop()


def _person() -> None:
    """Three episodes, of which the last is taken out again; then SIGTERM. What is there already is kept.

    Each message is answered by one status, so that the steps do not depend on how fast anything is.
    """
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    printed = Path(os.readlink("/proc/self/fd/1"))
    while not (link := re.search(r"record at http(://\S+)", printed.read_text(errors="replace"))):
        time.sleep(0.02)
    with contextlib.suppress(ConnectionClosed), connect("ws" + link[1].replace("/?", "/socket?")) as socket:

        def status() -> dict[str, Any]:
            while not isinstance(message := socket.recv(), str):  # a picture
                pass
            return json.loads(message)

        def answered(message: dict[str, Any]) -> dict[str, Any]:
            socket.send(json.dumps(message))
            return status()

        now = status()
        while now["episodes"] < 3:
            now = answered({"do": "begin"})
            while now["step"] < 14:
                given = [0.25 + 0.02 * now["step"], 0.5]
                now = answered({"tick": now["tick"], "given": given, "held": False})
            now = answered({"do": "finish"})
        answered({"do": "undo"})
    os.kill(os.getpid(), signal.SIGTERM)


# What the commands are given

ARMS_ENV = json.dumps(
    {"env_name": "Arms", "env_version": "1.5.1", "type": 1, "env_kwargs": {"robots": ["A"]}}
)


def arms_episode(random: np.random.Generator) -> dict[str, Any]:
    """An episode in robomimic's layout."""
    n = int(random.integers(20, 26))
    return {
        "actions": random.uniform(-1, 1, (n, 7)),
        "obs/eef_pos": random.normal(size=(n, 3)),
        "obs/object": random.normal(size=(n, 10)),
        "states": random.normal(size=(n, 20)),
        "rewards": np.zeros(n),
        "dones": np.zeros(n, np.int64),
    }


class ArmsExpert:
    """Makes episodes out of nothing."""

    attributes: ClassVar = {"env_args": ARMS_ENV}

    def episode(self, random: np.random.Generator) -> dict[str, Any]:
        """See `Expert`."""
        return arms_episode(random)


class PointsExpert:
    """The same for a zarr store."""

    attributes: ClassVar = {"expert": "points"}

    def episode(self, random: np.random.Generator) -> dict[str, Any]:
        """See `Expert`."""
        n = int(random.integers(20, 26))
        return {"state": random.normal(size=(n, 4)).astype(np.float32), "action": random.normal(size=(n, 2))}


def make_inputs(inputs: Path) -> None:
    """Stores, a file, a checkpoint and recordings, small ones; nothing if they are there."""
    if (inputs / "done").exists():
        return
    shutil.rmtree(inputs, ignore_errors=True)
    inputs.mkdir(parents=True)
    from shortcut_policy.data import EpisodeWriter
    from shortcut_policy.data.convert import convert
    from shortcut_policy.data.robomimic_writer import RobomimicWriter

    random = np.random.default_rng(0)
    with EpisodeWriter(inputs / "states.zarr") as states, EpisodeWriter(inputs / "images.zarr") as images:
        for _ in range(4):
            n = 24
            walk = (256 + random.normal(size=(n, 5)).cumsum(0)).astype(np.float32)
            action = walk[:, :2] + random.normal(size=(n, 2)).astype(np.float32)
            keypoint = (256 + random.normal(size=(n, 9, 2)).cumsum(0)).astype(np.float32)
            states.add_episode({"state": walk, "action": action, "keypoint": keypoint})
            images.add_episode(
                {"img": random.integers(0, 255, (n, 96, 96, 3), np.uint8), "state": walk, "action": action}
            )
    with RobomimicWriter(inputs / "arms.hdf5", {"env_args": ARMS_ENV}) as arms:
        for seed in range(4):
            arms.add_episode(arms_episode(np.random.default_rng(seed)))
    convert(inputs / "arms.hdf5", inputs / "arms.zarr")
    with zipfile.ZipFile(inputs / "zipped.zip", "w") as archive:
        for file in sorted((inputs / "arms.zarr").rglob("*")):
            if file.is_file():
                archive.write(file, str(file.relative_to(inputs)))
    (inputs / "configs" / "expert").mkdir(parents=True)
    (inputs / "configs" / "expert" / "arms.yaml").write_text(
        "_target_: tests.campaign.scenarios.ArmsExpert\n"
    )
    (inputs / "configs" / "expert" / "points.yaml").write_text(
        "_target_: tests.campaign.scenarios.PointsExpert\n"
    )
    _benchmark(inputs)
    _recordings(inputs)
    _checkpoint(inputs)
    (inputs / "done").touch()


def _benchmark(inputs: Path) -> None:
    training = [
        part.replace("{inputs}", str(inputs)) for part in TRAIN.split() if not part.startswith("output=")
    ]
    described = {
        "defaults": ["benchmark", "_self_"],
        "entries": [
            {"name": "a", "checkpoint": str(inputs / "run"), "steps": [1, 2]},
            {"name": "b", "overrides": ["objective=regression"], "steps": [1]},
        ],
        "training": [*training, "trainer.max_steps=4"],
        "compute_rounds": 2,
        "curve_checkpoints": 0,
    }
    (inputs / "configs" / "bench.yaml").write_text(json.dumps(described, indent=2))


def _recordings(inputs: Path) -> None:
    from mcap_ros2.writer import Writer

    (inputs / "mcap").mkdir()
    begin = 1_800_000_000 * 10**9
    for number in range(2):
        with (inputs / "mcap" / f"{number}.mcap").open("wb") as file, Writer(file, chunk_size=2000) as writer:
            schema = writer.register_msgdef("std_msgs/msg/Float64", "float64 data\n")
            for step in range(40):
                for topic in ("/state", "/command"):
                    message = SimpleNamespace(data=float(step + number))
                    writer.write_message(topic, schema, message, log_time=begin + step * 10**8)
    (inputs / "robot.yaml").write_text(
        "rate: 10\nstamp: log\nkeys:\n  state: {topic: /state, field: data}\n"
        "  action: {topic: /command, field: data}\n"
    )


def _checkpoint(inputs: Path) -> None:
    from hydra.core.global_hydra import GlobalHydra

    from shortcut_policy.commands import cli

    here = os.getcwd()
    os.chdir(inputs)
    sys.argv = ["train.py", *TRAIN.replace("{inputs}", str(inputs)).split()]
    GlobalHydra.instance().clear()
    cli.train()
    os.chdir(here)
