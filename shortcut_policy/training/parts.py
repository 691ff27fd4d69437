"""What a training configuration stands for: the data, and the model that the training begins with."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.build import build
from shortcut_policy.checkpoint import check_weights, describe_model, list_checkpoints, load_model
from shortcut_policy.data import DemonstrationDataset, EpisodeSource
from shortcut_policy.data.agreement import SAME_RATE, recorded_rate
from shortcut_policy.data.fields import ACTION, SIZES
from shortcut_policy.data.normalizer import FAR
from shortcut_policy.encoders.per_task import FittedEncoder
from shortcut_policy.encoders.weights import load_weights
from shortcut_policy.errors import InputError
from shortcut_policy.model import Model, build_model
from shortcut_policy.policy import Policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.training.batches import LearnedFrom
from shortcut_policy.training.config import DataConfig, PolicyTask, TrainerConfig, TrainingConfig
from shortcut_policy.training.cost import evaluations_per_update
from shortcut_policy.training.initialise import ORIGIN, initialise
from shortcut_policy.training.precision import computes_bf16, training_device
from shortcut_policy.training.run_folder import TOTALS, method_name, output_folder, snake_case
from shortcut_policy.training.teacher import taught_by
from shortcut_policy.trust import trusted_in

#: By which data that are scaled to [-1, 1] may leave it.
BOUND_ROUNDING = 1e-4
#: Windows at a time that an encoder is fitted to.
FITTED_WINDOWS = 4096


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
    saved, trust = list_checkpoints(output_folder(config)), trusted_in(config.document())
    if config.init_from is None and config.teacher is None:
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            model = build_model(spec)
        if config.encoder_weights is not None and not saved:
            load_weights(model.encoder, config.encoder_weights)
        _fit(model, dataset)
    elif saved:
        # A run that goes on has its own weights, and may outlive the checkpoint that it began from.
        model = load_model(saved[-1], trust=trust).train()
    elif config.teacher is not None:
        taught = taught_by(spec, config.teacher, trust)
        model = initialise(taught, config.task.name, config.teacher, option="teacher", trust=trust)
        _say_far(model, dataset)
    else:
        model = initialise(spec, config.task.name, str(config.init_from), trust=trust)
        _say_far(model, dataset)
    _check_bounded(model, dataset)
    _say_clamped(model, dataset)
    origin = {key: value for key, value in model.metadata.items() if key == "init_from"}
    task = {"name": config.task.name, "env": config.task.env}
    described = describe(model, dataset, config.trainer, config.seed, config.cpu, config.name, task)
    _say_other_rate(origin.get("init_from", {}), described, dataset)
    model.metadata = described | origin
    return model


def specification(config: TrainingConfig, dataset: LearnedFrom) -> dict[str, Any]:
    """Of the model, as its checkpoints hold it, see `Policy.from_spec`."""
    names = ("encoder", "backbone", "precondition", "objective")
    spec = {name: getattr(config, name) for name in names}
    if isinstance(dataset, Describing):
        return spec | dict(dataset.spec)
    assert isinstance(config.task, PolicyTask)
    fields = {"obs": config.task.obs, "action": config.task.action}
    told = {name: getattr(config, name) for name in ("obs_noise", "obs_clamp", "prefix_steps")}
    return spec | fields | config.task.sizes | told


def describe(
    model: Model,
    dataset: LearnedFrom,
    trainer: TrainerConfig,
    seed: int,
    cpu: bool,
    name: str | None = None,
    task: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a checkpoint says of itself, plain JSON.

    Args:
        model: Of which the specification is told.
        dataset: That it learns from.
        trainer: Settings of the loop.
        seed: Of the training.
        cpu: Whether a GPU is left alone.
        name: Of the method; the objective's if None.
        task: ``name`` and ``env`` of the task; called as the data set and without environment if None.
    """
    batch = dataset.batch(dataset.train[torch.arange(trainer.batch_size) % len(dataset.train)])
    bf16 = computes_bf16(trainer.precision, training_device(cpu))
    objective, backbone = model.spec["objective"], model.spec["backbone"]
    return {
        "method": method_name(name, objective),
        "objective": snake_case(objective),
        "backbone": snake_case(backbone.get("network", backbone)),
        "parameters": sum(p.numel() for p in model.parameters()),
        "task": dict(task or {"name": Path(dataset.source.path).stem, "env": None}),
        **_learned_from(dataset),
        "batch_size": trainer.batch_size,
        "max_steps": trainer.max_steps,
        "train_nfe_per_step": evaluations_per_update(model, batch, trainer.batch_size),
        "optimizer": trainer.optimizer,
        "precision": "bf16" if bf16 else "fp32",
        "seed": seed,
        "commit": commit(),
        "command": command_line(),
    }


