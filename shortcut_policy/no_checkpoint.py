"""Why there is no checkpoint where one was said to be, and what to give instead."""

from pathlib import Path

from shortcut_policy.errors import InputError

#: The part of a checkpoint that is written first and read first.
DESCRIPTION = "policy.json"


def check_path(path: object) -> None:
    """Raise `InputError` unless ``path`` is the path of one checkpoint."""
    if not isinstance(path, str | Path) or not str(path):
        raise InputError(f"checkpoint={path!r} must be the path of one checkpoint folder or run folder")


def no_checkpoint(folder: Path) -> InputError:
    """The sentence about a path that means none."""
    if any(sign in str(folder) for sign in "*?") and not folder.exists():
        return InputError(
            f"there is no checkpoint at {folder}: patterns are not expanded here; give one folder by its name"
        )
    if not folder.is_dir():
        if (folder.parent / DESCRIPTION).is_file():
            return InputError(f"{folder} is no folder: give that of the checkpoint, {folder.parent}")
        return InputError(f"there is no checkpoint at {folder}: give a checkpoint folder or a run folder")
    inside = sorted(
        place for place in folder.glob("*") if any(place.glob("checkpoints/step_*")) or _describes(place)
    )
    if inside:
        return InputError(
            f"{folder} is no checkpoint and no run, but holds {len(inside)} of them: give one, such as "
            f"{inside[-1]}"
        )
    return InputError(
        f"{folder} holds no checkpoint: neither {DESCRIPTION} nor checkpoints/step_*; give a checkpoint "
        "folder or the folder of a run that has saved one"
    )


def check_whole(newest: Path) -> None:
    """Raise `InputError` if a run has a newer checkpoint than this one, which is not whole."""
    later = [
        place
        for place in newest.parent.glob("step_*")
        if place.is_dir() and place.name[5:].isdecimal() and int(place.name[5:]) > int(newest.name[5:])
    ]
    if later:
        found = max(later, key=lambda place: int(place.name[5:]))
        raise InputError(
            f"{found} lacks {DESCRIPTION}, as when a run is copied only in part: copy it again, or give the "
            f"last one that is whole, {newest}"
        )


def _describes(place: Path) -> bool:
    return (place / DESCRIPTION).is_file()
