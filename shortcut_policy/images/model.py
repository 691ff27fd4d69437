"""A generator of images: a step map with patches for tokens and a class for condition."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from shortcut_policy.backbones import evaluate
from shortcut_policy.data import Field, Normalizer
from shortcut_policy.data.source import Normalization
from shortcut_policy.errors import InputError
from shortcut_policy.model import Model, build_parts
from shortcut_policy.objectives import Draws, Metrics, Objective
from shortcut_policy.objectives.base import Generators
from shortcut_policy.plain import plain_json

IMAGES = "images"


class ImageModel(Model):
    """Draws images of classes, and computes its own training loss.

    Args:
        shape: (C, H, W) of an image or latent.
        dtype: ``uint8`` for pixels, which the network sees scaled to [-1, 1]; ``float32`` for latents, which
            it sees as they are.
        class_names: Name of each class; data without classes are of one.
        flip: Mirror a random half of the images in training, left to right.
        decoder: Specification of what makes pixels of latents, see `ImageSource`; None for pixels.
        encoder: Of classes, int64 (B,) to (B, C).
        backbone: Step map over images.
        objective: How it is trained and sampled.
    """

    def __init__(
        self,
        shape: Sequence[int],
        dtype: str,
        class_names: Sequence[str],
        flip: bool,
        decoder: Mapping[str, Any] | None,
        encoder: nn.Module,
        backbone: nn.Module,
        objective: Objective,
    ) -> None:
        super().__init__(Normalizer.empty(image_fields(shape, dtype)), encoder, backbone, objective)
        self.shape, self.dtype, self.flip = tuple(shape), dtype, flip
        self.class_names, self.decoder = tuple(class_names), decoder

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Self:
        """Build an untrained model, whose normaliser has no statistics yet.

        Args:
            spec: Plain mapping with ``images``, which holds ``shape``, ``dtype``, ``class_names``, ``flip``
                and ``decoder``, and with what `build_parts` takes.
        """
        spec = plain_json(spec)
        images = spec[IMAGES]
        encoder_sizes = {"n_classes": len(images["class_names"])}
        backbone_sizes, latents = {"image_shape": images["shape"]}, images["dtype"] != "uint8"
        model = cls(**images, **build_parts(spec, encoder_sizes, backbone_sizes, unbounded=latents))
        model.spec = dict(spec)
        return model

    @classmethod
    def traits(cls, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Shape and type of the images, and the classes."""
        return {f"images.{key}": spec[IMAGES][key] for key in ("shape", "dtype", "class_names")}

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        ema: Model,
        draws: Draws,
        progress: float = 0.0,
        teacher: Model | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Training loss of each row, (B,), and metrics; see `Model.losses`.

        Args:
            images: (B, C, H, W), of the model's ``dtype``.
            labels: Classes, int64 (B,).
            ema: The model with averaged weights.
            draws: Source of all random numbers, those of the mirrored images included.
            progress: Part of the training done, in [0, 1].
            teacher: A frozen model, for the objectives that distil one.
        """
        if self.flip and self.training:
            mirrored = draws.uniform(len(images)) < 0.5
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        x_1 = self.normalizer.normalize(IMAGES, images)
        return self.losses(x_1, labels, ema, draws, progress, teacher)

    def encode(self, given: Tensor) -> Tensor:
        """Classes, int64 (B,), to the condition (B, C)."""
        return self.encoder(given)

    @torch.no_grad()
    def sample(
        self,
        labels: Sequence[int] | Tensor,
        steps: int = 1,
        generator: Generators = None,
        guidance: float | None = None,
    ) -> Tensor:
        """Draw an image for each class given.

        Args:
            labels: Numbers of classes, (B,).
            steps: Sampling steps; which numbers are allowed is the objective's to say.
            generator: Source of the noise: one generator for all rows, or a list of B, and then row i
                depends on generator i alone. The global generator if None.
            guidance: How strongly to follow the class, for a model that was trained with a range of scales;
                the lowest of them if None.

        Returns:
            (B, C, H, W), of the model's ``dtype``.

        Raises:
            InputError: A class that does not exist, a step count that the objective cannot take, or a
                guidance that was not trained.
        """
        self.objective.check_steps(steps)
        classes = torch.as_tensor(labels)
        if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < len(self.class_names):
            raise InputError(
                f"classes={classes.tolist()} must be numbers from 0 to {len(self.class_names) - 1}: "
                f"{', '.join(self.class_names)}"
            )
        cond = self.objective.sampling_cond(self.encode(classes.to(self.device)), guidance)
        noise = self.noise(len(cond), self.shape, generator)
        net = partial(evaluate, self.backbone)
        x = self.normalizer.unnormalize(IMAGES, self.objective.sample(net, noise, cond, steps, generator))
        return x.round().clamp(0, 255).to(torch.uint8) if self.dtype == "uint8" else x


def image_fields(shape: Sequence[int], dtype: str) -> dict[str, Field]:
    """How images are scaled for the network: pixels to [-1, 1]; latents, which have a scale, not at all."""
    kind: Normalization = "image" if dtype == "uint8" else "identity"
    return {IMAGES: Field(IMAGES, tuple(shape), normalize=kind)}
