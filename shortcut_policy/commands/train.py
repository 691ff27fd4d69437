"""From a configuration to a trained policy."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from shortcut_policy.build import build
from shortcut_policy.checkpoint import has_reached, list_checkpoints, load_model, read_description
from shortcut_policy.data import DemonstrationDataset
from shortcut_policy.errors import InputError
from shortcut_policy.images.checks import check_classes
from shortcut_policy.images.dataset import ImageDataset
from shortcut_policy.images.image_set import ImageSource
from shortcut_policy.images.model import ImageModel
from shortcut_policy.locks import FileLock
from shortcut_policy.model import Model, build_model
from shortcut_policy.objectives import Draws, Objective
from shortcut_policy.objectives.base import allowed_steps, cost_phases, teacher_phase
from shortcut_policy.paths import CONFIG_DIR, write_atomic
from shortcut_policy.policy import Policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.renamed import rename
from shortcut_policy.settings import LARGEST_SEED, check_choice, check_keys, check_whole
from shortcut_policy.training.config import TrainerConfig, compared, first_difference, flatten
from shortcut_policy.training.initialise import initialise
from shortcut_policy.training.log import RunLog
from shortcut_policy.training.teacher import taught_by
from shortcut_policy.training.trainer import Pictures, Rollouts, Trainer

SIZES = ("horizon", "n_obs_steps", "n_action_steps")
#: Groups of the configuration that are each an object.
BUILT = ("encoder", "backbone", "objective", "trainer")


def run(config: DictConfig) -> Path:
    """Train a policy, or a generator of images, as ``configs/train.yaml`` describes, or go on with one.

    Returns:
        The run folder: ``config.yaml``, ``log.jsonl`` and ``checkpoints/step_*``.

    Raises:
        InputError: Something in the configuration, the data or the run folder cannot be used.
    """
    plain = to_plain(config)
    _check_settings(plain)
    settings: TrainerConfig = build(plain["trainer"])
    output = output_folder(plain)
    _check_output(output, plain)
    if has_reached(output, settings.max_steps):
        return output
    dataset = make_dataset(config)
    model = make_model(config, dataset)
    _check_data(output, dataset)
    rollouts = None
    if settings.rollout_every:
        rollouts = rollouts_in(model, settings, plain["seed"])
    pictures = pictures_in(model, output, settings, plain["seed"])
    trainer = Trainer(model, dataset, settings, output, plain["seed"], rollouts, plain["cpu"], pictures)
    log, main = None, trainer.accelerator.is_main_process
    with only_training(output) if main else nullcontext():
        trainer.resume()
        if main:
            write_atomic(output / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
            log = RunLog(output, trainer.step, plain["wandb"], plain)
            if settings.warmup_steps >= settings.max_steps:
                print(
                    f"the learning rate rises for trainer.warmup_steps={settings.warmup_steps} updates, and "
                    f"the training ends at trainer.max_steps={settings.max_steps}, before its peak: for more "
                    "than a try, warm up for a tenth of the updates or less",
                    file=sys.stderr,
                )
        try:
            trainer.fit(log)
        finally:
            if log is not None:
                log.close()
    return output


@contextmanager
def only_training(output: Path) -> Iterator[None]:
    """Keep other trainings out of a run folder: each would overwrite what the other logs and saves.

    Raises:
        InputError: One is at work there.
    """
    output.mkdir(parents=True, exist_ok=True)
    busy = f"another process is training in {output}: wait for it, end it, or give another output"
    with FileLock(output / ".lock", busy, f"start no second training in {output}"):
        yield


def to_plain(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain, resolved containers."""
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def make_dataset(config: DictConfig) -> DemonstrationDataset | ImageDataset:
    """The demonstrations, or images, of a training configuration, checked."""
    plain = to_plain(config)
    task = plain["task"]
    source = build(task["source"])
    if isinstance(source, ImageSource):
        check_classes(source, guided=plain["objective"].get("guidance") is not None)
        return ImageDataset(source, task.get("flip", False))
    return DemonstrationDataset(
        source,
        {name: build(field) for name, field in task["obs"].items()},
        build(task["action"]),
        **{name: task[name] for name in SIZES},
        **plain["data"],
        seed=plain["seed"],
    )