def _learned_from(dataset: LearnedFrom) -> dict[str, Any]:
    """Name and size of the data; of demonstrations how long they are, in steps, sums of their numbers, and
    their rate, if they say it.
    """
    named = {"dataset": Path(dataset.source.path).name, **dataset.size}
    if not isinstance(dataset, DemonstrationDataset):
        return named
    rate, lengths = recorded_rate(dataset.source), np.diff(dataset.source.episode_ends, prepend=0)
    steps = float(np.median(lengths[dataset.train_episodes]))
    recorded = {"episode_steps": steps, TOTALS: dataset.totals()}
    return named | recorded | ({} if rate is None else {"rate_hz": rate})


def prepare(model: Model, dataset: LearnedFrom, trainer: TrainerConfig, seed: int, cpu: bool) -> None:
    """Make a model of Python ready for its training; one that `make_model` made is.

    Its normaliser is fitted to the data, if nothing has fitted it, and its metadata are filled. What is in
    them already stays, such as ``task`` and ``method``. Those of a policy that was trained before say what it
    begins from.

    Raises:
        InputError: It has no specification, or other fields or sizes than the data; or its checkpoints could
            not be written, because metadata such as the arguments of the environment are no JSON.
    """
    _prepare(model, dataset, trainer, seed, cpu)
    describe_model(model)
    if (missed := model.objective.missed(trainer.batch_size, trainer.max_steps)) is not None:
        print(missed, file=sys.stderr)


def _prepare(model: Model, dataset: LearnedFrom, trainer: TrainerConfig, seed: int, cpu: bool) -> None:
    """See `prepare`."""
    if not model.spec:
        raise InputError(
            "this model has no specification, without which its checkpoints could not be loaded: build it "
            "with Policy.build or Policy.from_spec"
        )
    check_weights(model, "trained")
    if isinstance(model, Policy) and isinstance(dataset, DemonstrationDataset):
        _check_fits(model, dataset)
    fitted = model.normalizer.fitted
    if not fitted:
        _fit(model, dataset)
    _check_bounded(model, dataset)
    known = model.metadata
    if "train_steps" in known:  # of another training
        origin = {key: known[key] for key in ORIGIN if key in known}
        known = {"task": known["task"]} if "task" in known else {}
        known["init_from"] = {"checkpoint": None, **origin}
    elif "train_nfe_per_step" in known:  # prepared before, but perhaps for other data
        model.metadata = {k: v for k, v in known.items() if k != "rate_hz"} | _learned_from(dataset)
        return
    if fitted:
        _say_far(model, dataset)
    _say_clamped(model, dataset)
    described = describe(model, dataset, trainer, seed, cpu)
    _say_other_rate(known.get("init_from", {}), described, dataset)
    task = {key: value for key, value in known.get("task", {}).items() if value is not None}
    model.metadata = described | known | {"task": described["task"] | task}


def _fit(model: Model, dataset: LearnedFrom) -> None:
    """Statistics of the training data for the normaliser, and for an encoder that has some of its own."""
    model.normalizer = dataset.fit_normalizer()
    if isinstance(model.encoder, FittedEncoder) and isinstance(dataset, DemonstrationDataset):
        observed = (dataset.batch(part)["obs"] for part in dataset.train.split(FITTED_WINDOWS))
        normalize = model.normalizer.normalize
        model.encoder.fit({name: normalize(name, x) for name, x in obs.items()} for obs in observed)


