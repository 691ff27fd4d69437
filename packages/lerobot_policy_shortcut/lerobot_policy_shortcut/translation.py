"""Between LeRobot's words and ours: features and fields, statistics, batches, and what is known of a policy.

Nothing here needs LeRobot.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.control import as_pixels
from shortcut_policy.data import Field, Normalizer
from shortcut_policy.data.fields import ACTION
from shortcut_policy.data.normalizer import RunningStatistics, say_nearly_constant
from shortcut_policy.encoders.image import CHANNELS
from shortcut_policy.errors import InputError
from shortcut_policy.training.run_folder import snake_case

#: What the keys of LeRobot's observations begin with.
PREFIX = "observation."
STATE, ENVIRONMENT = f"{PREFIX}state", f"{PREFIX}environment_state"
#: What our policies of Push-T observe, its shape, and under which key gym-pusht's observation comes.
PUSHT = {"keypoint": ((9, 2), ENVIRONMENT), "agent_pos": ((2,), STATE)}
#: Share of each side that a crop keeps where none is asked for: 84 of the 96 pixels of our own pictures.
CROP = 7 / 8
#: A crop's sides are multiples of it, the stride of our smallest network.
CROP_STEP = 4
#: How far a picture in 0..1 may lie outside, which resizing makes of it.
BEYOND = 0.1


def our_names(keys: Collection[str]) -> dict[str, str]:
    """LeRobot's key -> name of the observation here, which has no dots.

    Raises:
        InputError: Two keys come out the same.
    """
    names = {key: key.removeprefix(PREFIX).replace(".", "_") for key in keys}
    if len(set(names.values())) < len(names):
        raise InputError(
            f"the observations {', '.join(names)} have no names of their own here, where dots become "
            "underscores: rename one in the data set"
        )
    return names


def lerobot_keys(
    shapes: Mapping[str, tuple[int, ...]], given: Mapping[str, str], gym_pusht: bool = False
) -> dict[str, str]:
    """Name of an observation here -> LeRobot's key.

    Args:
        shapes: Name here -> shape of one step.
        given: Keys that somebody chose; ``observation.<name>`` for the others.
        gym_pusht: Take the keys of gym-pusht, whose keypoints are turned into ours.

    Raises:
        InputError: A key is chosen for what is not observed, is no key of an observation or is there twice;
            or the policy is none of Push-T from keypoints.
    """
    if gym_pusht:
        if given or dict(shapes) != {name: shape for name, (shape, _) in PUSHT.items()}:
            raise InputError(
                f"--gym-pusht is for policies that observe {_shapes({n: s for n, (s, _) in PUSHT.items()})}, "
                f"and takes no --name; this one observes {_shapes(shapes)}"
            )
        return {name: key for name, (_, key) in PUSHT.items()}
    if unknown := sorted(given.keys() - shapes.keys()):
        raise InputError(f"--name={unknown[0]}=...: this policy observes {', '.join(shapes)}")
    keys = {name: given.get(name, f"{PREFIX}{name}") for name in shapes}
    for name, key in keys.items():
        if not key.startswith(PREFIX) or list(keys.values()).count(key) > 1:
            raise InputError(
                f"--name={name}={key} must be a key of its own that begins with {PREFIX}, such as {STATE}"
            )
    return keys


def make_fields(
    shapes: Mapping[str, Sequence[int]], pictures: Collection[str], names: Mapping[str, str]
) -> dict[str, Field]:
    """Observation fields for features of LeRobot.

    Args:
        shapes: LeRobot's key -> shape of one step; pictures have their channels first.
        pictures: Keys of those that are pictures.
        names: LeRobot's key -> name here.
    """
    fields = {}
    for key, shape in shapes.items():
        if key in pictures:
            channels, height, width = shape
            fields[names[key]] = Field(key, (height, width, channels), normalize="image")
        else:
            fields[names[key]] = Field(key, tuple(shape))
    return fields


def picture_of(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a picture in LeRobot, (C, H, W), for that of one here, (H, W, C) or (C, H, W)."""
    return (shape[2], shape[0], shape[1]) if shape[-1] in CHANNELS else tuple(shape)


