"""Images of Push-T's demonstrations of states."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_envs.pusht.physics import GOAL_POSE
from shortcut_envs.pusht.render import state_image
from shortcut_policy.data import EpisodeSource, ZarrSource, bundled
from shortcut_policy.data.render import digest, render
from shortcut_policy.data.source import episode_rows
from shortcut_policy.errors import InputError
from shortcut_policy.locks import remove_left, wait_for_lock
from shortcut_policy.paths import cache_folder
from shortcut_policy.settings import check_whole

STATE, IMAGE = "state", "img"


class PushTRenderer:
    """Draws the key ``img`` from the key ``state`` (5,), as `PushTEnv` shows it with ``observation="image"``.

    Args:
        size: Side of the images in pixels.
    """

    keys = (IMAGE,)

    def __init__(self, size: int = 96) -> None:
        check_whole("size", size, 1)
        self.size = size

    def prepare(self, source: EpisodeSource) -> dict[str, Any]:
        """See `shortcut_policy.data.render.Renderer`."""
        if source.shapes.get(STATE) != (5,):
            raise InputError(
                f"{source.path} has no key '{STATE}' of 5 numbers (agent x, y, block x, y, angle), which "
                f"Push-T is drawn from; it holds {', '.join(source.keys)}"
            )
        return dict(getattr(source, "attributes", {}))

    def images(self, source: EpisodeSource, episode: int) -> dict[str, np.ndarray]:
        """See `shortcut_policy.data.render.Renderer`."""
        goal = getattr(source, "attributes", {}).get("goal_pose", GOAL_POSE)
        states = source.read(STATE, *episode_rows(source, episode))
        return {IMAGE: np.stack([state_image(state, goal, self.size) for state in states])}


def rendered(
    name: str | None = None,
    path: str | os.PathLike[str] | None = None,
    size: int = 96,
    cache: str | os.PathLike[str] | None = None,
) -> ZarrSource:
    """Demonstrations of Push-T with images, the key ``img`` (size, size, 3), drawn when first asked for.

    The store with the images is kept by a hash of the demonstrations and of all that draws them. A second
    process that asks for them meanwhile waits; work that was stopped is continued.

    Args:
        name: Of bundled demonstrations, ``pusht`` for instance, or
        path: a store of any others.
        size: Side of the images in pixels.
        cache: Folder of such stores; see `shortcut_policy.paths.cache_folder`.

    Raises:
        InputError: There are no such demonstrations, or not of Push-T.
    """
    if (name is None) == (path is None):
        raise InputError("give either the name of bundled demonstrations or the path of a store")
    source = bundled(name) if name is not None else ZarrSource(path or "")
    spec = {"_target_": f"{__name__}.{PushTRenderer.__name__}", "size": size}
    PushTRenderer(size).prepare(source)
    store = cache_folder(cache) / f"pusht_{digest(source, spec)}.zarr"
    lock = store.with_suffix(".lock")
    if store.exists():
        remove_left(lock)
    else:
        store.parent.mkdir(parents=True, exist_ok=True)
        with wait_for_lock(
            lock,
            f"another process is drawing the images of {source.path} into {store}; waiting for it",
            f"let no second program draw the images of {source.path}",
        ):
            if not store.exists():
                _draw(source, spec, store)
    return ZarrSource(store)


def _draw(source: EpisodeSource, spec: dict[str, Any], store: Path) -> None:
    """Under another name first: a store that is there is a whole one."""
    part = store.with_name(f"{store.name}.part")
    print(f"drawing the images of {source.path} once, into {store}")
    try:
        render(source, spec, part)
    except InputError:
        # Left by something else than a stopped process.
        shutil.rmtree(part, ignore_errors=True)
        render(source, spec, part)
    os.replace(part, store)
