"""The image benchmark: methods x step counts x training seeds, from the same noise, by the same features."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.console import Console

from shortcut_policy.benchmark.methods import (
    Entry,
    Run,
    is_trained,
    parse_entries,
    train_entry,
    training_run,
)
from shortcut_policy.benchmark.phases import Phases
from shortcut_policy.benchmark.plots import plot_distances
from shortcut_policy.benchmark.result_files import slug
from shortcut_policy.benchmark.text_table import place_in, write_into
from shortcut_policy.build import build
from shortcut_policy.commands.configuration import to_plain
from shortcut_policy.device import usable_device
from shortcut_policy.errors import InputError
from shortcut_policy.images.features import Features, make_features
from shortcut_policy.images.image_set import ImageSource
from shortcut_policy.images.metrics import FEWEST, Quality, Reference, measure, reference
from shortcut_policy.images.pictures import save_grid
from shortcut_policy.images.sampling import class_labels, draw, load_image_model
from shortcut_policy.images.table import Judged, make_row, make_table
from shortcut_policy.objectives.base import Objective
from shortcut_policy.paths import atomic_path, write_atomic
from shortcut_policy.provenance import command_line, commit, fingerprint
from shortcut_policy.settings import check_choice, check_whole

#: What the table calls the images that no method was trained on.
HELD_OUT = "held-out images"


def run(config: DictConfig) -> None:
    """Train what is to be trained, sample, measure, write ``results.json``, ``results.md`` and figures.

    What an earlier call with the same output folder has finished is taken as it is.

    Raises:
        InputError: an entry, the images or the feature network cannot be used.
    """
    entries, output = parse_entries(config.entries), Path(config.output)
    if config.document:
        place_in(Path(config.document), config.marker)
    runs = {entry.name: _runs(entry, config) for entry in entries}
    check_choice("trained_only", config.trained_only, (True, False))
    if config.trained_only:
        runs = {name: [one for one in own if is_trained(one)] for name, own in runs.items()}
        entries = [entry for entry in entries if runs[entry.name]]
    if not entries:
        raise InputError(f"trained_only=true leaves nothing to compare: no run below {output} is finished")
    source = _check(entries, runs, config)
    console = Console()
    phases = Phases(_plan(entries, runs), console)
    with phases.next():
        features = make_features(
            config.features,
            source,
            build(dict(config.classifier)),
            Path(config.cache),
            config.inception_weights,
            config.device,
        )
        real = reference(features, source.train, Path(config.cache))
    for entry in entries:
        for one in runs[entry.name]:
            with phases.next():
                assert one.training is not None
                train_entry(one.training)
    judged = []
    for entry in entries:
        scales: Sequence[float | None] = entry.guidance or [None]
        with phases.next():
            judged += [
                _judge(entry, steps, scale, runs[entry.name], features, real, config)
                for scale in scales
                for steps in entry.steps
            ]
    if len(source.test):
        judged.append(_held_out(source, features, real))
    with phases.next():
        _write(judged, source, features, config)
    console.print(make_table([make_row(one, features.name) for one in judged], config.title).rich())


def _runs(entry: Entry, config: DictConfig) -> list[Run]:
    if entry.overrides is None:
        raise InputError(
            f"benchmark entry '{entry.name}' has no overrides: images are compared after the same training, "
            "give it overrides=[objective=...]"
        )
    return [training_run(entry, seed, config.training, Path(config.output)) for seed in entry.seeds]


def _check(entries: Sequence[Entry], runs: Mapping[str, Sequence[Run]], config: DictConfig) -> ImageSource:
    """Refuse before the trainings what would fail after them; the images that all of them learn from."""
    usable_device(config.device)
    lowest = {"samples": FEWEST, "noise_seed": 0, "batch_size": 1, "shown": 1}
    for key, least in lowest.items():
        check_whole(key, config[key], least)
    check_choice("bf16", config.bf16, (True, False))
    tasks = []
    for entry in entries:
        training = runs[entry.name][0].training
        assert training is not None
        plain = to_plain(training)
        tasks.append(plain["task"])
        if tasks[-1] != tasks[0]:
            raise InputError(
                f"benchmark entries '{entries[0].name}' and '{entry.name}' learn from different images or "
                "settings of task: images are compared with one set, give all entries the same"
            )
        objective: Objective = build(plain["objective"])
        for steps in entry.steps:
            objective.check_steps(steps)
        for scale in entry.guidance:  # of one that the network will not have learned
            objective.sampling_cond(torch.zeros(1, 1), scale)
    return _source(runs[entries[0].name][0])


def _plan(entries: Sequence[Entry], runs: Mapping[str, Sequence[Run]]) -> list[tuple[str, float | None]]:
    train = [
        (f"{'Trained:' if is_trained(one) else 'Train'} {entry.name}, seed {one.number}", entry.train_minutes)
        for entry in entries
        for one in runs[entry.name]
    ]
    draw_them = [
        (f"Sample {entry.name} at {', '.join(map(str, entry.steps))} steps", entry.rollout_minutes)
        for entry in entries
    ]
    return [("Prepare the features", None), *train, *draw_them, ("Write tables and figures", None)]


def _source(one: Run) -> ImageSource:
    """The images that a run learned from."""
    assert one.training is not None
    source = build(to_plain(one.training)["task"]["source"])
    if not isinstance(source, ImageSource) or source.train.images.dtype != np.uint8:
        raise InputError(
            f"task={one.training.task.name} has no pixels to compare with: the benchmark takes tasks of "
            "images, such as task=digits"
        )
    for name, images in (("training", source.train), ("held-out", source.test)):
        if 0 < len(images) < FEWEST:
            raise InputError(
                f"task={one.training.task.name} has {len(images)} {name} images, too few to compare with: "
                f"{FEWEST} at least, or no held-out ones"
            )
    return source


def _judge(
    entry: Entry,
    steps: int,
    scale: float | None,
    runs: Sequence[Run],
    features: Features,
    real: Reference,
    config: DictConfig,
) -> Judged:
    """Sample every training seed at one step count and guidance and measure, or read what was measured."""
    samples, qualities = [], []
    for one in runs:
        model = load_image_model(one.folder, config.device)
        labels = class_labels(None, model.class_names, config.samples)
        known = labels.numpy() if len(model.class_names) > 1 else None
        described = [fingerprint(model), config.samples, config.noise_seed, scale, config.bf16]
        stem = (
            Path(config.output)
            / "cells"
            / slug(entry.name)
            / f"{one.number}_steps_{steps}_{_hash(described)}"
        )
        drawn = stem.with_suffix(".npz")
        if not drawn.is_file():
            how = (config.noise_seed, config.batch_size, scale, config.bf16)
            _save(drawn, {"samples": draw(model, labels, steps, *how).samples.numpy()})
        samples.append(_read(drawn)["samples"])
        judged = stem.with_name(f"{stem.name}_{features.key}.npz")
        if not judged.is_file():
            _save(judged, vars(measure(features, real, samples[-1], known)))
        found = _read(judged)
        qualities.append(Quality(**found | {"fd": float(found["fd"])}))
    nfe = model.objective.network_evaluations(steps)
    name = entry.name if scale is None else f"{entry.name}, scale {scale:g}"
    return Judged(name, steps, nfe, qualities, samples[0], model.metadata, [one.number for one in runs])


def _held_out(source: ImageSource, features: Features, real: Reference) -> Judged:
    images = source.test
    return Judged(
        HELD_OUT, None, None, [measure(features, real, images.images, images.labels)], images.images, {}, []
    )


def _save(file: Path, values: Mapping[str, Any]) -> None:
    with atomic_path(file) as temporary, temporary.open("wb") as handle:
        np.savez_compressed(handle, allow_pickle=False, **values)


def _read(file: Path) -> dict[str, Any]:
    with np.load(file) as stored:
        return dict(stored)


def _hash(described: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def _write(judged: Sequence[Judged], source: ImageSource, features: Features, config: DictConfig) -> None:
    results, rows = Path(config.results), [make_row(one, features.name) for one in judged]
    classifier = features.classifier
    described: dict[str, Any] = {
        "command": command_line(),
        "commit": commit(),
        "images": Path(source.path).name,
        "real_images": len(source.train),
        "samples": config.samples,
        "noise_seed": config.noise_seed,
        "features": features.name,
        "feature_network": features.key,
        "classifier": None
        if classifier is None
        else {
            "accuracy": classifier.accuracy,
            "held_out_images": len(source.test),
            "seconds": classifier.seconds,
            "settings": to_plain(config)["classifier"],
        },
        "rows": rows,
    }
    write_atomic(results / "results.json", json.dumps(described, indent=2) + "\n")
    text = make_table(rows, config.title, described).markdown()
    write_atomic(results / "results.md", text)
    if config.document:
        write_into(Path(config.document), config.marker, text)
    methods = [row for row in rows if row["steps"] is not None]
    plot_distances(
        methods,
        features.name,
        rows[-1]["fd"] if rows[-1]["name"] == HELD_OUT else None,
        results / "steps.png",
    )
    for steps in sorted({one.steps for one in judged if one.steps is not None}):
        grid = {one.name: one.samples[: config.shown] for one in judged if one.steps == steps}
        save_grid(grid | {"real": _real(source, config.shown)}, results / f"samples_{steps}.png")


def _real(source: ImageSource, n: int) -> np.ndarray:
    """Training images of the classes that samples show, in the same order."""
    images = source.train
    if images.labels is None:
        return images.images[:n]
    labels = class_labels(None, images.class_names, n).tolist()
    rows = {label: np.flatnonzero(images.labels == label) for label in set(labels)}
    turns = [labels[:place].count(label) for place, label in enumerate(labels)]
    # Of a small class each image is shown again in its turn.
    return images.images[
        [rows[label][turn % len(rows[label])] for label, turn in zip(labels, turns, strict=True)]
    ]
