"""The image benchmark: methods x step counts x training seeds, from the same noise, by the same features."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from shortcut_policy.benchmark.methods import Method
from shortcut_policy.benchmark.phases import Phases
from shortcut_policy.benchmark.plots import plot_distances
from shortcut_policy.benchmark.result_files import slug
from shortcut_policy.benchmark.text_table import place_in, write_into
from shortcut_policy.benchmark.training_runs import (
    Runs,
    TrainingRun,
    Trainings,
    choose,
    train_all,
    training_plan,
    training_run,
)
from shortcut_policy.build import build
from shortcut_policy.device import usable_device
from shortcut_policy.errors import InputError
from shortcut_policy.fingerprint import fingerprint
from shortcut_policy.images.config import ImageBenchmarkConfig
from shortcut_policy.images.features import Features, make_features
from shortcut_policy.images.image_set import ImageSource
from shortcut_policy.images.metrics import FEWEST, Quality, Reference, measure, reference
from shortcut_policy.images.pictures import save_grid
from shortcut_policy.images.sampling import class_labels, draw, load_image_model
from shortcut_policy.images.table import Judged, make_row, make_table
from shortcut_policy.objectives.base import Objective
from shortcut_policy.paths import atomic_path, is_stored, write_atomic
from shortcut_policy.provenance import command_line, commit, short_hash
from shortcut_policy.training.config import TrainingConfig
from shortcut_policy.trust import trusted_in, trusted_modules

#: What the table calls the images that no method was trained on.
HELD_OUT = "held-out images"


def compare_images(config: ImageBenchmarkConfig, trainings: Trainings) -> None:
    """Train what is to be trained, sample, measure, write ``results.json``, ``results.md`` and figures.

    What an earlier call with the same output folder has finished is taken as it is.

    Args:
        config: The methods, and how they are compared.
        trainings: Trains those that have to be trained.

    Raises:
        InputError: a method, the images or the feature network cannot be used.
    """
    found = {method.name: _runs(method, config, trainings) for method in config.entries}
    where = f"below {config.output} is finished"
    methods, runs = choose(config.entries, found, config.trained_only, where)
    source = _check(methods, runs, config)
    console = Console()
    phases = Phases(_plan(methods, runs), console)
    with phases.next():
        features = make_features(
            config.features, source, config.classifier, config.cache, config.inception_weights, config.device
        )
        real = reference(features, source.train, config.cache)
    train_all(methods, runs, trainings, phases)
    judged = []
    for method in methods:
        scales: Sequence[float | None] = method.guidance or [None]
        with phases.next():
            judged += [
                _judge(method, steps, scale, runs[method.name], features, real, config)
                for scale in scales
                for steps in method.steps
            ]
    if len(source.test):
        judged.append(_held_out(source, features, real))
    with phases.next():
        _write(judged, source, features, config)
    console.print(make_table([make_row(one, features.name) for one in judged], config.title).rich())


def _runs(method: Method, config: ImageBenchmarkConfig, trainings: Trainings) -> list[TrainingRun]:
    if method.overrides is None:
        raise InputError(
            f"benchmark entry '{method.name}' has no overrides: images are compared after the same training, "
            "give it overrides=[objective=...]"
        )
    return [training_run(method, seed, config.training, config.output, trainings) for seed in method.seeds]


def _training_of(one: TrainingRun) -> TrainingConfig:
    """The configuration of a run, which every run of images has."""
    assert one.training is not None
    return one.training


def _check(methods: Sequence[Method], runs: Runs, config: ImageBenchmarkConfig) -> ImageSource:
    """Refuse before the trainings what would fail after them; the images that all of them learn from."""
    usable_device(config.device)
    if config.document:
        place_in(config.document, config.marker or "")
    tasks = []
    for method in methods:
        training = _training_of(runs[method.name][0])
        tasks.append(training.task)
        if tasks[-1] != tasks[0]:
            raise InputError(
                f"benchmark entries '{methods[0].name}' and '{method.name}' learn from different images or "
                "settings of task: images are compared with one set, give all entries the same"
            )
        objective: Objective = build(training.objective)
        for steps in method.steps:
            objective.check_steps(steps)
        for scale in method.guidance:  # of one that the network will not have learned
            objective.sampling_cond(torch.zeros(1, 1), scale)
    return _source(runs[methods[0].name][0])


def _plan(methods: Sequence[Method], runs: Runs) -> list[tuple[str, float | None]]:
    draw_them = [
        (f"Sample {method.name} at {', '.join(map(str, method.steps))} steps", method.rollout_minutes)
        for method in methods
    ]
    train = training_plan(methods, runs)
    return [("Prepare the features", None), *train, *draw_them, ("Write tables and figures", None)]


def _source(one: TrainingRun) -> ImageSource:
    """The images that a run learned from."""
    task = _training_of(one).task
    source = build(task.source)
    if not isinstance(source, ImageSource) or source.train.images.dtype != np.uint8:
        raise InputError(
            f"task={task.name} has no pixels to compare with: the benchmark takes tasks of "
            "images, such as task=digits"
        )
    for name, images in (("training", source.train), ("held-out", source.test)):
        if 0 < len(images) < FEWEST:
            raise InputError(
                f"task={task.name} has {len(images)} {name} images, too few to compare with: "
                f"{FEWEST} at least, or no held-out ones"
            )
    return source


def _judge(
    method: Method,
    steps: int,
    scale: float | None,
    runs: Sequence[TrainingRun],
    features: Features,
    real: Reference,
    config: ImageBenchmarkConfig,
) -> Judged:
    """Sample every training seed at one step count and guidance and measure, or read what was measured."""
    samples, qualities = [], []
    for one in runs:
        assert one.training is not None
        trust = (*trusted_modules(config.trust), *trusted_in(one.training.document()))
        model = load_image_model(one.folder, config.device, trust)
        labels = class_labels(None, model.class_names, config.samples)
        known = labels.numpy() if len(model.class_names) > 1 else None
        device = model.device.type
        described = (fingerprint(model), config.samples, config.noise_seed, scale, config.bf16, device)
        drawn = config.output / "cells" / slug(method.name)
        drawn /= f"{one.number}_steps_{steps}_{short_hash(described)}.npz"
        if not is_stored(drawn):
            how = (config.noise_seed, config.batch_size, scale, config.bf16)
            _save(drawn, {"samples": draw(model, labels, steps, *how).samples.numpy()})
        samples.append(_read(drawn)["samples"])
        judged = drawn.with_name(f"{drawn.stem}_{real.key}.npz")
        if not is_stored(judged):
            _save(judged, vars(measure(features, real, samples[-1], known)))
        found = _read(judged)
        qualities.append(Quality(**found | {"fd": float(found["fd"])}))
    nfe = model.objective.network_evaluations(steps)
    name = method.name if scale is None else f"{method.name}, scale {scale:g}"
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


def _write(
    judged: Sequence[Judged], source: ImageSource, features: Features, config: ImageBenchmarkConfig
) -> None:
    results, rows = config.results, [make_row(one, features.name) for one in judged]
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
            "settings": asdict(config.classifier),
        },
        "rows": rows,
    }
    write_atomic(results / "results.json", json.dumps(described, indent=2) + "\n")
    text = make_table(rows, config.title, described).markdown()
    write_atomic(results / "results.md", text)
    if config.document:
        write_into(config.document, config.marker or "", text)
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
