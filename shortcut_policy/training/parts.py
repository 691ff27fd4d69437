"""What a training configuration stands for: the data, and the model that the training begins with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from shortcut_policy.build import build
from shortcut_policy.checkpoint import list_checkpoints, load_model
from shortcut_policy.data import DemonstrationDataset, EpisodeSource, Normalizer
from shortcut_policy.model import Model, build_model
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.training.batches import Dataset
from shortcut_policy.training.config import DataConfig, PolicyTask, TrainingConfig
from shortcut_policy.training.cost import evaluations_per_update
from shortcut_policy.training.initialise import initialise
from shortcut_policy.training.precision import computes_bf16, training_device
from shortcut_policy.training.run_folder import method_name, output_folder, snake_case
from shortcut_policy.training.teacher import taught_by


class Source(Protocol):
    """Where data come from."""

    @property
    def path(self) -> str:
        """Where they lie, or how they are called."""
        ...


class LearnedFrom(Dataset, Protocol):
    """A data set that a model can be made for: of demonstrations, or of images."""

    @property
    def source(self) -> Source:
        """Where the data come from."""
        ...

    @property
    def size(self) -> dict[str, int]:
        """What a checkpoint says of how much it learned from."""
        ...

    def fit_normalizer(self) -> Normalizer:
        """The scaling of these data."""
        ...


@runtime_checkable
class Describing(Protocol):
    """A data set that says itself what the specification of a model holds of it, as images do."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """That part of the specification."""
        ...


def demonstration_dataset(
    source: EpisodeSource, task: PolicyTask, data: DataConfig, seed: int
) -> DemonstrationDataset:
    """The windows of a task's demonstrations, checked."""
    obs = {name: build(field) for name, field in task.obs.items()}
    settings: dict[str, Any] = {**task.sizes, **vars(data)}
    return DemonstrationDataset(source, obs, build(task.action), **settings, seed=seed)


def make_model(config: TrainingConfig, dataset: LearnedFrom) -> Model:
    """The policy or generator of images that a training begins with, its normaliser and metadata set.

    Raises:
        InputError: Its parts, or the checkpoint that it begins from, do not fit it or each other.
    """
    spec = specification(config, dataset)
    saved = list_checkpoints(output_folder(config))
    if config.init_from is None and config.teacher is None:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = build_model(spec)
        model.normalizer = dataset.fit_normalizer()
    elif saved:
        # A run that goes on has its own weights, and may outlive the checkpoint that it began from.
        model = load_model(saved[-1]).train()
    elif config.teacher is not None:
        taught = taught_by(spec, config.teacher)
        model = initialise(taught, config.task.name, config.teacher, option="teacher")
    else:
        model = initialise(spec, config.task.name, str(config.init_from))
    origin = {key: value for key, value in model.metadata.items() if key == "init_from"}
    model.metadata = describe(config, model, dataset) | origin
    return model


def specification(config: TrainingConfig, dataset: LearnedFrom) -> dict[str, Any]:
    """Of the model, as its checkpoints hold it, see `Policy.from_spec`."""
    names = ("encoder", "backbone", "precondition", "objective")
    spec = {name: getattr(config, name) for name in names}
    if isinstance(dataset, Describing):
        return spec | dict(dataset.spec)
    assert isinstance(config.task, PolicyTask)
    fields = {"obs": config.task.obs, "action": config.task.action}
    return spec | fields | config.task.sizes | {"obs_noise": config.obs_noise}


def describe(config: TrainingConfig, model: Model, dataset: LearnedFrom) -> dict[str, Any]:
    """What a checkpoint says of itself, plain JSON."""
    trainer = config.trainer
    batch = dataset.batch(dataset.train[torch.arange(trainer.batch_size) % len(dataset.train)])
    bf16 = computes_bf16(trainer.precision, training_device(config.cpu))
    return {
        "method": method_name(config.name, config.objective),
        "objective": snake_case(config.objective),
        "backbone": snake_case(config.backbone),
        "parameters": sum(p.numel() for p in model.parameters()),
        "task": {"name": config.task.name, "env": config.task.env},
        "dataset": Path(dataset.source.path).name,
        **dataset.size,
        "batch_size": trainer.batch_size,
        "max_steps": trainer.max_steps,
        "train_nfe_per_step": evaluations_per_update(model, batch, trainer.batch_size),
        "optimizer": trainer.optimizer,
        "precision": "bf16" if bf16 else "fp32",
        "seed": config.seed,
        "commit": commit(),
        "command": command_line(),
    }
