"""Windows of consecutive steps, and the split of episodes into training and validation.

Both repeat Diffusion Policy (Chi et al. 2023) number by number: the same windows in the same order, and the
same episodes held out for the same seed.
"""

import sys

import numpy as np

from shortcut_policy.data.source import EpisodeSource
from shortcut_policy.errors import InputError


def create_windows(
    episode_ends: np.ndarray,
    horizon: int,
    pad_before: int,
    pad_after: int,
    mask: np.ndarray | None = None,
    marked: np.ndarray | None = None,
    pad_short: bool = False,
) -> np.ndarray:
    """All windows of ``horizon`` steps that do not cross an episode's border.

    A window may begin up to ``pad_before`` steps before its episode and end up to ``pad_after`` steps after
    it; the first and last step are repeated there. Both are clipped to [0, horizon - 1]. An episode with
    fewer than ``horizon - pad_before - pad_after`` steps has no window.

    Args:
        episode_ends: (E,) last row of each episode, plus one.
        mask: (E,) bool, the episodes to use; all if None.
        marked: (rows,) bool: only the windows whose step ``pad_before`` is a marked row. With
            ``n_obs_steps - 1`` there, that is the row of the first action that is played. All if None.
        pad_short: Repeat the last step of such a short episode as often as it takes, so that a window begins
            at each of its steps.

    Returns:
        (N, 3) int64 table of (start, lo, hi): step i of the window is row ``clip(start + i, lo, hi - 1)``,
        where [lo, hi) are the rows of its episode. ``start`` can lie before ``lo``.
    """
    pad_before = min(max(pad_before, 0), horizon - 1)
    pad_after = min(max(pad_after, 0), horizon - 1)
    hi = np.asarray(episode_ends, np.int64)
    lo = np.concatenate([np.zeros(1, np.int64), hi])[:-1]
    if mask is not None:
        lo, hi = lo[mask], hi[mask]
    counts = np.maximum(hi - lo - horizon + pad_after + pad_before + 1, 0)
    if pad_short:
        counts = np.where(counts == 0, hi - lo + pad_before, counts)
    nth_of_episode = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(lo - pad_before, counts) + nth_of_episode
    windows = np.stack([starts, np.repeat(lo, counts), np.repeat(hi, counts)], axis=1)
    return windows if marked is None else windows[marked[np.minimum(starts + pad_before, windows[:, 2] - 1)]]


def marked_rows(source: EpisodeSource, key: str) -> np.ndarray:
    """Which rows a key marks, (rows,) bool.

    Raises:
        InputError: There is no such key, or it holds something else than one 0 or 1 in each row.
    """
    if key not in source.keys:
        raise InputError(
            f"data.only={key}: {source.path} has no such key; it holds {', '.join(source.keys)}: name one "
            "that marks rows, or leave data.only out"
        )
    values = source.read(key, 0, int(source.episode_ends[-1]))
    if int(np.prod(source.shapes[key])) != 1 or not np.isin(values, (0, 1)).all():
        raise InputError(
            f"data.only={key}: key '{key}' of {source.path} must hold one 0 or 1 in each row, to mark rows"
        )
    return values.reshape(-1).astype(bool)


def check_sizes(horizon: int, n_obs_steps: int, n_action_steps: int) -> None:
    """Refuse a window that is too short for what is observed and played of it.

    Raises:
        InputError: From the last observed step on, it has not ``n_action_steps`` steps.
    """
    if n_obs_steps - 1 + n_action_steps > horizon:
        raise InputError(
            f"horizon={horizon} must hold n_obs_steps={n_obs_steps} and, from the last of them on, "
            f"n_action_steps={n_action_steps} steps"
        )


def tasks_of_episodes(source: EpisodeSource, key: str) -> np.ndarray:
    """(E,) number of the task of each episode: those that begin with the same values of a key are of one.

    Raises:
        InputError: There is no such key, or it differs between the rows of an episode.
    """
    if key not in source.keys:
        raise InputError(
            f"data.per_task={key}: {source.path} has no such key; it holds {', '.join(source.keys)}: name "
            "one that tells tasks apart, or leave data.per_task out"
        )
    rows = source.read(key, 0, int(source.episode_ends[-1])).reshape(int(source.episode_ends[-1]), -1)
    starts = np.concatenate([[0], source.episode_ends[:-1]])
    changed = np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1
    inside = np.setdiff1d(changed, starts)
    if len(inside):
        raise InputError(
            f"data.per_task={key}: key '{key}' of {source.path} changes within an episode, at row "
            f"{inside[0]}, so it does not tell tasks apart: name one that does, or leave data.per_task out"
        )
    numbers: np.ndarray = np.unique(rows[starts], axis=0, return_inverse=True)[1].reshape(-1)
    return numbers


def say_short(source: EpisodeSource, fewest: int, horizon: int) -> None:
    """On stderr, how many episodes have fewer than the ``fewest`` steps of one with a window."""
    lengths = np.diff(source.episode_ends, prepend=0)
    short = int((lengths < fewest).sum())
    if short:
        print(
            f"{short} of {len(lengths)} episodes of {source.path} have fewer than {fewest} steps, which a "
            f"window of horizon={horizon} needs, and are left out; data.pad_short_episodes=true trains on "
            "them, too, with their last step repeated",
            file=sys.stderr,
        )


def split_episodes(
    long_enough: np.ndarray,
    val_fraction: float,
    max_train_episodes: int | None,
    seed: int,
    tasks: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the validation episodes, then at most ``max_train_episodes`` of the others for training.

    Any ``val_fraction`` above 0 holds out at least one episode and leaves at least one for training.

    Args:
        long_enough: (E,) bool, the episodes that have a window. Others are no use in either part: they stay
            among those for training, and neither number counts them.
        tasks: (E,), see `tasks_of_episodes`; ``max_train_episodes`` are of each.

    Returns:
        Two (E,) bool masks: training and validation.
    """
    usable, val = np.flatnonzero(long_enough), np.zeros(len(long_enough), bool)
    if val_fraction > 0 and len(usable):
        n_val = min(max(1, round(len(usable) * val_fraction)), len(usable) - 1)
        val[np.random.default_rng(seed).choice(usable, size=n_val, replace=False)] = True
    train = ~val
    if max_train_episodes is None:
        return train, val
    random, numbers = np.random.default_rng(seed), np.zeros(len(train)) if tasks is None else tasks
    for task in np.unique(numbers):
        candidates = np.flatnonzero(train & long_enough & (numbers == task))
        if len(candidates) > max_train_episodes:
            train[candidates] = False
            train[candidates[random.choice(len(candidates), size=max_train_episodes, replace=False)]] = True
    return train, val
