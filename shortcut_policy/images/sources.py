"""Where images come from: a task's ``source`` names one of these functions, which return an `ImageSource`."""

import os
from pathlib import Path

import numpy as np
import zarr

from shortcut_policy.data.archive import ZIP_ERRORS
from shortcut_policy.data.source import expand
from shortcut_policy.data.zarr_files import open_store
from shortcut_policy.errors import InputError
from shortcut_policy.images.decoding import Decoder
from shortcut_policy.images.folder import ImageFolder
from shortcut_policy.images.image_set import ImageSet, ImageSource
from shortcut_policy.paths import atomic_path
from shortcut_policy.provenance import code_hash, library_versions, short_hash

#: Names of the arrays in a file of images; all but the first may be missing.
ARRAYS = ("images", "labels", "test_images", "test_labels", "class_names")
EXPECTED = (
    "a file of images is an npz or zarr with 'images', uint8 (N, H, W, C) or (N, C, H, W), and 'labels' (N,)"
)


def digits(test_fraction: float = 0.2, seed: int = 0) -> ImageSource:
    """scikit-learn's digits: 1,797 grey images of 8x8 pixels, ten classes; no download, no file.

    Args:
        test_fraction: Share of each class that is held out.
        seed: Of the draw.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.round(data.images * (255 / 16)).astype(np.uint8)[:, None]
    parts = train_test_split(
        images, data.target.astype(np.int64), test_size=test_fraction, stratify=data.target, random_state=seed
    )
    names = tuple(str(name) for name in data.target_names)
    train, test = (ImageSet(parts[k], parts[k + 2], names) for k in (0, 1))
    return ImageSource("scikit-learn's digits", train, test)


def image_folder(
    path: str | os.PathLike[str],
    size: int | None = None,
    channels: int | None = None,
    skip_unreadable: bool = False,
    workers: int | None = None,
    test_fraction: float = 0.1,
    seed: int = 0,
    cache: str | os.PathLike[str] = "outputs/cache",
) -> ImageSource:
    """A directory or zip of images, see `ImageFolder` for the layout and the arguments.

    Decoded once: the pixels are kept in ``cache`` under a name made of content and settings.

    Raises:
        InputError: see `ImageFolder` and `Decoder.decode`.
    """
    folder = ImageFolder(path, size, channels, skip_unreadable, workers, test_fraction, seed)
    made_by = short_hash(folder.fingerprint, code_hash(Decoder.__module__), library_versions("pillow"))
    file = Path(cache) / f"{folder.path.stem}_{made_by}.npz"
    if not file.is_file():
        decoded = {}
        for part in folder.splits:
            decoded[f"{part}_images"], decoded[f"{part}_labels"] = _decode(folder, part)
        with atomic_path(file) as temporary, temporary.open("wb") as handle:
            np.savez(handle, allow_pickle=False, **decoded)
    with np.load(file) as stored:
        parts = {
            part: ImageSet(
                stored[f"{part}_images"],
                stored[f"{part}_labels"] if folder.class_names else None,
                folder.class_names,
            )
            for part in folder.splits
        }
    return ImageSource(str(folder.path), parts["train"], parts["test"])


def arrays(path: str | os.PathLike[str]) -> ImageSource:
    """Images in an npz or zarr file: ``images``, and perhaps ``labels``, ``test_images``, ``test_labels``.

    ``images`` is uint8, (N, H, W, C), (N, C, H, W) or (N, H, W) with C = 1 or 3; ``class_names`` may name the
    classes.

    Raises:
        InputError: there is no such file, or an array is missing or of another kind.
    """
    found, stored = expand(path), read_arrays(expand(path))
    if "images" not in stored:
        raise InputError(
            f"{found} has no array 'images' (it holds {', '.join(stored) or 'nothing'}); {EXPECTED}"
        )
    labels = {key: _labels(found, key, value) for key, value in stored.items() if key.endswith("labels")}
    classes = 1 + max((int(value.max()) for value in labels.values() if len(value)), default=-1)
    names = tuple(map(str, stored.get("class_names", np.arange(classes))))
    if classes > len(names):
        raise InputError(
            f"{found}: labels go up to {classes - 1}, and 'class_names' names {len(names)} classes"
        )
    train = ImageSet(_channels_first(found, "images", stored["images"]), labels.get("labels"), names)
    if "test_images" in stored:
        if ("labels" in labels) != ("test_labels" in labels):
            missing = "test_labels" if "labels" in labels else "labels"
            raise InputError(
                f"{found} has no array '{missing}': both parts need labels, or neither; {EXPECTED}"
            )
        images = _channels_first(found, "test_images", stored["test_images"])
    else:
        images = train.images[:0]
    test_labels = labels.get("test_labels", None if train.labels is None else train.labels[:0])
    return ImageSource(str(found), train, ImageSet(images, test_labels, names))


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays `ARRAYS` that an npz or zarr file holds, by name.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix != ".npz":
        group = open_store(str(path))
        return {name: np.asarray(group[name]) for name in ARRAYS if isinstance(group.get(name), zarr.Array)}
    try:
        with np.load(path) as stored:
            return {name: stored[name] for name in ARRAYS if name in stored}
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        raise InputError(f"{path} cannot be read ({error}); {EXPECTED}") from error


def _decode(folder: ImageFolder, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a part; no labels without classes."""
    split = folder.splits[part]
    if not split.names:
        return np.zeros((0, 1, 1, 1), np.uint8), np.zeros(0, np.int64)
    images, kept = folder.decoder.decode(split.names, title=f"decode {part}")
    return images, np.zeros(0, np.int64) if split.labels is None else split.labels[kept]


def _labels(path: Path, key: str, labels: np.ndarray) -> np.ndarray:
    """Classes as int64 numbers from 0 on."""
    if not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
        negative = ", and negative numbers" if labels.dtype.kind == "i" else ""
        raise InputError(
            f"{path}: '{key}' has type {labels.dtype}{negative}; expected the number of each image's class, "
            f"from 0 on, whose name may be in 'class_names'; {EXPECTED}"
        )
    return labels.astype(np.int64)


def _channels_first(path: Path, key: str, images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise InputError(f"{path}: '{key}' has type {images.dtype}, expected uint8 (0 to 255); {EXPECTED}")
    if images.ndim == 3:
        return images[:, None]
    last, first = (images.ndim == 4 and images.shape[axis] in (1, 3) for axis in (-1, 1))
    if last == first:
        raise InputError(
            f"{path}: '{key}' has shape {images.shape}, in which it is not clear where the 1 or 3 channels "
            f"are; {EXPECTED}"
        )
    return np.ascontiguousarray(np.moveaxis(images, -1, 1)) if last else images
