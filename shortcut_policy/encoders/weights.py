"""Pretrained weights of cameras' networks, from a local file."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from shortcut_policy.encoders.image import ImageEncoder
from shortcut_policy.errors import InputError, first_line
from shortcut_policy.paths import written_out

#: What comes after the maps, under the names of torchvision and timm; a policy has its own.
CLASSIFIERS = ("fc.", "head.", "classifier.", "head_dist.", "fc_norm.")
#: Before the names in files that hold the state of a larger module.
PREFIXES = ("module.", "model.", "backbone.", "encoder.", "trunk.", "visual.")


def load_weights(encoder: nn.Module, path: str | Path) -> None:
    """Put the weights of a file into the network of every camera.

    Names are those of torchvision's ``resnet18`` for `ResNet18`, and timm's own for `TimmTrunk`. A classifier
    is left out, and statistics of batches are where the network has none.

    Args:
        encoder: An `ImageEncoder`; changed in place.
        path: A safetensors file, or one of ``torch.save`` with tensors by name.

    Raises:
        InputError: There is no such file, it cannot be read, or a weight is missing, left over or of another
            shape.
    """
    if not isinstance(encoder, ImageEncoder):
        raise InputError(
            f"encoder_weights={path} is for an encoder of cameras, not for {type(encoder).__name__}"
        )
    given = _without_prefix(read_tensors(written_out(path)))
    for trunk in encoder.trunks.values():
        model = getattr(trunk, "model", trunk)
        fitting = _fitting(given, model.state_dict(), path)
        model.load_state_dict(fitting)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors by name of a safetensors file or one of ``torch.save``; no code of it is run."""
    if not path.is_file():
        raise InputError(f"encoder_weights={path} does not exist; give a .safetensors or .pth file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise InputError(
            f"encoder_weights={path} cannot be read ({first_line(error)}); get it again"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"encoder_weights={path} holds no tensors by name; give the state_dict of a network")
    return dict(found)


def _without_prefix(given: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if given and all(name.startswith(prefix) for name in given):
            return _without_prefix({name.removeprefix(prefix): value for name, value in given.items()})
    return given


def _fitting(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: str | Path
) -> dict[str, Tensor]:
    """The given weights that a network wants, all of which there must be."""
    missing = sorted(wanted.keys() - given.keys())
    left = [name for name in given if name not in wanted and not name.startswith(CLASSIFIERS)]
    left = sorted(
        name for name in left if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    if missing or left:
        what = (
            f"has no weight {missing[0]}" if missing else f"has the weight {left[0]}, which is not known here"
        )
        raise InputError(
            f"encoder_weights={path} {what} ({len(missing)} missing, {len(left)} left over): give weights of "
            "the network that encoder.trunk makes"
        )
    for name, value in wanted.items():
        if given[name].shape != value.shape:
            raise InputError(
                f"encoder_weights={path}: {name} has shape {list(given[name].shape)}, not "
                f"{list(value.shape)}: give weights of the network that encoder.trunk makes, for pictures of "
                "as many channels"
            )
    return {name: given[name].to(value.dtype) for name, value in wanted.items()}
