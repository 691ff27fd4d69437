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
    found = _not_whole(newest.parent, int(newest.name[5:]))
    if found is not None:
        raise InputError(
            f"{found} lacks {DESCRIPTION}, as when a run is copied only in part: copy it again, or give the "
            f"last one that is whole, {newest}"
        )


def check_can_go_on(run: Path, newest: Path | None) -> None:
    """Raise `InputError` if the last checkpoint of a run is not whole: only with that one a run can go on.

    Args:
        run: Its folder.
        newest: Its last checkpoint that is whole; None if there is none, and a training would begin anew.
    """
    found = _not_whole(run / "checkpoints", -1 if newest is None else int(newest.name[5:]))
    if found is None:
        return
    begin = "give another output"
    if newest is not None:
        begin = f"begin another from the last one that is whole, with init_from={newest} and a new output"
    raise InputError(
        f"{found} lacks {DESCRIPTION}, as when a run is copied only in part, so that this run cannot go on: "
        f"copy it again, or {begin}"
    )


def _not_whole(checkpoints: Path, step: int) -> Path | None:
    """The last folder of a checkpoint after this step, which is not whole if ``step`` is the last that is.

    Trainings give that name to whole checkpoints alone.
    """
    later = [
        place
        for place in checkpoints.glob("step_*")
        if place.is_dir() and place.name[5:].isdecimal() and int(place.name[5:]) > step
    ]
    return max(later, key=lambda place: int(place.name[5:]), default=None)


def _describes(place: Path) -> bool:
    return (place / DESCRIPTION).is_file()