def make_model(config: DictConfig, dataset: DemonstrationDataset | ImageDataset) -> Model:
    """The policy or generator of images that a training begins with, its normaliser and metadata set."""
    plain = to_plain(config)
    spec = {name: plain[name] for name in ("encoder", "backbone", "precondition", "objective")}
    if isinstance(dataset, ImageDataset):
        if plain["obs_noise"] is not None:
            raise InputError(f"obs_noise={plain['obs_noise']} is for policies: images have no observations")
        spec |= dataset.spec
    else:
        spec |= {name: plain["task"][name] for name in ("obs", "action", *SIZES)}
        spec["obs_noise"] = plain["obs_noise"]
    saved = list_checkpoints(output_folder(plain))
    _check_origin(plain)
    if plain["init_from"] is None and plain["teacher"] is None:
        with torch.random.fork_rng():
            torch.manual_seed(plain["seed"])
            model = build_model(spec)
        model.normalizer = dataset.fit_normalizer()
    elif saved:
        # A run that goes on has its own weights, and may outlive the checkpoint that it began from.
        model = load_model(saved[-1]).train()
    elif plain["teacher"] is not None:
        spec, task = taught_by(spec, plain["teacher"]), plain["task"]["name"]
        model = initialise(spec, task, plain["teacher"], option="teacher")
    else:
        model = initialise(spec, plain["task"]["name"], plain["init_from"])
    origin = {key: value for key, value in model.metadata.items() if key == "init_from"}
    model.metadata = describe(plain, model, build(plain["trainer"]), dataset) | origin
    return model


def output_folder(config: Mapping[str, Any]) -> Path:
    """The run folder of a configuration."""
    return Path(str(config["output"] or default_output(config)))


def default_output(config: Mapping[str, Any]) -> str:
    """Run folder of a configuration that names none: ``runs/<task>_<method>_<backbone>_seed<n>``."""
    backbone = _snake_case(config["backbone"]["_target_"])
    return f"runs/{config['task']['name']}_{method_name(config)}_{backbone}_seed{config['seed']}"


def method_name(config: Mapping[str, Any]) -> str:
    """Name under which tables list a run: ``name``, or the objective's."""
    return config["name"] or _snake_case(config["objective"]["_target_"])


def describe(
    config: Mapping[str, Any],
    model: Model,
    settings: TrainerConfig,
    dataset: DemonstrationDataset | ImageDataset,
) -> dict[str, Any]:
    """What a checkpoint says of itself, plain JSON."""
    task = config["task"]
    return {
        "method": method_name(config),
        "objective": _snake_case(config["objective"]["_target_"]),
        "backbone": _snake_case(config["backbone"]["_target_"]),
        "parameters": sum(p.numel() for p in model.parameters()),
        "task": {"name": task["name"], "env": task.get("env")},
        "dataset": Path(dataset.source.path).name,
        **dataset.size,
        "batch_size": settings.batch_size,
        "max_steps": settings.max_steps,
        "train_nfe_per_step": evaluations_per_update(model, dataset, settings.batch_size),
        "optimizer": settings.optimizer,
        "precision": "bf16" if settings.computes_bf16 else "fp32",
        "seed": config["seed"],
        "commit": commit(),
        "command": command_line(),
    }


def evaluations_per_update(
    model: Model, dataset: DemonstrationDataset | ImageDataset, batch_size: int
) -> int:
    """Rows that the networks evaluate in an update, targets included: counted in dry runs of every phase.

    They run without the network, which may be large, and the GPU not in use yet.

    Returns:
        The mean over the training, rounded.
    """
    rows = 0

    def count(x: torch.Tensor, *told: torch.Tensor) -> torch.Tensor:
        nonlocal rows
        rows += len(x)
        return torch.zeros_like(x)

    batch, total = dataset.batch(dataset.train[torch.arange(batch_size) % len(dataset.train)]), 0.0
    with patch.object(model.backbone, "forward", count), torch.no_grad():
        for start, end in cost_phases(model.objective):
            rows, teacher = 0, model if teacher_phase(model.objective, start) else None
            model(**batch, ema=model, draws=Draws(torch.Generator()), progress=start, teacher=teacher)
            total += rows * (end - start)
    return round(total)


