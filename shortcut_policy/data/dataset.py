"""Batches of windows from a source of episodes, the only thing the trainer sees of the data."""

import operator
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, SupportsIndex, TypedDict

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.utils import data

from shortcut_policy.data.normalizer import Normalizer, RunningStatistics
from shortcut_policy.data.source import EpisodeSource, Field, find_row, pieces, row_bytes
from shortcut_policy.data.windows import check_sizes, create_windows, split_episodes
from shortcut_policy.errors import InputError
from shortcut_policy.settings import Count, Index, NotNegative, check_fields

ACTION = "action"
#: Bytes of stored data that are read at a time when a whole key is gone through.
BLOCK_BYTES = 2**27


@dataclass(frozen=True)
class _Numbers:
    """The numbers that a dataset is made with, checked."""

    horizon: Count
    n_obs_steps: Count
    n_action_steps: Count
    val_fraction: Annotated[float, Ge(0), Lt(1)]
    max_train_episodes: Count | None
    seed: Index
    memory_limit_mb: NotNegative

    def __post_init__(self) -> None:
        check_fields(self)


class Batch(TypedDict):
    """What `DemonstrationDataset.batch` returns; an item is the same without the axis of the batch."""

    obs: dict[str, Tensor]
    action: Tensor


class DemonstrationDataset(data.Dataset[Batch]):
    """Windows of demonstrations, with everything that can be wrong with them found here and not hours later.

    A window is ``horizon`` consecutive steps of one episode; its first ``n_obs_steps`` are observed, the
    actions of all of them are learned. Windows begin up to ``n_obs_steps - 1`` steps before an episode and
    end up to ``n_action_steps - 1`` after it, where the first and last step repeat (see `create_windows`).

    Fields of up to ``memory_limit_mb`` are loaded once and gathered on ``device`` by one indexing operation;
    larger ones are read from the source batch by batch. Images are kept as bytes: one per value.

    It is a map-style data set of torch, whose items are the training windows, so that a `DataLoader` takes
    it, with workers, too: the source is opened again in each. The trainer calls `batch` instead, which
    gathers a whole batch at once. Example:

        >>> obs, action = {"state": Field("state", shape=(4,))}, Field("action", shape=(2,))
        >>> sizes = {"horizon": 16, "n_obs_steps": 2, "n_action_steps": 8}
        >>> demonstrations = DemonstrationDataset(ZarrSource("reach.zarr"), obs, action, **sizes)
        >>> for batch in DataLoader(demonstrations, batch_size=128, shuffle=True, num_workers=2):
        ...     batch["obs"]["state"]  # (128, 2, 4)
        ...     batch["action"]  # (128, 16, 2)

    Args:
        source: The episodes.
        obs: Observation fields by the name under which the policy knows them.
        action: The action field, of shape (A,).
        val_fraction: Part of the episodes held out for validation, in [0, 1); above 0 it is at least one.
        max_train_episodes: Train on this many episodes, drawn after the split; all if None.
        seed: Of both draws.
        memory_limit_mb: Largest field that is kept in memory, in MiB.
        verify: Read fields that stay on disk once, here, so that a corrupt chunk or a NaN is found before
            training. Without it they are found when their batch comes.

    Attributes:
        train: (N, 3) int64 table of training windows on ``device``, see `create_windows`.
        val: The same for the validation episodes; may be empty.
        fields: The observation fields and, as ``action``, the action field.
        device: Where batches are made.

    Raises:
        InputError: A key is missing, has another shape than its field or is not numeric; a chunk file is
            missing or corrupt; NaN or Inf; no episode is long enough; sizes that contradict each other.
    """

    def __init__(
        self,
        source: EpisodeSource,
        obs: Mapping[str, Field],
        action: Field,
        horizon: int,
        n_obs_steps: int,
        n_action_steps: int,
        val_fraction: float = 0.02,
        max_train_episodes: int | None = None,
        seed: int = 42,
        memory_limit_mb: float = 1024.0,
        verify: bool = True,
    ) -> None:
        numbers = _Numbers(
            horizon, n_obs_steps, n_action_steps, val_fraction, max_train_episodes, seed, memory_limit_mb
        )
        # As whole numbers, for those that were given as 16.0.
        horizon, n_obs_steps, n_action_steps = numbers.horizon, numbers.n_obs_steps, numbers.n_action_steps
        check_sizes(horizon, n_obs_steps, n_action_steps)
        if isinstance(source, str | os.PathLike):
            raise InputError(f"source={source} is a path: open it first, such as ZarrSource({str(source)!r})")
        if not isinstance(obs, Mapping) or not all(isinstance(field, Field) for field in obs.values()):
            raise InputError(f"obs={obs!r:.80} must be a mapping of names to fields: {{'state': Field(...)}}")
        if ACTION in obs or len(action.shape) != 1:
            raise InputError(
                f"the action must have one axis and no observation may be called 'action'; got the action "
                f"shape {list(action.shape)} and the observations {', '.join(obs)}"
            )
        self.source, self.horizon, self.n_obs_steps = source, horizon, n_obs_steps
        self.n_action_steps = n_action_steps
        self.fields: dict[str, Field] = {**obs, ACTION: action}
        self.device = torch.device("cpu")
        for field in self.fields.values():
            field.check(source)
        self.train_episodes, self.val_episodes = split_episodes(
            len(source.episode_ends), numbers.val_fraction, numbers.max_train_episodes, numbers.seed
        )
        self.train = self._windows(self.train_episodes)
        self.val = self._windows(self.val_episodes)
        if len(self.train) == 0:
            longest = int(np.diff(source.episode_ends, prepend=0)[self.train_episodes].max())
            raise InputError(
                f"no training episode of {source.path} is long enough for a window: the longest has "
                f"{longest} steps, horizon={horizon} needs "
                f"{horizon - n_obs_steps - n_action_steps + 2}; lower it"
            )
        self._in_memory: dict[str, Tensor] = {}
        for key in dict.fromkeys(field.key for field in self.fields.values()):
            self._load(key, numbers.memory_limit_mb * 2**20, verify)

    def __len__(self) -> int:
        """The number of training windows."""
        return len(self.train)

    def __getitem__(self, index: SupportsIndex) -> Batch:
        """One training window, in environment units.

        Args:
            index: Number of the window, from 0 to below `len`; negative ones count from the end.

        Returns:
            ``obs``: name -> (n_obs_steps, *shape), and ``action``: (horizon, A), on ``device``; float32, but
            uint8 for image fields. ``batch(train[rows])`` is `default_collate` of the items ``rows``.

        Raises:
            IndexError: There is no such window.
        """
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"window {number} of {len(self)}")
        batch = self.batch(self.train[number][None])
        return {"obs": {name: x[0] for name, x in batch["obs"].items()}, "action": batch["action"][0]}

    def batch(self, windows: Tensor) -> Batch:
        """The steps of windows, in environment units.

        Args:
            windows: (B, 3) rows of ``train`` or ``val``.

        Returns:
            ``obs``: name -> (B, n_obs_steps, *shape), and ``action``: (B, horizon, A), on ``device``;
            float32, but uint8 for image fields.
        """
        windows = windows.to(self.device)
        start, lo, hi = windows[:, :1], windows[:, 1:2], windows[:, 2:]
        steps = start + torch.arange(self.horizon, device=self.device)
        steps = torch.minimum(torch.maximum(steps, lo), hi - 1)
        observed = steps[:, : self.n_obs_steps]
        obs = {name: self._gather(name, observed) for name in self.fields if name != ACTION}
        return {"obs": obs, "action": self._gather(ACTION, steps)}

    def fit_normalizer(self) -> Normalizer:
        """Statistics of the training episodes that have a window, all of their steps."""
        used = torch.unique(self.train[:, 1:], dim=0).tolist()
        statistics = {name: RunningStatistics() for name in self.fields}
        for name, field in self.fields.items():
            if field.normalize in ("identity", "image"):
                continue
            for lo, hi in used:
                for rows in pieces(lo, hi, row_bytes(self.source, field.key), BLOCK_BYTES):
                    statistics[name].update(self._rows(name, rows.start, rows.stop))
        return Normalizer(self.fields, statistics)

    @property
    def in_memory(self) -> bool:
        """Whether every field is held there, so that a batch is gathered on ``device``."""
        return self._in_memory.keys() == self.fields.keys()

    def to(self, device: str | torch.device) -> "DemonstrationDataset":
        """Move the window tables and the fields in memory; returns self."""
        self.device = torch.device(device)
        self.train, self.val = self.train.to(device), self.val.to(device)
        self._in_memory = {name: tensor.to(device) for name, tensor in self._in_memory.items()}
        return self

    @property
    def size(self) -> dict[str, int]:
        """What a checkpoint says of how much it learned from."""
        return {"train_episodes": int(self.train_episodes.sum()), "train_windows": len(self.train)}

    def _windows(self, episodes: np.ndarray) -> Tensor:
        before, after = self.n_obs_steps - 1, self.n_action_steps - 1
        return torch.from_numpy(
            create_windows(self.source.episode_ends, self.horizon, before, after, mask=episodes)
        )

    def _load(self, key: str, limit: float, verify: bool) -> None:
        """Go through a key once: check every value of its fields and keep the fields that fit."""
        rows = int(self.source.episode_ends[-1])
        fields = {name: field for name, field in self.fields.items() if field.key == key}
        kept = {
            name: torch.empty((rows, *field.shape), dtype=_dtype(field))
            for name, field in fields.items()
            if rows * int(np.prod(field.shape)) * _dtype(field).itemsize <= limit
        }
        self._in_memory |= kept
        if not kept and not verify:
            self.source.read(key, 0, 1)
            return
        for part in pieces(0, rows, row_bytes(self.source, key), BLOCK_BYTES):
            block = self.source.read(key, part.start, part.stop)
            for name, field in fields.items():
                values = self._convert(field, block, part.start)
                if name in kept:
                    kept[name][part.start : part.stop] = torch.from_numpy(values)

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        if name in self._in_memory:
            return self._in_memory[name][start:stop].cpu().numpy()
        field = self.fields[name]
        return self._convert(field, self.source.read(field.key, start, stop), start)

    def _gather(self, name: str, steps: Tensor) -> Tensor:
        """(B, T) row numbers -> (B, T, *shape)."""
        if name in self._in_memory:
            return self._in_memory[name][steps]
        windows = []
        for row_numbers in steps.cpu().numpy():
            first = int(row_numbers[0])
            windows.append(self._rows(name, first, int(row_numbers[-1]) + 1)[row_numbers - first])
        return torch.from_numpy(np.stack(windows)).to(self.device)

    def _convert(self, field: Field, block: np.ndarray, start: int) -> np.ndarray:
        """Stored rows to the field's values, or the first row that cannot be used."""
        values = field.take(block)
        if field.normalize == "image":
            return self._pixels(field, values, start)
        values = np.ascontiguousarray(values, dtype=np.float32)
        bad = ~np.isfinite(values)
        if bad.any():
            where = self._where(field, bad, start)
            raise InputError(f"{where} is not a finite number; drop or repair that episode")
        return values

    def _pixels(self, field: Field, values: np.ndarray, start: int) -> np.ndarray:
        if values.dtype == np.uint8:
            return np.ascontiguousarray(values)
        if not 0 <= values.min() <= values.max() <= 255:  # NaN fails too
            where = self._where(field, ~((values >= 0) & (values <= 255)), start)
            raise InputError(f"{where} is not a pixel value in 0..255; drop or repair that episode")
        if start == 0 and values.dtype.kind == "f" and 0 < values.max() <= 1:
            raise InputError(
                f"key '{field.key}' of {self.source.path} holds images in 0..1; store 0..255, as uint8"
            )
        return np.rint(values).astype(np.uint8)

    def _where(self, field: Field, bad: np.ndarray, start: int) -> str:
        row = start + int(np.argwhere(bad)[0][0])
        episode, step = find_row(self.source, row)
        return f"key '{field.key}' of {self.source.path}, row {row} (episode {episode}, step {step})"


def _dtype(field: Field) -> torch.dtype:
    return torch.uint8 if field.normalize == "image" else torch.float32
