"""The ``README.md`` of a checkpoint that others are to use: what it takes and gives, and how it was made.

It says what the policy's metadata and measured results say, and what they leave open.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shortcut_policy.build import build
from shortcut_policy.data import Field
from shortcut_policy.data.fields import ACTION
from shortcut_policy.errors import InputError
from shortcut_policy.model import Model
from shortcut_policy.objectives.base import allowed_steps
from shortcut_policy.paths import written_out

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
    "task": "task",
    "dataset": "data set",
    "train_episodes": "episodes",
    "train_windows": "windows",
    "method": "method",
    "objective": "objective",
    "backbone": "network",
    "parameters": "parameters",
    "train_steps": "updates",
    "batch_size": "windows of an update",
    "optimizer": "optimizer",
    "precision": "precision",
    "train_nfe_per_step": "network evaluations of an update",
    "train_seconds": "seconds of training",
    "seed": "seed",
    "commit": "commit of the library",
}
#: What a rollout's summary has to hold.
MEASURED = ("settings", "episodes", "score", "score_ci", "success", "success_ci", "command")

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

## Results

{results}

## Training

{training}

## Reproduce

{reproduce}

## Licence

{licence}
"""


def model_card(
    model: Model,
    address: str,
    versions: Mapping[str, str],
    license_name: str | None,
    results: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The card of a policy, in Markdown with front matter.

    Args:
        model: The policy, of which specification, metadata and statistics are told.
        address: Where it can be loaded from, as `Policy.from_pretrained` takes it.
        versions: Package -> version that made it.
        license_name: Identifier such as ``mit``; None leaves it to whoever publishes the policy.
        results: Summaries of its rollouts, see `read_results`; none if there are none.
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
        results=_results(results),
        training=_training(metadata),
        reproduce=_reproduce(metadata, results, versions),
        licence=_licence(license_name),
    )


def read_results(path: str | Path) -> list[dict[str, Any]]:
    """What ``scripts/rollout.py`` has written of a policy: its summaries, fewest sampling steps first.

    Args:
        path: A ``summary.json``, or a folder with some anywhere below it.

    Raises:
        InputError: There is none, or a file is no such summary.
    """
    path = written_out(path)
    files = [path] if path.is_file() else sorted(path.rglob("summary.json"))
    if not files:
        raise InputError(f"there is no summary.json at {path}: give the output of scripts/rollout.py")
    found = [_summary(file) for file in files]
    return sorted(found, key=lambda summary: float(summary["settings"].get("steps", 0)))


def _summary(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); roll the policy out again") from error
    lacking = [name for name in MEASURED if not isinstance(found, dict) or name not in found]
    if lacking or not isinstance(found["settings"], dict):
        raise InputError(
            f"{file} is no summary of scripts/rollout.py: it lacks {', '.join(lacking) or 'settings'}"
        )
    numbers = [found[name] for name in ("episodes", "score", "success")]
    numbers += [found["settings"].get("steps", 0)]
    pairs = [found[name] for name in ("score_ci", "success_ci")]
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs) or not all(
        isinstance(number, int | float) and not abs(number) > sys.float_info.max
        for number in [*numbers, *pairs[0], *pairs[1]]
    ):
        raise InputError(
            f"{file} holds no numbers where a summary of scripts/rollout.py does; roll the policy out again"
        )
    summary: dict[str, Any] = found
    return summary


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
    if field.unscaled:
        kept[..., list(field.unscaled)] = False
    scale, offset = scale[kept], offset[kept]
    if not scale.size:
        return ""
    if field.normalize == "limits":
        return f"{(offset - scale).min():.4g} to {(offset + scale).max():.4g}"
    return f"means {offset.min():.4g} to {offset.max():.4g}, deviations up to {scale.max():.4g}"


def _results(summaries: Sequence[Mapping[str, Any]]) -> str:
    """How well it acts, and how long that takes."""
    if not summaries:
        return "None were given with this policy: how well it acts is not stated here."
    header = ("sampling steps", "starts", "score", "success", "latency of a chunk")
    rows = (
        (
            _steps(summary["settings"]),
            str(summary["episodes"]),
            _with_interval("{:.3f}", summary["score"], summary["score_ci"]),
            _with_interval("{:.0%}", summary["success"], summary["success_ci"]),
            _latency(summary.get("latency") or {}),
        )
        for summary in summaries
    )
    return (
        f"{_table(header, rows)}\n\nMeans of this one training; brackets hold 95% intervals over its starts, "
        "and say nothing of other trainings. Score and success are those of the task's environment."
    )


def _with_interval(form: str, value: float, interval: Sequence[float]) -> str:
    return f"{form.format(value)} [{', '.join(form.format(end) for end in interval)}]"


def _latency(latency: Mapping[str, Any]) -> str:
    if "p50" not in latency:
        return "not measured"
    threads = {1: ", one thread", None: ""}.get(latency.get("threads"), f", {latency.get('threads')} threads")
    return f"{latency['p50']:.3g} ms on {latency.get('device') or 'a device that is not named'}{threads}"


def _steps(settings: Mapping[str, Any]) -> str:
    if "tolerance" in settings:
        return f"auto, at most {settings.get('steps')}"
    return str(settings.get("steps", "not known"))


def _training(metadata: Mapping[str, Any]) -> str:
    """What is known of the training, and which of it is not."""
    if not metadata:
        return "Nothing is known of it."
    known = {**metadata, "task": _task(metadata)}
    rows = [(words, str(known[key])) for key, words in TRAINING.items() if known.get(key) is not None]
    missing = [words for key, words in TRAINING.items() if known.get(key) is None]
    return _table(("", ""), rows) + (f"\n\nNot known: {', '.join(missing)}." if missing else "")


def _reproduce(
    metadata: Mapping[str, Any], summaries: Sequence[Mapping[str, Any]], versions: Mapping[str, str]
) -> str:
    """The commands and versions that made the policy and its results."""
    commands = list(dict.fromkeys(str(summary["command"]) for summary in summaries))
    played = f"The results:\n\n```bash\n{chr(10).join(commands)}\n```" if commands else ""
    trained = (
        f"The training:\n\n```bash\n{metadata['command']}\n```"
        if metadata.get("command")
        else "The command of the training is not known."
    )
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return "\n\n".join(part for part in (trained, played, f"Versions: {told}.") if part)


def _licence(license_name: str | None) -> str:
    if license_name is None:
        return "Whoever published these weights has not stated a licence of them."
    return f"The weights: {license_name}. That of the training data is not stated here."


def _task(metadata: Mapping[str, Any]) -> str | None:
    task = metadata.get("task")
    return str(task["name"]) if isinstance(task, Mapping) and task.get("name") else None


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple(":--" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(map(_text, line))} |" for line in lines)


def _text(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")
