"""The ``README.md`` of a checkpoint that others are to use: what it takes and gives, and how it was made."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import yaml

from shortcut_policy.build import build
from shortcut_policy.data import Field
from shortcut_policy.data.fields import ACTION
from shortcut_policy.model import Model
from shortcut_policy.objectives.base import allowed_steps

STEP_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
#: How a field is scaled, in words.
SCALED = {
    "limits": "range to [-1, 1]",
    "gaussian": "mean 0, deviation 1",
    "identity": "not scaled",
    "image": "0..255 to [-1, 1]",
}
#: What the card says of the training: entry of the metadata -> words.
TRAINING = {
    "method": "method",
    "objective": "objective",
    "backbone": "network",
    "parameters": "parameters",
    "task": "task",
    "dataset": "data set",
    "train_episodes": "episodes",
    "train_windows": "windows",
    "train_steps": "updates",
    "batch_size": "windows of an update",
    "optimizer": "optimizer",
    "precision": "precision",
    "train_seconds": "seconds of training",
    "seed": "seed",
    "commit": "commit of the library",
}

CARD = """\
{front_matter}
# {title}

A robot policy made with `shortcut_policy`: from the last {n_obs_steps} observations it samples a chunk of
{horizon} actions, of which {n_action_steps} are played.

## Use it

```python
from shortcut_policy import Policy

policy = Policy.from_pretrained("{address}", device="cpu")
policy.reset(steps={step}, seed=0)  # at the start of each episode
action = policy.select_action(obs)  # in each step: obs maps the names below to arrays of one step
```

Sampling steps that it can take: {steps}.

## Observations and action

Numbers are in the units of the demonstrations; the policy scales them itself.

{fields}

## Training

{training}
{command}
Versions: {versions}.
"""


def model_card(model: Model, address: str, versions: Mapping[str, str], license_name: str | None) -> str:
    """The card of a policy, in Markdown with front matter.

    Args:
        model: The policy, of which specification, metadata and statistics are told.
        address: Where it can be loaded from, as `Policy.from_pretrained` takes it.
        versions: Package -> version that made it.
        license_name: Identifier such as ``mit``; None leaves it to whoever publishes the policy.
    """
    spec, metadata = model.spec, model.metadata
    steps = allowed_steps(model.objective, STEP_COUNTS)
    method, task = metadata.get("method"), _task(metadata)
    return CARD.format(
        front_matter=_front_matter(method, license_name),
        title=_text(f"{method or 'Robot'} policy" + (f" for {task}" if task else "")),
        horizon=spec["horizon"],
        n_obs_steps=spec["n_obs_steps"],
        n_action_steps=spec["n_action_steps"],
        address=address,
        step=steps[0] if steps else 1,
        steps=", ".join(map(str, steps)) or "none of the powers of two",
        fields=_table(("name", "shape of a step", "scaled", "in the training data"), _fields(model)),
        training=_table(("", ""), _training(metadata)) if metadata else "Nothing is known of it.",
        command=f"\nThe command:\n\n```bash\n{metadata['command']}\n```\n" if metadata.get("command") else "",
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
    )


def _front_matter(method: str | None, license_name: str | None) -> str:
    """What the hub reads; the licence is the publisher's to choose."""
    entries: dict[str, Any] = {
        "library_name": "shortcut_policy",
        "pipeline_tag": "robotics",
        "tags": ["robotics", "imitation-learning", "shortcut-policy", *([str(method)] if method else ())],
    }
    if license_name is not None:
        entries["license"] = license_name
    unset = "" if license_name else "# license: yours to choose, such as mit or cc-by-4.0\n"
    return f"---\n{yaml.safe_dump(entries, sort_keys=False, allow_unicode=True)}{unset}---\n"


def _fields(model: Model) -> Iterable[tuple[str, ...]]:
    for name, spec in {**model.spec["obs"], ACTION: model.spec[ACTION]}.items():
        field = build(spec)
        yield name, str(list(field.shape)), SCALED[field.normalize], _statistics(model, name, field)


def _statistics(model: Model, name: str, field: Field) -> str:
    """Lowest and highest number of a field, or its mean, as far as the normaliser knows them."""
    scale, offset = (
        model.normalizer.get_buffer(f"{name}_{part}").double().cpu().numpy() for part in ("scale", "offset")
    )
    if field.normalize not in ("limits", "gaussian") or not np.isfinite(scale).all():
        return ""
    kept = np.ones(scale.shape, bool)
    kept[..., list(field.unscaled)] = False
    scale, offset = scale[kept], offset[kept]
    if not scale.size:
        return ""
    if field.normalize == "limits":
        return f"{(offset - scale).min():.4g} to {(offset + scale).max():.4g}"
    return f"means {offset.min():.4g} to {offset.max():.4g}, deviations up to {scale.max():.4g}"


def _training(metadata: Mapping[str, Any]) -> Iterable[tuple[str, ...]]:
    for key, words in TRAINING.items():
        value = _task(metadata) if key == "task" else metadata.get(key)
        if value is not None:
            yield words, str(value)


def _task(metadata: Mapping[str, Any]) -> str | None:
    task = metadata.get("task")
    return str(task["name"]) if isinstance(task, Mapping) and "name" in task else None


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple(":--" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")
