"""What can be wrong with images for a model, found before training begins."""

import numpy as np

from shortcut_policy.errors import InputError
from shortcut_policy.images.image_set import ImageSource


def check_classes(source: ImageSource, guided: bool) -> None:
    """Refuse guidance where there is nothing to guide towards.

    Args:
        source: The images.
        guided: Whether the objective drops classes to learn guidance.

    Raises:
        InputError: ``guided``, and the images are of one class or their classes are unknown.
    """
    labels = source.train.labels
    found = 0 if labels is None else len(np.unique(labels))
    if guided and found < 2:
        known = "no class labels" if labels is None else f"images of one class, {source.train.class_names[0]}"
        raise InputError(
            f"{source.path} has {known}, and guidance strengthens one class against the others: train an "
            "objective without guidance, or sort the images into a folder for each class"
        )
