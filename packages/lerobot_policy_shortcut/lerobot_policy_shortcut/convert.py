"""Checkpoints of ``shortcut_policy`` as LeRobot's, and back: the same weights, the same actions.

lerobot-convert-shortcut pretrained/pusht outputs/pusht_lerobot --gym-pusht
lerobot-convert-shortcut outputs/train/reach/checkpoints/last/pretrained_model outputs/reach
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lerobot_policy_shortcut.translation import lerobot_keys, metadata_of, picture_of
from shortcut_policy import load_policy, save_policy
from shortcut_policy.checkpoint import DESCRIPTION, remove_folder
from shortcut_policy.data.fields import ACTION, read_fields
from shortcut_policy.errors import InputError
from shortcut_policy.paths import named
from shortcut_policy.policy import Policy

#: What tells one kind of folder from the other, and LeRobot's record of a training beside it.
CONFIG, TRAINING = "config.json", "train_config.json"


def to_lerobot(
    source: str | Path, target: str | Path, names: Mapping[str, str] | None = None, gym_pusht: bool = False
) -> None:
    """Write a checkpoint of ``shortcut_policy`` as a folder for ``--policy.path``.

    Args:
        source: A checkpoint or run folder, or ``hf://user/name``.
        target: Folder, which must not be there.
        names: Name of an observation here -> LeRobot's key; ``observation.<name>`` for those that are left
            out.
        gym_pusht: The policy plays Push-T from keypoints, and will see what gym-pusht observes.

    Raises:
        InputError: There is no such checkpoint, the target is there, or an observation has no such name.
    """
    from lerobot.configs import FeatureType, PolicyFeature

    from lerobot_policy_shortcut.configuration_shortcut import ShortcutConfig
    from lerobot_policy_shortcut.modeling_shortcut import ShortcutPolicy
    from lerobot_policy_shortcut.processor_shortcut import (
        GymPushTKeypoints,
        make_shortcut_pre_post_processors,
    )

    policy = load_policy(source)
    keys = lerobot_keys(policy.obs_shapes, names or {}, gym_pusht)
    obs, action = read_fields(policy.spec["obs"], policy.spec[ACTION])
    features = {}
    for name, field in obs.items():
        shape: tuple[int, ...] = (int(np.prod(field.shape)),)
        kind = FeatureType.STATE
        if field.normalize == "image":
            kind, shape = FeatureType.VISUAL, picture_of(field.shape)
        elif keys[name] == "observation.environment_state":
            kind = FeatureType.ENV
        features[keys[name]] = PolicyFeature(kind, shape)
    config = ShortcutConfig(
        device="cpu",
        push_to_hub=False,
        input_features=features,
        output_features={ACTION: PolicyFeature(FeatureType.ACTION, action.shape)},
        names={key: name for name, key in keys.items()},
        specification=policy.spec,
        metadata=policy.metadata,
        **{name: policy.spec[name] for name in ("horizon", "n_obs_steps", "n_action_steps")},
    )
    made = ShortcutPolicy(config)
    for own in (made.policy, made.averaged):
        own.load_state_dict(policy.state_dict())
    processors = make_shortcut_pre_post_processors(config)
    if gym_pusht:
        # After the batch dimension is there, and before what looks at the observations.
        processors[0].steps.insert(2, GymPushTKeypoints())
    with new_folder(target) as folder:
        for part in (made, *processors):
            part.save_pretrained(folder)


def from_lerobot(source: str | Path, target: str | Path) -> None:
    """Write the averaged weights of a policy that LeRobot holds as a checkpoint of ``shortcut_policy``.

    Args:
        source: A folder ``pretrained_model``.
        target: Folder, which must not be there.

    Raises:
        InputError: There is no policy of this type, or the target is there.
    """
    from lerobot_policy_shortcut.modeling_shortcut import ShortcutPolicy

    source = Path(source)
    found = _read(source / CONFIG)
    if found.get("type") != ShortcutPolicy.name:
        raise InputError(
            f"{source / CONFIG} is of a policy of type {found.get('type')}, which is none of shortcut_policy"
        )
    policy = ShortcutPolicy.from_pretrained(source)
    made: Policy = policy.averaged
    training = _read(source / TRAINING) if (source / TRAINING).is_file() else {}
    made.metadata = metadata_of(made.spec, policy.config.metadata, policy.updates, training)
    with new_folder(target) as folder:
        save_policy(made, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="checkpoint, of either kind")
    parser.add_argument("target", help="folder to write, which must not be there")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME=KEY",
        help="LeRobot's key of an observation, such as agent_pos=observation.state; once for each",
    )
    parser.add_argument(
        "--gym-pusht", action="store_true", help="for --env.type=pusht, whose keypoints are others than ours"
    )
    given = parser.parse_args(arguments)
    try:
        if (Path(given.source) / CONFIG).is_file() and not (Path(given.source) / DESCRIPTION).is_file():
            if given.name or given.gym_pusht:
                raise InputError("--name and --gym-pusht are for checkpoints of shortcut_policy alone")
            from_lerobot(given.source, given.target)
        else:
            to_lerobot(given.source, given.target, _names(given.name), given.gym_pusht)
    except InputError as error:
        sys.exit(f"error: {error}")
    print(f"{given.target} is there")


@contextmanager
def new_folder(target: str | Path) -> Iterator[Path]:
    """A folder to write into, which is there under its name once all is written.

    Raises:
        InputError: There is something under its name.
    """
    target = Path(target)
    if target.exists():
        raise InputError(f"{target} is there already: remove it, or give another folder")
    hidden = target.with_name(f".{target.name}.tmp")
    try:
        with named(target):
            remove_folder(hidden)
            hidden.mkdir(parents=True)
            yield hidden
            hidden.rename(target)
    finally:
        remove_folder(hidden)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); take another checkpoint") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} describes no policy; take another checkpoint")
    return found


def _names(given: Sequence[str]) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in given]
    if wrong := [given[i] for i, (name, _, key) in enumerate(pairs) if not name or not key]:
        raise InputError(f"--name={wrong[0]} must be NAME=KEY, such as agent_pos=observation.state")
    return {name: key for name, _, key in pairs}


if __name__ == "__main__":
    main()