def usual_crop(pictures: Collection[Sequence[int]]) -> list[int] | None:
    """The crop of an encoder that nobody gave one, height and width.

    None, for whole pictures, if cameras have different sizes or the pictures are too small.

    Args:
        pictures: LeRobot's shapes, (C, H, W).
    """
    sizes = {tuple(shape[1:]) for shape in pictures}
    if len(sizes) != 1:
        return None
    crop = [int(side * CROP) // CROP_STEP * CROP_STEP for side in sizes.pop()]
    return crop if min(crop) >= CROP_STEP else None


def check_no_depth(depth: Collection[str], observed: Collection[str]) -> None:
    """Raise `InputError` if a camera that is observed is one of depth.

    Args:
        depth: LeRobot's keys of cameras whose pictures hold distances, in metres or millimetres.
        observed: LeRobot's keys of what the policy observes.
    """
    if found := [key for key in observed if key in depth]:
        raise InputError(
            f"{found[0]} is a depth camera: its pictures are distances, and the encoders here take "
            "brightness from 0 to 1; name the other observations with --policy.input_features="
            '\'{"observation.state": {"type": "STATE", "shape": [6]}, ...}\''
        )


def fit_normalizer(
    fields: Mapping[str, Field], keys: Mapping[str, str], statistics: Mapping[str, Mapping[str, Any]]
) -> Normalizer:
    """The normaliser of a policy from the statistics of a LeRobot data set, whose extremes are exact.

    Its quantiles are not used: LeRobot 0.6.1 averages those of the episodes.

    Args:
        fields: Name here -> field, the action among them.
        keys: Name here -> LeRobot's key.
        statistics: LeRobot's key -> ``min``, ``max``, ``mean`` and ``std``, as in ``meta/stats.json``.

    Raises:
        InputError: A field's statistics are missing, not finite, or of another shape; or nothing of the
            action varies.
    """
    found = {}
    for name, field in fields.items():
        if field.normalize == "image":
            continue
        given = statistics.get(keys[name], {})
        if not {"min", "max", "mean", "std"} <= given.keys():
            raise InputError(
                f"the data set has no statistics of {keys[name]}, from which its scale is made: write "
                "meta/stats.json again with LeRobot"
            )
        low, high, mean, std = (_numbers(given[part]) for part in ("min", "max", "mean", "std"))
        if not all(np.isfinite(part).all() for part in (low, high, mean, std)):
            raise InputError(
                f"the statistics of {keys[name]} hold NaN or infinity, as its data do: repair these, and "
                "write meta/stats.json again with LeRobot"
            )
        if low.size != np.prod(field.shape, dtype=int):
            raise InputError(
                f"the statistics of {keys[name]} are {low.size} numbers, but the policy sees {field.shape}"
            )
        running = RunningStatistics()
        running.count = 1
        parts: list[Any] = [value.reshape(field.shape) for value in (low, high, mean, std**2)]
        running.min, running.max, running.mean, running.square = parts
        found[name] = running
        say_nearly_constant(field, running, f"{keys[name]} of the data set", needed=name == ACTION)
    return Normalizer(fields, found)


def observations(
    batch: Mapping[str, Any],
    names: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
    cameras: Collection[str],
    n_obs_steps: int,
) -> dict[str, Tensor]:
    """A batch of LeRobot's as our policies take it, name -> (B, n_obs_steps, *shape).

    Args:
        batch: LeRobot's key -> (B, n_obs_steps, ...), or (B, ...) if there is one step; pictures have their
            channels first, and are in 0..1, or bytes.
        names: LeRobot's key -> name here.
        shapes: Name here -> shape of one step.
        cameras: Names of the pictures, which become bytes, with their channels where the policy has them.
        n_obs_steps: Observed steps.

    Raises:
        InputError: Something is missing, of another size, or a picture in other units.
    """
    check_keys(batch, names)
    found = {}
    for key, name in names.items():
        value, shape = batch[key], shapes[name]
        camera = name in cameras
        wanted = picture_of(shape) if camera else shape
        steps_fit = value[0].numel() == n_obs_steps * int(np.prod(shape, dtype=int))
        if not steps_fit or (camera and tuple(value.shape[-3:]) != wanted):
            raise InputError(
                f"{key} has shape {tuple(value.shape)}, but this policy sees {n_obs_steps} steps of "
                f"{wanted}: use the environment and observations that it was trained for"
            )
        value = value.reshape(len(value), n_obs_steps, *wanted)
        if camera:
            value = _bytes(key, value) if wanted == shape else _bytes(key, value).movedim(-3, -1)
        found[name] = value
    return found


def check_keys(batch: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Raise `InputError` unless a batch of LeRobot's holds what a policy observes, the keys of ``names``."""
    if missing := [key for key in names if key not in batch]:
        raise InputError(
            f"this policy observes {', '.join(names)}, and {', '.join(missing)} is missing among "
            f"{', '.join(sorted(key for key in batch if key.startswith(PREFIX))) or 'nothing'}: use the "
            "environment and observations that it was trained for"
        )


def metadata_of(
    spec: Mapping[str, Any], known: Mapping[str, Any], updates: int, training: Mapping[str, Any]
) -> dict[str, Any]:
    """What a checkpoint of ours says of a policy that LeRobot holds.

    Args:
        spec: Its specification.
        known: What its own metadata say, those of the checkpoint that it came from; they stay.
        updates: Of its training in LeRobot; 0 for none.
        training: LeRobot's ``train_config.json``, or what there is of it.
    """
    if not updates:
        return dict(known)
    described = {"objective": snake_case(spec["objective"]), "backbone": snake_case(spec["backbone"])}
    described = {"method": described["objective"], **described, **known}
    dataset = (training.get("dataset") or {}).get("repo_id")
    told = {"dataset": dataset, "seed": training.get("seed"), "batch_size": training.get("batch_size")}
    begun = {"init_from": dict(known)} if known else {}
    task = described.get("task") or {"name": str(dataset or "lerobot").rpartition("/")[2], "env": None}
    told = {key: value for key, value in told.items() if value is not None}
    return {**described, "task": task, **told, "train_steps": updates, "trained_by": "lerobot", **begun}


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value.cpu() if isinstance(value, Tensor) else value, np.float64)


def _bytes(key: str, pictures: Tensor) -> Tensor:
    """Pictures in 0..1 as bytes; bytes, and other whole numbers in 0..255, stay as they are."""
    if not pictures.is_floating_point():
        return as_pixels(key, pictures)
    low, high = (float(end) for end in pictures.aminmax())
    if not (low >= -BEYOND and high <= 1 + BEYOND):  # NaN too
        raise InputError(
            f"{key} holds numbers from {low:.3g} to {high:.3g}, and LeRobot's pictures are floats in 0..1, "
            "or bytes: divide those in 0..255 by 255"
        )
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)


def _shapes(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
