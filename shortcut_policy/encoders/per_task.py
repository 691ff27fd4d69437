"""Encoder of low-dimensional observations of several tasks, each scaled by its own demonstrations."""

from collections.abc import Iterable, Mapping
from math import prod
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from shortcut_policy.encoders.lowdim import LowDimEncoder
from shortcut_policy.errors import InputError

#: Of the range that all tasks have together: what varies less in a task holds nothing for it.
_SMALLEST = 1e-3
#: What varies less than this is scaled as if it varied by so much.
_FLOOR = 1e-2


@runtime_checkable
class FittedEncoder(Protocol):
    """An encoder with statistics of the training data."""

    def fit(self, blocks: Iterable[Mapping[str, Tensor]]) -> None:
        """Learn them from normalised observations, name -> (N, n_obs_steps, *shape)."""
        ...


@runtime_checkable
class ClampedEncoder(Protocol):
    """An encoder that scales observations once more: a limit to their size must follow that.

    Attributes:
        clamp: Largest size of the numbers that it has scaled; None for any. See ``obs_clamp`` of `Policy`.
    """

    clamp: float | None


class PerTaskEncoder(LowDimEncoder):
    """Scale each number to [-1, 1] over the demonstrations of the task at hand; then as `LowDimEncoder`.

    The normaliser scales over the demonstrations of all tasks: where the objects of one task lie within a
    centimetre, and those of all within a metre, the network sees little of where they are. A number that
    varies in a task by less than a hundredth of its range over all tasks is scaled by 100, so that a little
    more of it at play does not become very much; by less than a thousandth, it counts as constant there and
    becomes 0.

    Args:
        obs_shapes: See `LowDimEncoder`; ``task`` is one of them, (K,), 1 for the task and 0 for the others.
        n_obs_steps: As well.
        task: The observation that tells the task, with ``normalize: identity``.

    Attributes:
        clamp: See `ClampedEncoder`.

    Raises:
        InputError: No observation is called so, or it is no row of numbers.
    """

    def __init__(
        self, obs_shapes: Mapping[str, tuple[int, ...]], n_obs_steps: int, task: str = "task"
    ) -> None:
        super().__init__(obs_shapes, n_obs_steps)
        self.clamp: float | None = None
        if task not in obs_shapes or len(obs_shapes[task]) != 1:
            raise InputError(
                f"encoder.task={task} must be the name of an observation with one number a task; there are "
                f"{', '.join(f'{name} {list(shape)}' for name, shape in obs_shapes.items())}"
            )
        self._task, (tasks,) = task, obs_shapes[task]
        self._sizes = {name: prod(shape) for name, shape in obs_shapes.items() if name != task}
        for name, size in self._sizes.items():
            # Without statistics the network gets no numbers.
            self.register_buffer(f"{name}_middle", torch.full((tasks, size), torch.nan))
            self.register_buffer(f"{name}_inverse", torch.full((tasks, size), torch.nan))

    def fit(self, blocks: Iterable[Mapping[str, Tensor]]) -> None:
        """See `FittedEncoder`. A task without demonstrations is left as the normaliser scales it.

        Raises:
            InputError: The observation that tells the task holds something else than a 1 and zeros.
        """
        low = {name: torch.full_like(self.get_buffer(f"{name}_middle"), torch.inf) for name in self._sizes}
        high = {name: -value for name, value in low.items()}
        for block in blocks:
            told = block[self._task].flatten(0, 1)
            tasks = told.argmax(1)
            wrong = (told != torch.nn.functional.one_hot(tasks, told.shape[1])).any(1)
            if wrong.any():
                raise InputError(
                    f"encoder.task={self._task} must be 1 for the task and 0 for the others, and the network "
                    f"gets {[round(x, 3) for x in told[wrong][0].tolist()]}: give its field normalize: "
                    "identity, and store a number for each task"
                )
            for name, size in self._sizes.items():
                rows = block[name].reshape(len(tasks), size).to(low[name])
                index = tasks[:, None].expand(-1, size)
                low[name].scatter_reduce_(0, index, rows, "amin")
                high[name].scatter_reduce_(0, index, rows, "amax")
        for name in self._sizes:
            seen = low[name].isfinite()
            half, middle = (high[name] - low[name]) / 2, (high[name] + low[name]) / 2
            varies = half > _SMALLEST
            inverse = torch.where(varies, 1 / half.clamp(min=_FLOOR), 0.0)
            self.get_buffer(f"{name}_middle").copy_(torch.where(seen, middle, 0.0))
            self.get_buffer(f"{name}_inverse").copy_(torch.where(seen, inverse, 1.0))

    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Normalised observations, name -> (B, n_obs_steps, *shape), to (B, C)."""
        task = obs[self._task]
        scaled = {
            name: (value.flatten(2) - task @ self.get_buffer(f"{name}_middle"))
            * (task @ self.get_buffer(f"{name}_inverse"))
            for name, value in obs.items()
            if name != self._task
        }
        if self.clamp is not None:
            scaled = {name: value.clamp(-self.clamp, self.clamp) for name, value in scaled.items()}
        return super().forward({name: scaled.get(name, value) for name, value in obs.items()})
