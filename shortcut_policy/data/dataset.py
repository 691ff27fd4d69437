"""Batches of windows from a source of episodes, the only thing the trainer sees of the data."""

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, SupportsIndex, TypedDict

import numpy as np
import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.utils import data

from shortcut_policy.data.conversion import Conversion, check_rows, say_changes
from shortcut_policy.data.fields import ACTION
from shortcut_policy.data.frame_file import FRAMES, FrameFile, Rows, SourceOfFrames, frame_file
from shortcut_policy.data.memory import Kind, kind_of, local_processes, needed_bytes, trim_memory
from shortcut_policy.data.normalizer import Normalizer, RunningStatistics, say_nearly_constant
from shortcut_policy.data.outliers import RowSample, outlying, say_outliers
from shortcut_policy.data.source import (
    EpisodeSource,
    Field,
    expand,
    find_row,
    pieces,
    row_bytes,
    speaks_for_read,
    whole_chunks,
)
from shortcut_policy.data.suspects import Turns, say_copied
from shortcut_policy.data.totals import totals
from shortcut_policy.data.windows import (
    check_sizes,
    create_windows,
    marked_rows,
    say_short,
    split_episodes,
    tasks_of_episodes,
)
from shortcut_policy.errors import InputError
from shortcut_policy.paths import cache_folder
from shortcut_policy.settings import Count, Index, NotNegative, check_choice, check_fields

