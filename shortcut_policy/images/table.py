"""Rows of the image benchmark, from measurements to JSON and to text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shortcut_policy.benchmark.text_table import ResultRows, TextTable, count_of
from shortcut_policy.images.metrics import NEIGHBOURS, Quality
from shortcut_policy.rollout.statistics import RESAMPLES, Interval, success_interval

#: Rates in the table -> the measurements that they are means of.
RATES = {"precision": "precise", "recall": "recalled", "accuracy": "correct"}
#: What a row says of the training.
TRAINED = ("backbone", "parameters", "max_steps", "batch_size", "precision", "optimizer", "commit", "command")


@dataclass(frozen=True)
class Judged:
    """A method at one step count, or real images.

    Attributes:
        name: Of the method.
        steps: Sampling steps; None for real images, as in what follows.
        nfe: Network evaluations of a sample.
        qualities: Of each training seed.
        samples: Of the first training seed, (N, C, H, W) uint8.
        metadata: Of the model.
        seeds: Training seeds.
    """

    name: str
    steps: int | None
    nfe: int | None
    qualities: Sequence[Quality]
    samples: np.ndarray
    metadata: Mapping[str, Any]
    seeds: Sequence[int]


def make_row(judged: Judged, distance: str) -> dict[str, Any]:
    """The JSON row of one line.

    Intervals are of 95%. That of the distance is a bootstrap over samples, and over training seeds where
    there are several; those of rates are as in `success_interval`.

    Args:
        judged: The measurements.
        distance: What the Frechet distance is called.
    """
    metadata = judged.metadata
    row: dict[str, Any] = {
        "name": judged.name,
        "steps": judged.steps,
        "nfe": judged.nfe,
        "seeds": list(judged.seeds),
        "samples": len(judged.samples),
        "distance": distance,
        "fd": float(np.mean([quality.fd for quality in judged.qualities])),
        "fd_ci": distance_interval(np.stack([quality.fd_draws for quality in judged.qualities])),
    }
    for rate, key in RATES.items():
        values = np.stack([getattr(quality, key) for quality in judged.qualities]).astype(float)
        known = values.size > 0
        row[rate] = float(values.mean()) if known else None
        row[f"{rate}_ci"] = success_interval(values)[0] if known else None
    if metadata:
        row["evaluations_per_row"] = metadata["train_nfe_per_step"] / metadata["batch_size"]
        row |= {f"train_{key}": metadata[key] for key in TRAINED} | {
            "train_seconds": metadata["train_seconds"]
        }
    return row


def distance_interval(draws: np.ndarray, seed: int = 0) -> Interval:
    """Percentile interval of a mean over training seeds, from draws of each, (seeds, draws).

    Every resample draws training seeds, and for each of them one of its bootstrap draws over samples.
    """
    rng = np.random.default_rng(seed)
    seeds, count = draws.shape
    chosen = rng.integers(seeds, size=(RESAMPLES, seeds)), rng.integers(count, size=(RESAMPLES, seeds))
    low, high = np.quantile(draws[chosen].mean(1), [0.025, 0.975])
    return Interval(max(0.0, float(low)), max(0.0, float(high)))


def make_table(rows: ResultRows, title: str, described: Mapping[str, Any] | None = None) -> TextTable:
    """Rows of `make_row` as text.

    Args:
        rows: The rows.
        title: Of the benchmark, which the caption begins with.
        described: What made them, as ``results.json`` says it; in the terminal it need not be told.
    """
    header = ["method", "steps", rows[0]["distance"], *RATES, "evaluations / training row"]
    lines = []
    for row in rows:
        evaluations = row.get("evaluations_per_row")
        lines.append(
            [
                row["name"],
                "–" if row["steps"] is None else str(row["steps"]),
                f"{row['fd']:.2f} [{row['fd_ci'][0]:.2f}, {row['fd_ci'][1]:.2f}]",
                *(_rate(row, rate) for rate in RATES),
                "–" if evaluations is None else f"{evaluations:.2f}",
            ]
        )
    return TextTable(header, lines, title if described is None else _caption(rows, title, described))


def _caption(rows: ResultRows, title: str, described: Mapping[str, Any]) -> str:
    first = rows[0]
    seeds = max(len(row["seeds"]) for row in rows)
    several = seeds > 1
    drawn = "a bootstrap over samples" + (" and training seeds" if several else "")
    rates = "a bootstrap over samples and training seeds" if several else "Wilson's over samples"
    text = (
        f"{title}; {first['train_backbone']} of {first['train_parameters'] / 1e6:.2f}M parameters, "
        f"{first['train_max_steps']} updates of {first['train_batch_size']} images, "
        f"{count_of(seeds, 'training seed')}; {described['samples']} samples from the same noise against "
        f"{described['real_images']} training images. Brackets hold 95% intervals: of the distance, {drawn}; "
        f"of precision and accuracy, {rates}; of recall, the same over training images in place of samples, "
        "whose own chance it leaves out. "
        f"{described['features']}: Frechet distance, lower is better"
    )
    classifier = described["classifier"]
    if classifier is not None:
        text += (
            f"; its features are of a classifier trained on the same images ({classifier['accuracy']:.1%} "
            f"right on {classifier['held_out_images']} held-out ones), so it is not comparable with FID"
        )
    return text + (
        f". Precision and recall as in Kynkäänniemi et al. 2019, k = {NEIGHBOURS}, by the same features. "
        "Accuracy: samples in which the classifier sees the class that was asked for. Evaluations: of the "
        "network for a training row, targets included, mean over the training. Made by "
        f"`{described['command']}` at commit {described['commit']}."
    )


def _rate(row: Mapping[str, Any], rate: str) -> str:
    if row[rate] is None:
        return "–"
    low, high = row[f"{rate}_ci"]
    return f"{row[rate]:.0%} [{low:.0%}, {high:.0%}]"