def rollouts_in(model: Model, settings: TrainerConfig, seed: int) -> Rollouts:
    """Evaluation in the task's environment during training; score and success of each step count.

    Raises:
        InputError: The task has no environment, or one that does not fit.
    """
    from shortcut_policy.rollout.evaluate import environment_maker
    from shortcut_policy.rollout.play import rollout, try_environment

    if not isinstance(model, Policy) or not model.metadata["task"]["env"]:
        raise InputError(
            f"trainer.rollout_every={settings.rollout_every} needs an environment, and the task has none; "
            "set task.env, or trainer.rollout_every=0"
        )
    counts = _usable_steps(model.objective, settings, "rollout_steps")
    make_env = environment_maker(model, {})
    try_environment(model, make_env, counts[0])
    seeds = range(settings.rollout_seed, settings.rollout_seed + settings.rollout_episodes)

    def evaluate(policy: Model, step: int) -> dict[str, float]:
        assert isinstance(policy, Policy)
        values: dict[str, float] = {}
        for steps in counts:
            results = rollout(policy, make_env, seeds, steps, seed=seed)
            values[f"score_{steps}"] = sum(r.score for r in results) / len(results)
            values[f"success_{steps}"] = sum(r.success for r in results) / len(results)
        return values

    return evaluate


def pictures_in(model: Model, output: Path, settings: TrainerConfig, seed: int) -> Pictures | None:
    """What draws the samples of a model of images during training; None for policies."""
    from shortcut_policy.images.pictures import pictures_of

    if not isinstance(model, ImageModel) or settings.validate_every <= 0:
        return None
    return pictures_of(output, _usable_steps(model.objective, settings, "validation_steps"), seed)


def _usable_steps(objective: Objective, settings: TrainerConfig, name: str) -> list[int]:
    """The step counts of a setting with which the objective can sample; refuse a setting without one."""
    counts: Sequence[int] = getattr(settings, name)
    usable = allowed_steps(objective, counts)
    if not usable:
        raise InputError(
            f"trainer.{name}={list(counts)} holds no step count that {type(objective).__name__} can take; "
            "give one that it can, such as [1]"
        )
    return usable


def _check_settings(config: Mapping[str, Any]) -> None:
    """Refuse what would be misread, ignored or fail late; what is built checks its own part."""
    layout = yaml.safe_load((CONFIG_DIR / "train.yaml").read_text(encoding="utf-8"))
    groups = [group for default in layout.pop("defaults") if isinstance(default, dict) for group in default]
    known = [name for name in (*groups, *layout) if "hydra" not in name]
    check_keys("the configuration", config, (), known, elsewhere=flatten(config))
    check_keys("wandb", config["wandb"], list(layout["wandb"]))
    task = config["task"]
    if not isinstance(task, Mapping):
        raise InputError(f"task={task} must be a mapping, such as those in {CONFIG_DIR / 'task'}")
    if {"obs", "action"} & task.keys():
        check_keys("task", task, ("name", "source", "obs", "action", *SIZES), ("env",))
        check_keys("data", config["data"], (), list(layout["data"]))
        named = isinstance(task["obs"], Mapping) and all(isinstance(name, str) for name in task["obs"])
        if not named or not task["obs"]:
            raise InputError(
                f"task.obs={task['obs']} must be a mapping of names to fields, one observation at least"
            )
        obs = {f"task.obs.{name}": field for name, field in task["obs"].items()}
        _check_built(obs | {"task.action": task["action"]})
    else:
        check_keys("task", task, ("name", "source"), ("flip", "env"))
        obs = {}
    _check_built({"task.source": task["source"]} | {name: config[name] for name in BUILT})
    images = [key for key, field in obs.items() if field.get("normalize") == "image"]
    if images and config["encoder"]["_target_"].endswith(".LowDimEncoder"):
        raise InputError(
            f"{images[0]} is an image, whose pixels encoder=lowdim would put end to end: give an encoder "
            "for cameras (README, Add your own)"
        )
    for name in ("resume", "cpu"):
        check_choice(name, config[name], (True, False))
    check_choice("wandb.mode", config["wandb"]["mode"], ("disabled", "offline", "online"))
    check_whole("seed", config["seed"], 0, LARGEST_SEED)