def _check_bounded(model: Model, dataset: LearnedFrom) -> None:
    """Refuse an objective that clips its samples to [-1, 1] where the actions reach beyond.

    Whatever scales them: ``identity`` and ``unscaled`` leave them as they are, and a normaliser of other data
    may not hold them.
    """
    if not model.objective.bounded or not isinstance(dataset, DemonstrationDataset):
        return
    largest = _reached(model, dataset, ACTION).abs().amax(0)
    if largest.max() > 1 + BOUND_ROUNDING:
        element = int(largest.argmax())
        raise InputError(
            f"objective.clip_sample=true keeps samples in [-1, 1], and element {element} of the action "
            f"reaches {largest[element]:.3g} as the network sees it: give the action's field "
            "normalize=limits, or objective.clip_sample=false"
        )


def _say_far(model: Model, dataset: LearnedFrom) -> None:
    """On stderr, which training data lie far from those that the normaliser was made of: other units?"""
    if not isinstance(dataset, DemonstrationDataset):
        return
    for name, field in dataset.fields.items():
        if field.normalize in FAR:
            ends = torch.from_numpy(dataset.value_range(name)).float().to(model.device)
            model.normalizer.say_far({name: ends}, of="in the training data")


def _say_other_rate(origin: Mapping[str, Any], described: Mapping[str, Any], dataset: LearnedFrom) -> None:
    """On stderr, that data are of another rate than those of the policy that training begins from."""
    before, now = origin.get("rate_hz"), described.get("rate_hz")
    if before and now and abs(now / before - 1) > SAME_RATE:
        print(
            f"the policy that training begins from learned from data of {before:g} steps a second, and "
            f"{dataset.source.path} has {now:g}: a chunk lasts {before / now:.3g} times as long there; bring "
            "the data to its rate, or train anew",
            file=sys.stderr,
        )


def _say_clamped(model: Model, dataset: LearnedFrom) -> None:
    """On stderr, which training data ``obs_clamp`` changes: it is there for what they do not hold."""
    if not isinstance(model, Policy) or not isinstance(dataset, DemonstrationDataset):
        return
    size = model.obs_clamp
    for name, field in dataset.fields.items():
        if size is None or name == ACTION or field.normalize not in FAR:
            continue
        y = _reached(model, dataset, name)
        beyond = (y - model.normalizer.clamped(name, y, size)).abs().amax(0)
        if beyond.max() > BOUND_ROUNDING:
            index = [int(i) for i in np.unravel_index(int(beyond.argmax()), field.shape)]
            reached = size + beyond.max().item()
            print(
                f"obs_clamp={size:g} cuts training data: element {index} of '{name}' "
                f"(normalize={field.normalize}) reaches {reached:.3g}; to leave them as they are, give "
                f"obs_clamp={math.ceil(10 * reached) / 10:g}",
                file=sys.stderr,
            )


def _reached(model: Model, dataset: DemonstrationDataset, name: str) -> Tensor:
    """The ends of each element of a field as the network sees them, (2, *shape)."""
    ends = torch.from_numpy(dataset.value_range(name)).float().to(model.device)
    return model.normalizer.normalize(name, ends).cpu()


def _check_fits(policy: Policy, dataset: DemonstrationDataset) -> None:
    """Refuse data of other names, shapes, scaling or sizes than the policy's."""
    for size in SIZES:
        ours, theirs = getattr(policy, size), getattr(dataset, size)
        if ours != theirs:
            raise InputError(f"the policy has {size}={ours} and the data set {theirs}: give both the same")
    fields = {**policy.spec["obs"], "action": policy.spec["action"]}
    if fields.keys() != dataset.fields.keys():
        raise InputError(
            f"the policy has the fields {', '.join(fields)}, and the data set {', '.join(dataset.fields)}: "
            "give both the same"
        )
    for name, spec in fields.items():
        ours, theirs = build(spec), dataset.fields[name]
        # Data may have other names for the same, and then in other places.
        for trait in ("shape", "normalize", "unscaled", *(["elements"] if ours.key == theirs.key else [])):
            if getattr(ours, trait) != getattr(theirs, trait):
                raise InputError(
                    f"the policy's field '{name}' has {trait}={getattr(ours, trait)}, and the data set's "
                    f"{getattr(theirs, trait)}: give both the same"
                )
