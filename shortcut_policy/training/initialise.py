"""Start from the weights of a trained policy, whatever it was trained for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from shortcut_policy.backbones import NoiseAsVelocity, Preconditioned
from shortcut_policy.backbones.embeddings import ScalarEmbedding
from shortcut_policy.build import build
from shortcut_policy.checkpoint import load_model
from shortcut_policy.errors import InputError
from shortcut_policy.model import Model, build_model, model_class
from shortcut_policy.objectives import Diffusion, FlowMatching, Reflow
from shortcut_policy.objectives.paths import Straight
from shortcut_policy.settings import flatten

#: Objectives that ask their network at d = 0 alone, so that it has learned nothing about d.
INSTANTANEOUS = (FlowMatching, Diffusion, Reflow)
#: What the traits of fields begin with.
FIELDS = ("task.obs.", "task.action.")
#: What a policy's metadata keeps of the one that it began from: its rate, and enough to add up the compute of
#: both.
ORIGIN = (
    "method",
    "dataset",
    "train_steps",
    "batch_size",
    "train_nfe_per_step",
    "train_seconds",
    "commit",
    "rate_hz",
)


def initialise(
    spec: Mapping[str, Any],
    task: str,
    checkpoint: str | Path,
    option: str = "init_from",
    trust: Sequence[str] = (),
) -> Model:
    """A policy that computes what a trained one does, to be trained on as ``spec`` says.

    A network that was only ever asked at d = 0 gets an embedding of d that is, for every d, its embedding of
    0: as a shortcut model it starts with the velocity as its answer to every step size, and learns from there
    what the sizes change. One that predicts the noise of a diffusion becomes a step map by `NoiseAsVelocity`,
    unless it goes on as a diffusion. The normaliser and the preconditioning are the trained policy's: others
    would change what the weights mean.

    Args:
        spec: Of the new policy, see `Policy.from_spec`.
        task: Name of the task that it is trained on.
        checkpoint: Checkpoint or run folder of the trained policy.
        option: By which the user gave it.
        trust: Modules whose classes the checkpoint may name, see `load_policy`.

    Returns:
        The policy; its metadata is the part that says where it began, ``init_from``.

    Raises:
        InputError: There is no checkpoint there, or it is of another task or path, other shapes or sizes.
    """
    old = load_model(checkpoint, trust=trust)
    given = f"{option}={checkpoint}"
    check_fits(spec, task, old, given)
    precondition = old.spec["precondition"] if isinstance(old.backbone, Preconditioned) else None
    backbone = _as_step_map(spec, old, given)
    policy = build_model({**spec, "backbone": backbone, "precondition": precondition})
    _load(policy.encoder, old.encoder, f"the encoder of {given}")
    _load(_network(policy), _network(old), f"the backbone of {given}")
    policy.normalizer.load_state_dict(old.normalizer.state_dict())
    if isinstance(old.objective, INSTANTANEOUS):
        _forget_step_sizes(_network(policy), given)
    known = {name: old.metadata[name] for name in ORIGIN if name in old.metadata}
    policy.metadata = {"init_from": {"checkpoint": str(checkpoint), **known}}
    return policy


def check_fits(spec: Mapping[str, Any], task: str, old: Model, given: str) -> None:
    """Check that a trained policy has the task, fields, sizes, encoder and backbone of a new one.

    Args:
        spec: Of the new policy, see `Policy.from_spec`.
        task: Name of its task.
        old: The trained policy.
        given: How the user named it, as ``key=value``.

    Raises:
        InputError: It differs; the sentence names the first setting that does. Or its task is not known.
    """
    if "task" not in old.metadata:
        raise InputError(
            f"{given} does not say which task it was trained on (its metadata has no task): give a "
            "checkpoint of a run"
        )
    trained = _traits(old.spec, old.metadata["task"]["name"])
    wanted = _traits(spec, task)
    # What only one of them states is a default of the other: a checkpoint may be older than a setting.
    fields = {key for key in trained.keys() ^ wanted.keys() if key.startswith(FIELDS)}
    compared = fields | (trained.keys() & wanted.keys())
    # Data may have other names for the same. Which elements of an array are meant is its own business.
    keys = {key for key in compared if key.startswith(FIELDS) and key.endswith(".key")}
    renamed = {f"{key.removesuffix('key')}columns" for key in keys if trained.get(key) != wanted.get(key)}
    for key in sorted(compared - keys - renamed):
        if trained.get(key) != wanted.get(key):
            raise InputError(
                f"{given} was trained with {key}={trained.get(key)}, not {wanted.get(key)}: give the same "
                "here, or another checkpoint"
            )


def _traits(spec: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What two policies must share, under the keys of a training configuration."""
    traits = {"name": task, **model_class(spec).traits(spec)}
    backbone = spec["backbone"].get("network", spec["backbone"])
    prefix = spec.get("prefix_steps", 0)
    return flatten({"task": traits, "encoder": spec["encoder"], "prefix_steps": prefix, "backbone": backbone})


def _as_step_map(spec: Mapping[str, Any], old: Model, given: str) -> Mapping[str, Any]:
    """Specification of the new backbone, whose network is that of ``spec``."""
    objective = build(spec["objective"])
    was_diffusion, becomes_diffusion = (isinstance(o, Diffusion) for o in (old.objective, objective))
    if becomes_diffusion and not was_diffusion:
        raise InputError(
            f"{given} was trained with objective={old.metadata['objective']} and predicts velocities, from "
            "which a diffusion cannot go on; give a checkpoint of a diffusion, or another objective"
        )
    # Diffusions too: the velocity that theirs becomes is the straight path's.
    trained, wanted = (o.path or Straight() for o in (old.objective, objective))
    if (type(trained), vars(trained)) != (type(wanted), vars(wanted)):
        raise InputError(
            f"{given} gives velocities of the path {type(trained).__name__}, not of "
            f"objective.path={type(wanted).__name__}: give the same here, or another checkpoint"
        )
    if isinstance(old.backbone, NoiseAsVelocity):
        wrapper = old.spec["backbone"]
    elif was_diffusion and not becomes_diffusion:
        target = "shortcut_policy.backbones.NoiseAsVelocity"
        wrapper = {"_target_": target, "diffusion": old.spec["objective"]}
    else:
        return spec["backbone"]
    return {**wrapper, "network": {**spec["backbone"], "_partial_": True}}


def _network(policy: Model) -> nn.Module:
    """The network itself, which a configuration calls the backbone."""
    backbone = policy.backbone
    return backbone.network if isinstance(backbone, NoiseAsVelocity | Preconditioned) else backbone


def _forget_step_sizes(network: nn.Module, given: str) -> None:
    embedding = getattr(network, "embed_d", None)
    if not isinstance(embedding, ScalarEmbedding):
        raise InputError(
            f"{given} has a {type(network).__name__}, which has no embedding of the step size, embed_d; take "
            "a checkpoint of another backbone"
        )
    embedding.make_constant(0.0)


def _load(module: nn.Module, trained: nn.Module, name: str) -> None:
    try:
        module.load_state_dict(trained.state_dict())
    except RuntimeError as error:
        raise InputError(
            f"the weights of {name} have other shapes than this configuration's "
            f"({str(error).splitlines()[1].strip()}); give the settings that it was trained with"
        ) from error