#: Bytes of stored data that are read at a time when a whole key is gone through.
BLOCK_BYTES = 2**24
#: Zarr decodes in many threads, each of which keeps the memory of its last chunk.
PARTS_BETWEEN_TRIMS = 4
#: Bytes of a block for statistics, whose last digits depend on it.
STATISTICS_BYTES = 2**27


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
    only: str | None
    per_task: str | None

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

    Every value is looked at once, here. The smallest fields, up to ``memory_limit_mb`` together, are kept in
    memory and gathered on ``device`` by one indexing operation; the others are decoded into files, from which
    batches are read (see `frame_file`; they are used again the next time). Images are kept as bytes: one per
    value.

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
        memory_limit_mb: Most that all fields in memory hold together, in MiB; the processes of torchrun on a
            machine share it.
        cache: Folder of those files; the environment variable SHORTCUT_POLICY_CACHE or else
            ``~/.cache/shortcut_policy`` if None.
        pad_short_episodes: Repeat the last step of episodes without a window, which have fewer than ``horizon
            - n_obs_steps - n_action_steps + 2`` steps. If not, they are left out, and how many they are is
            said on stderr.
        only: Key of marks, 0 or 1 in each row, such as ``intervention``: only windows whose first played
            action is in a marked row; all if None.
        per_task: Key of what tells tasks apart: ``max_train_episodes`` are of each; of all if None.

    Attributes:
        train: (N, 3) int64 table of training windows, see `create_windows`; on ``device`` if ``in_memory``.
        val: The same for the validation episodes; may be empty.
        fields: The observation fields and, as ``action``, the action field.
        device: Where batches are made.

    Raises:
        InputError: A key is missing, has another shape than its field or is not numeric; a chunk file is
            missing or corrupt; NaN or Inf; no episode is long enough; sizes that contradict each other; no
            room for a field that is not kept in memory.
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
        cache: str | os.PathLike[str] | None = None,
        pad_short_episodes: bool = False,
        only: str | None = None,
        per_task: str | None = None,
    ) -> None:
        sizes = (horizon, n_obs_steps, n_action_steps)
        numbers = _Numbers(*sizes, val_fraction, max_train_episodes, seed, memory_limit_mb, only, per_task)
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
        check_choice("data.pad_short_episodes", pad_short_episodes, (True, False))
        self._pad_short = pad_short_episodes
        self.fields: dict[str, Field] = {**obs, ACTION: action}
        self.device = torch.device("cpu")
        for field in self.fields.values():
            field.check(source)
        if len(source.episode_ends) == 0 or (np.diff(source.episode_ends, prepend=0) < 0).any():
            raise InputError(f"the episode_ends of {source.path} must increase: {source.episode_ends!r:.80}")
        tasks = None if per_task is None else tasks_of_episodes(source, per_task)
        marked = None if only is None else marked_rows(source, only)
        usable = np.diff(source.episode_ends, prepend=0) >= (1 if pad_short_episodes else self._fewest)
        if marked is not None:  # or else all that is marked may be held out, or nothing
            usable &= np.isin(source.episode_ends, self._windows(usable, marked)[:, 2])
        self.train_episodes, self.val_episodes = split_episodes(
            usable, numbers.val_fraction, numbers.max_train_episodes, numbers.seed, tasks
        )
        self.train = self._windows(self.train_episodes, marked)
        self.val = self._windows(self.val_episodes, marked)
        if len(self.train) == 0 and marked is not None and len(self._windows(self.train_episodes)):
            raise InputError(
                f"no window of a training episode of {source.path} begins in a row that '{only}' marks "
                f"({int(marked.sum())} of {len(marked)} rows are marked): leave data.only out, or record more"
            )
        if len(self.train) == 0:
            longest = int(np.diff(source.episode_ends, prepend=0)[self.train_episodes].max())
            raise InputError(
                f"no training episode of {source.path} is long enough for a window: the longest has "
                f"{longest} steps, horizon={horizon} needs {self._fewest}; lower it, or give "
                "data.pad_short_episodes=true"
            )
        if not pad_short_episodes:
            say_short(source, self._fewest, horizon)
        folder = cache_folder(None if cache is None else expand(cache)) / FRAMES
        self._totals: dict[str, list[float]] = {}
        self._in_memory: dict[str, Tensor] = {}
        self._on_disk: dict[str, FrameFile] = {}
        self._limit_mb, self._processes = numbers.memory_limit_mb, local_processes()
        self._needed = needed_bytes(self.fields.values(), int(source.episode_ends[-1]))
        for key in dict.fromkeys(field.key for field in self.fields.values()):
            self._load(key, folder)

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
        windows = windows.to(self.train.device)
        start, lo, hi = windows[:, :1], windows[:, 1:2], windows[:, 2:]
        steps = start + torch.arange(self.horizon, device=windows.device)
        steps = torch.minimum(torch.maximum(steps, lo), hi - 1)
        observed = steps[:, : self.n_obs_steps]
        obs = {name: self._gather(name, observed) for name in self.fields if name != ACTION}
        return {"obs": obs, "action": self._gather(ACTION, steps)}

    def fit_normalizer(self) -> Normalizer:
        """Statistics of the training episodes that have a window, all of their steps."""
        statistics = {name: RunningStatistics() for name in self.fields}
        count = sum(hi - lo for lo, hi in self._used())
        samples: dict[str, RowSample] = {}
        find = partial(find_row, self.source)
        for name, field in self.fields.items():
            if field.normalize == "image":
                continue
            sample, turns = samples.setdefault(name, RowSample(count, field)), Turns(field)
            for start, rows in self._blocks(name):
                statistics[name].update(rows)
                sample.update(rows)
                turns.update(start, rows)
            where = f"{name} (key '{field.key}' of {self.source.path})"
            say_nearly_constant(field, statistics[name], where, needed=name == ACTION)
            odd = outlying(field, statistics[name], sample, constant=name == ACTION)
            say_outliers(odd, where, self._blocks(name), find)
            turns.say(where, find)
        say_copied(self.fields, samples, self.source.path)
        return Normalizer(self.fields, statistics)

    def _blocks(self, name: str) -> Iterator[tuple[int, np.ndarray]]:
        """Number of the first row, and rows, of all that `_used` tells."""
        for lo, hi in self._used():
            for rows in pieces(lo, hi, row_bytes(self.source, self.fields[name].key), STATISTICS_BYTES):
                yield rows.start, self._rows(name, rows.start, rows.stop)

    def value_range(self, name: str) -> np.ndarray:
        """Smallest and largest value of each element of a field in what is trained on, (2, *shape)."""
        found = RunningStatistics()
        for _, rows in self._blocks(name):
            found.update(rows)
        return np.stack([found.min, found.max])

    def totals(self) -> dict[str, list[float]]:
        """The `totals` of each field but pictures, which decoders round in several ways."""
        for name in [name for name, field in self.fields.items() if field.normalize != "image"]:
            if name not in self._totals:
                self._totals[name] = totals(self._blocks(name))
        return dict(self._totals)

    @property
    def in_memory(self) -> bool:
        """Whether every field is held there, so that a batch is gathered on ``device``."""
        return self._in_memory.keys() == self.fields.keys()

    def to(self, device: str | torch.device) -> "DemonstrationDataset":
        """Move the fields in memory, and the window tables if all fields are there; returns self."""
        self.device = torch.device(device)
        if self.in_memory:  # or else rows are looked up where files are read
            self.train, self.val = self.train.to(device), self.val.to(device)
        self._in_memory = {name: tensor.to(device) for name, tensor in self._in_memory.items()}
        return self

    @property
    def size(self) -> dict[str, int]:
        """What a checkpoint says of how much it learned from."""
        return {"train_episodes": len(self._used()), "train_windows": len(self.train)}

    def _used(self) -> list[list[int]]:
        """First row of each training episode that has a window, and the row after its last."""
        found: list[list[int]] = torch.unique(self.train[:, 1:], dim=0).tolist()
        return found

    def _windows(self, episodes: np.ndarray, marked: np.ndarray | None = None) -> Tensor:
        before, after = self.n_obs_steps - 1, self.n_action_steps - 1
        ends = self.source.episode_ends
        found = create_windows(ends, self.horizon, before, after, episodes, marked, pad_short=self._pad_short)
        return torch.from_numpy(found)

    @property
    def _fewest(self) -> int:
        """Steps of an episode that has a window."""
        return max(1, self.horizon - self.n_obs_steps - self.n_action_steps + 2)

    def _load(self, key: str, folder: Path) -> None:
        """Go through a key: check every value of its fields, and keep them in memory or in files."""
        rows = int(self.source.episode_ends[-1])
        kinds: dict[Kind, list[str]] = {}
        for name, field in self.fields.items():
            if field.key == key:
                kinds.setdefault(kind_of(field), []).append(name)
        kept: list[tuple[Conversion, Tensor]] = []
        for kind, names in kinds.items():
            convert = Conversion(self.source, self.fields[names[0]])
            say_changes(convert)
            if self._needed[kind] * self._processes <= self._limit_mb * 2**20:
                kept.append(
                    (convert, torch.from_numpy(np.empty((rows, *convert.field.shape), convert.dtype)))
                )
                self._in_memory |= dict.fromkeys(names, kept[-1][1])
            else:
                file = self._frame_file(convert, rows, self._needed[kind], folder)
                self._on_disk |= dict.fromkeys(names, file)
        if kept:
            converts, tensors = zip(*kept, strict=True)
            for part in self._parts(key, 0):
                for tensor, values in zip(tensors, self._converted(key, part, converts), strict=True):
                    tensor[part.start : part.stop] = torch.from_numpy(values)
            for convert in converts:
                convert.say_rounded()

    def _frame_file(self, convert: Conversion, count: int, needed: int, folder: Path) -> FrameFile:
        field, source = convert.field, self.source
        if convert.keeps and isinstance(source, SourceOfFrames) and speaks_for_read(source, "decoded"):
            file = source.decoded(field.key)
            if file is not None:
                return file
        kind = "images" if convert.is_image else "values"
        each = "" if self._processes == 1 else f" for {self._processes} processes"
        name, why = f"{kind} of key '{field.key}'", f"above data.memory_limit_mb={self._limit_mb:g}{each}"
        rows = Rows(
            f"{name} of {source.path}",
            count,
            field.shape,
            convert.dtype,
            why,
            needed=needed * self._processes,
        )

        def blocks(done: int) -> Iterator[np.ndarray]:
            for part in self._parts(field.key, done):
                yield from self._converted(field.key, part, [convert])
            convert.say_rounded()

        return frame_file(rows, source, convert.made_of, blocks, folder)

    def _parts(self, key: str, start: int) -> Iterator[range]:
        """Rows from ``start`` on, in parts that are read at a time."""
        rows = int(self.source.episode_ends[-1])
        for number, part in enumerate(whole_chunks(self.source, key, start, rows, BLOCK_BYTES), start=1):
            yield part
            if number % PARTS_BETWEEN_TRIMS == 0:
                trim_memory()

    def _converted(self, key: str, part: range, converts: Sequence[Conversion]) -> list[np.ndarray]:
        """Values of some rows; what is stored of them is freed at once, before the next are read."""
        block = check_rows(self.source, key, part, self.source.read(key, part.start, part.stop))
        return [convert(block, part.start) for convert in converts]

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        if name in self._on_disk:
            return self._on_disk[name].read(start, stop)
        return self._in_memory[name][start:stop].cpu().numpy()

    def _gather(self, name: str, steps: Tensor) -> Tensor:
        """(B, T) row numbers -> (B, T, *shape)."""
        if name in self._on_disk:
            return torch.from_numpy(self._on_disk[name].gather(steps.numpy())).to(self.device)
        rows = self._in_memory[name]
        # Nine times as fast for images as rows[steps].
        return rows.index_select(0, steps.to(self.device).reshape(-1)).reshape(*steps.shape, *rows.shape[1:])
