"""The training command: from a configuration to a trained policy, or generator of images."""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from shortcut_policy.build import build
from shortcut_policy.checkpoint import has_reached
from shortcut_policy.commands.configuration import to_plain
from shortcut_policy.data import DemonstrationDataset
from shortcut_policy.errors import InputError
from shortcut_policy.images.checks import check_classes
from shortcut_policy.images.dataset import ImageDataset
from shortcut_policy.images.image_set import ImageSource
from shortcut_policy.images.model import ImageModel
from shortcut_policy.model import Model
from shortcut_policy.objectives.base import usable_steps
from shortcut_policy.training.config import (
    ImageTask,
    PolicyTask,
    TrainerConfig,
    TrainingConfig,
    parse_training,
)
from shortcut_policy.training.keeping import tidy_finished
from shortcut_policy.training.parts import demonstration_dataset, make_model
from shortcut_policy.training.run_folder import (
    check_data,
    check_output,
    output_folder,
)
from shortcut_policy.training.trainer import Pictures, Rollouts, Trainer


def run(config: DictConfig) -> Path:
    """Train as ``configs/train.yaml`` describes, or go on with a training; see `train`."""
    return train(read_training(config))


def read_training(config: DictConfig) -> TrainingConfig:
    """Hydra's configuration of a training as typed settings, see `parse_training`."""
    return parse_training(to_plain(config))


def train(config: TrainingConfig) -> Path:
    """Train a policy, or a generator of images, or go on with a training.

    Returns:
        The run folder: ``config.yaml``, ``log.jsonl`` and ``checkpoints/step_*``.

    Raises:
        InputError: Something in the configuration, the data or the run folder cannot be used.
    """
    output = output_folder(config)
    check_output(output, config.document(), config.resume)
    if has_reached(output, config.trainer.max_steps):
        print(f"reused: {output}, trained to update {config.trainer.max_steps} before")
        tidy_finished(output, config.trainer)
        return output
    with _said_by_the_first_process():
        dataset = make_dataset(config)
        model = make_model(config, dataset)
        check_data(output, dataset.source.path, dataset.size)
        rollouts = rollouts_of(model, config.trainer, config.seed)
        pictures = pictures_of(model, config.trainer, output, config.seed)
        trainer = Trainer(
            model, dataset, config.trainer, output, config.seed, rollouts, config.cpu, pictures, config.resume
        )
    trainer.fit(config.document(), config.wandb)
    return output


@contextlib.contextmanager
def _said_by_the_first_process() -> Iterator[None]:
    """All processes of a training read the same data: what there is to say of them on stderr is said once."""
    first = os.environ.get("RANK", "0") == "0"  # as torchrun and accelerate number them
    with contextlib.nullcontext() if first else contextlib.redirect_stderr(io.StringIO()):
        yield


def make_dataset(config: TrainingConfig) -> DemonstrationDataset | ImageDataset:
    """The demonstrations, or images, of a training configuration, checked."""
    source = build(config.task.source)
    if isinstance(source, ImageSource):
        check_classes(source, guided=config.objective.get("guidance") is not None)
        return ImageDataset(source, isinstance(config.task, ImageTask) and config.task.flip)
    if not isinstance(config.task, PolicyTask) or config.data is None:
        raise InputError(
            f"task.source={config.task.source['_target_']} gives no images: a task of demonstrations has "
            "obs, action and their sizes, see configs/task"
        )
    return demonstration_dataset(source, config.task, config.data, config.seed)


def rollouts_of(model: Model, trainer: TrainerConfig, seed: int) -> Rollouts | None:
    """Evaluation in the task's environment during training; None if it is not asked for."""
    if not trainer.rollout_every:
        return None
    from shortcut_policy.rollout.in_training import rollouts_in

    return rollouts_in(model, trainer, seed)


def pictures_of(model: Model, trainer: TrainerConfig, output: Path, seed: int) -> Pictures | None:
    """What draws the samples of a model of images during training; None for policies."""
    if not isinstance(model, ImageModel) or trainer.validate_every <= 0:
        return None
    from shortcut_policy.images.pictures import pictures_in

    steps = usable_steps(model.objective, trainer.validation_steps, "trainer.validation_steps")
    return pictures_in(output, steps, seed)
