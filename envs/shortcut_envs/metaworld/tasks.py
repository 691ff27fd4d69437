"""Names of Meta-World's tasks, and of the sets of them; nothing of Meta-World is imported for them."""

import difflib
from collections.abc import Mapping, Sequence

from shortcut_policy.errors import InputError

#: The 50 tasks of Meta-World 3, in its order.
TASKS = (
    "assembly-v3",
    "basketball-v3",
    "bin-picking-v3",
    "box-close-v3",
    "button-press-topdown-v3",
    "button-press-topdown-wall-v3",
    "button-press-v3",
    "button-press-wall-v3",
    "coffee-button-v3",
    "coffee-pull-v3",
    "coffee-push-v3",
    "dial-turn-v3",
    "disassemble-v3",
    "door-close-v3",
    "door-lock-v3",
    "door-open-v3",
    "door-unlock-v3",
    "hand-insert-v3",
    "drawer-close-v3",
    "drawer-open-v3",
    "faucet-open-v3",
    "faucet-close-v3",
    "hammer-v3",
    "handle-press-side-v3",
    "handle-press-v3",
    "handle-pull-side-v3",
    "handle-pull-v3",
    "lever-pull-v3",
    "pick-place-wall-v3",
    "pick-out-of-hole-v3",
    "pick-place-v3",
    "plate-slide-v3",
    "plate-slide-side-v3",
    "plate-slide-back-v3",
    "plate-slide-back-side-v3",
    "peg-insert-side-v3",
    "peg-unplug-side-v3",
    "soccer-v3",
    "stick-push-v3",
    "stick-pull-v3",
    "push-v3",
    "push-wall-v3",
    "push-back-v3",
    "reach-v3",
    "reach-wall-v3",
    "shelf-place-v3",
    "sweep-into-v3",
    "sweep-v3",
    "window-open-v3",
    "window-close-v3",
)

#: Several tasks in one (Yu et al. 2019).
SETS: Mapping[str, Sequence[str]] = {
    "mt10": (
        "reach-v3",
        "push-v3",
        "pick-place-v3",
        "door-open-v3",
        "drawer-open-v3",
        "drawer-close-v3",
        "button-press-topdown-v3",
        "peg-insert-side-v3",
        "window-open-v3",
        "window-close-v3",
    ),
    "mt50": TASKS,
}


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks of a set, or the one task of this name.

    Raises:
        InputError: There is none; the nearest names are told.
    """
    if name in SETS:
        return tuple(SETS[name])
    if name in TASKS:
        return (name,)
    near = difflib.get_close_matches(str(name), [*SETS, *TASKS], n=3, cutoff=0.4)
    known = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join([*SETS, *TASKS])}"
    raise InputError(f"Meta-World has no task '{name}'; {known}")