def _check_built(parts: Mapping[str, Any]) -> None:
    """Refuse parts, by their keys in the configuration, that say nothing of what to build."""
    for key, part in parts.items():
        if not isinstance(part, Mapping) or "_target_" not in part:
            raise InputError(
                f"{key}={part} must be a mapping with the class to build, {{_target_: package.Class, ...}}; "
                f"{CONFIG_DIR} holds examples"
            )


def _check_origin(config: Mapping[str, Any]) -> None:
    """Refuse a run that would begin from two checkpoints, or distil a network that nothing has trained."""
    if config["init_from"] is not None and config["teacher"] is not None:
        raise InputError(
            f"init_from={config['init_from']} and teacher={config['teacher']} exclude each other: the "
            "student begins from the teacher's weights; drop one"
        )
    if config["objective"].get("first_phase") == 0 and config["teacher"] is None:
        raise InputError(
            "objective.first_phase=0 trains no teacher: give one as teacher=<checkpoint>, or a share above 0"
        )


def _check_output(output: Path, config: Mapping[str, Any]) -> None:
    """Refuse to overwrite a run, or to go on with one under another configuration."""
    place = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not place.is_dir():
        raise InputError(f"output={output} cannot be a run folder: {place} is a file; give another output")
    if not list_checkpoints(output):
        return
    if not config["resume"]:
        raise InputError(
            f"{output} already holds a run; give resume=true to go on with it, or another output"
        )
    if not (output / "config.yaml").is_file():
        raise InputError(
            f"{output} holds checkpoints but no config.yaml, which says what they were trained with: put it "
            "back, or give another output"
        )
    before = read_config(output)
    # As for `init_from`, the order of the observations counts: the encoder puts them end to end.
    old, new = (
        compared(each) | {"task.obs": list(each["task"].get("obs") or ())} for each in (before, config)
    )
    if difference := first_difference(old, new):
        key, was, wanted = difference
        raise InputError(
            f"{output} was trained with {key}={was}, not {wanted}; a run goes on with its own configuration: "
            "drop the change or give another output"
        )


def read_config(run: Path) -> dict[str, Any]:
    """The configuration that a run was trained with.

    Raises:
        InputError: Its ``config.yaml`` is damaged.
    """
    path = run / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        damage = "" if isinstance(config, dict) and isinstance(config.get("task"), dict) else "no mapping"
    except yaml.YAMLError as error:
        damage = str(error).splitlines()[0]
    if damage:
        raise InputError(
            f"{path} is no configuration of a training ({damage}): put it back, or take another run"
        )
    renamed: dict[str, Any] = rename(config)
    return renamed


def _check_data(output: Path, dataset: DemonstrationDataset | ImageDataset) -> None:
    """Refuse to go on with a run whose data have become more or less."""
    saved = list_checkpoints(output)
    known = read_description(saved[-1])["metadata"] if saved else {}
    for key, found in dataset.size.items():
        if known.get(key, found) != found:
            what = key.replace("train_", "training ")
            raise InputError(
                f"{output} was trained with {known[key]} {what}, and {dataset.source.path} has {found} now: "
                "a run goes on with its own data, restore them or give another output"
            )


def _snake_case(target: str) -> str:
    name = target.rpartition(".")[2]
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
