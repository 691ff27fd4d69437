"""The statistics of a LeRobot dataset, of all frames and in float64."""

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
LEVELS = 256


def statistics(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Of numbers (N, *shape), each statistic (*shape); ``count`` is (1,)."""
    values = rows.astype(np.float64)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
        **dict(zip(QUANTILES, np.quantile(values, list(QUANTILES.values()), axis=0), strict=True)),
    }


def levels(images: np.ndarray) -> np.ndarray:
    """How often each channel has each level: (N, H, W, C) uint8 -> (C, 256)."""
    channels = np.moveaxis(images, -1, 0)
    return np.stack([np.bincount(channel.reshape(-1), minlength=LEVELS) for channel in channels])


def image_statistics(counts: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """Of ``frames`` images whose `levels` were counted, in 0..1, each statistic (C, 1, 1)."""
    scale = np.arange(LEVELS) / (LEVELS - 1)
    pixels = counts.sum(axis=1)
    mean = counts @ scale / pixels
    found = {
        "min": np.array([scale[row > 0].min() for row in counts]),
        "max": np.array([scale[row > 0].max() for row in counts]),
        "mean": mean,
        "std": np.sqrt(np.maximum(counts @ scale**2 / pixels - mean**2, 0)),
    }
    below = np.cumsum(counts, axis=1) / pixels[:, None]
    for name, quantile in QUANTILES.items():
        found[name] = scale[(below >= quantile).argmax(axis=1)]
    return {name: value.reshape(-1, 1, 1) for name, value in found.items()} | {"count": np.array([frames])}
