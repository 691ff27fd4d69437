"""What is trained, saved and loaded: encoder of the condition, step map and objective, and their scaling.

A policy is one (`policy.Policy`), a generator of images another (`images.model.ImageModel`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from shortcut_policy.backbones import Preconditioned
from shortcut_policy.build import build, find_target
from shortcut_policy.data import Normalizer
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws, LossContext, Metrics, Objective
from shortcut_policy.objectives.base import Generators, check_generators, normal_noise, without_gradient

POLICY = "shortcut_policy.policy.Policy"
#: What ``torch.compile(module)`` puts before the names of a module's parameters.
COMPILED = "_orig_mod."


class Model(nn.Module, ABC):
    """Base of what the trainer fits. Its ``forward`` takes a batch of its data set and computes the loss.

    Args:
        normalizer: Scaling between the units of the data and the network's; buffers of this module.
        encoder: Of what the data are conditioned on, to (B, C).
        backbone: Step map.
        objective: How it is trained and sampled.

    Attributes:
        spec: The specification that it was built from, as stored in a checkpoint.
        metadata: What is known of a trained model: method, task, dataset, updates, commit and so on.
    """

    def __init__(
        self, normalizer: Normalizer, encoder: nn.Module, backbone: nn.Module, objective: Objective
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.encoder, self.backbone, self.objective = encoder, backbone, objective
        self.spec: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}

    @classmethod
    @abstractmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Build an untrained model, whose normaliser has no statistics yet."""

    @classmethod
    @abstractmethod
    def traits(cls, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What models of ``spec`` say of their data, under the keys of a training configuration.

        One model can begin from the weights of another only if they agree.
        """

    @abstractmethod
    def encode(self, given: Any) -> Tensor:
        """What a batch is conditioned on, in the units of the data, to the condition (B, C)."""

    def validation_errors(
        self, batch: Mapping[str, Any], steps: int, generator: torch.Generator
    ) -> dict[str, float]:
        """Named errors of samples in ``steps`` steps against a batch; none unless overridden."""
        return {}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of a module, under the names of parts that nobody has compiled: what is saved loads anywhere.

        What stood in ``destination`` before, and ``prefix``, are those of the modules around this one.
        """
        given = dict(zip(("destination", "prefix"), args, strict=False)) | kwargs
        before, prefix = set(given.get("destination") or ()), given.get("prefix", "")
        names = super().state_dict(*args, **kwargs)
        for name in [name for name in names if name not in before]:  # all, to keep their order
            names[prefix + name.removeprefix(prefix).replace(COMPILED, "")] = names.pop(name)
        return names

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **options: Any
    ) -> None:
        """Names of compiled parts as they are here, whether those of ``state_dict`` were compiled or not."""
        own = {name.replace(COMPILED, ""): name for name in super().state_dict() if COMPILED in name}
        for name in [name for name in state_dict if name.startswith(prefix)]:
            plain = name.removeprefix(prefix).replace(COMPILED, "")
            state_dict[prefix + own.get(plain, plain)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, prefix, *rest, **options)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def losses(
        self,
        x_1: Tensor,
        given: Any,
        ema: "Model",
        draws: Draws,
        progress: float,
        teacher: "Model | None",
    ) -> tuple[Tensor, Metrics]:
        """Training loss of each row, (B,), and metrics; see `Objective.loss`.

        Args:
            x_1: Normalised data, (B, ...).
            given: What `encode` takes.
            ema: The model with averaged weights.
            draws: Source of all random numbers.
            progress: Part of the training done, in [0, 1].
            teacher: A frozen model, for the objectives that distil one.
        """
        cond = self.encode(given)
        context = LossContext(
            draws,
            ema=ema.backbone,
            ema_cond=cond.detach() if ema is self else Encoding(ema, given),
            teacher=None if teacher is None else teacher.backbone,
            teacher_cond=None if teacher is None else Encoding(teacher, given),
            progress=progress,
        )
        return self.objective.loss(self.backbone, x_1, cond, context)

    def noise(self, rows: int, shape: Sequence[int], generator: Generators) -> Tensor:
        """Where samples begin, (rows, *shape).

        Raises:
            InputError: What is no generator, or a list of them that are not one a row.
        """
        check_generators(generator)
        if isinstance(generator, list) and len(generator) != rows:
            raise InputError(
                f"got {len(generator)} generators for {rows} rows; give one, or one for each row"
            )
        return normal_noise((rows, *shape), generator, self.device)


class Encoding:
    """What another model is conditioned on, encoded when and for the rows that it is asked for.

    Cameras make encoding the most expensive part of an update; rows without a target need none by the
    averaged encoder.

    Args:
        model: Whose encoder it is.
        given: What `Model.encode` takes, of a batch.
    """

    def __init__(self, model: Model, given: Any) -> None:
        self.model, self.given = model, given

    def __getitem__(self, rows: slice) -> Tensor:
        """The condition of these rows, (n, C), without gradient."""
        given = self.given
        part = {name: x[rows] for name, x in given.items()} if isinstance(given, Mapping) else given[rows]
        with without_gradient():
            return self.model.encode(part)


def model_class(spec: Mapping[str, Any]) -> type[Model]:
    """The class that a specification is of: its ``_target_``, a policy without one.

    Raises:
        InputError: It is no class of models.
    """
    name = str(spec.get("_target_", POLICY))
    found = find_target(name)
    if not (isinstance(found, type) and issubclass(found, Model)):
        raise InputError(f"{name} is no class of models, such as {POLICY}")
    return found


def build_model(spec: Mapping[str, Any]) -> Model:
    """An untrained model of the class that its specification says."""
    return model_class(spec).from_spec(spec)


def build_parts(
    spec: Mapping[str, Any],
    encoder_sizes: Mapping[str, Any],
    backbone_sizes: Mapping[str, Any],
    unbounded: bool,
    prefix_dim: int = 0,
) -> dict[str, Any]:
    """The ``encoder``, ``backbone`` and ``objective`` of a specification, which fit each other.

    With ``precondition``, the arguments of `Preconditioned`, the backbone of an objective that predicts
    velocities is wrapped in one.

    Args:
        spec: Holds the specifications (see `build`) of the three.
        encoder_sizes: What the encoder must be told of the data.
        backbone_sizes: What the backbone must be told of them, beside the width of the condition.
        unbounded: Whether what is generated leaves [-1, 1], as the network sees it.
        prefix_dim: Numbers of the condition that are not the encoder's, but of actions given beforehand.

    Raises:
        InputError: The objective cannot make such data, or the encoder's tokens leave no place for a prefix.
    """
    objective = build(spec["objective"])
    if unbounded and objective.bounded:
        raise InputError(
            "objective.clip_sample=true keeps samples in [-1, 1], and data of standard deviation 1 "
            "(normalize: gaussian, latents) reach beyond: give objective.clip_sample=false"
        )
    encoder = build(spec["encoder"], **encoder_sizes)
    if prefix_dim and getattr(encoder, "cond_tokens", 0):
        raise InputError(
            "prefix_steps adds numbers to the condition, and encoder.tokens=true makes tokens of it: give "
            "encoder.tokens=false with backbone.split_context=false, or prefix_steps=0"
        )
    cond_dim = encoder.cond_dim + prefix_dim + objective.extra_cond_dim
    backbone = build(spec["backbone"], **backbone_sizes, cond_dim=cond_dim)
    if spec.get("precondition") and objective.path is not None:
        backbone = Preconditioned.from_settings(spec["precondition"], backbone, objective.path)
    return {"encoder": encoder, "backbone": backbone, "objective": objective}
