"""Scaling of observations and actions, kept inside the policy so that it cannot be lost or doubled."""

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.data.source import Field
from shortcut_policy.errors import InputError
from shortcut_policy.float32_buffers import Float32Buffers

#: Size of a normalised number from which on a value is far from the data: a whole range outside them, or ten
#: standard deviations from their mean.
FAR = {"limits": 3.0, "gaussian": 10.0}
#: An element that was constant moves if it is further from its constant than this many times what noise may
#: be: `Field.min_range`, and what float32 cannot hold.
MOVED = 10.0
#: Numbers of a sentence.
SHOWN = 6
ROUNDING = 1e-6


class RunningStatistics:
    """Mean, variance, minimum and maximum per element, block by block in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.square = np.zeros(())
        self.min, self.max = np.array(np.inf), np.array(-np.inf)

    def update(self, rows: np.ndarray) -> None:
        """Add rows, (N, *shape)."""
        if len(rows) == 0:
            return
        rows = rows.astype(np.float64)
        mean = rows.mean(axis=0)
        total, shift = self.count + len(rows), mean - self.mean
        self.square = self.square + ((rows - mean) ** 2).sum(axis=0)
        self.square = self.square + shift**2 * (self.count * len(rows) / total)
        self.mean = self.mean + shift * (len(rows) / total)
        self.min = np.minimum(self.min, rows.min(axis=0))
        self.max = np.maximum(self.max, rows.max(axis=0))
        self.count = total

    @property
    def std(self) -> np.ndarray:
        """Population standard deviation per element."""
        return np.sqrt(self.square / max(self.count, 1))


class Normalizer(Float32Buffers):
    """Per field, ``x = scale * y + offset`` between environment units x and what the network sees, y.

    The two numbers are float32 buffers per element of the field (one pair for the whole field with
    ``identity`` and ``image``), so they travel in the policy's ``state_dict``; they keep 32 bits when the
    policy is cast to fewer.

    An element that never varied in the training data says nothing: its scale is 0, it normalises to 0
    whatever its value, and comes back as the constant whatever the network says. So is one that varied by no
    more than ``min_range`` of its field, see `Field` and `nearly_constant`.
    """

    def __init__(self, fields: Mapping[str, Field], statistics: Mapping[str, RunningStatistics]) -> None:
        super().__init__()
        self.names = tuple(fields)
        self._known_finite = False
        self._far = {name: FAR[field.normalize] for name, field in fields.items() if field.normalize in FAR}
        self._noise = {name: field.min_range for name, field in fields.items()}
        #: Elements of which no range is known.
        self._unscaled = {name: list(field.unscaled) for name, field in fields.items()}
        self._said: set[tuple[str, int]] = set()
        self._bounds: dict[str, tuple[Tensor, Tensor]] = {}
        for name, field in fields.items():
            if "." in name:
                raise InputError(f"the name '{name}' holds a dot, which a parameter's cannot; rename it")
            scale, offset = _scale_and_offset(field, statistics.get(name))
            self.register_buffer(f"{name}_scale", torch.from_numpy(scale.astype(np.float32)))
            self.register_buffer(f"{name}_offset", torch.from_numpy(offset.astype(np.float32)))

    @classmethod
    def empty(cls, fields: Mapping[str, Field]) -> "Normalizer":
        """A normaliser of the right shapes that refuses to work until a ``state_dict`` is loaded into it."""
        normalizer = cls(fields, {})
        for buffer in normalizer.buffers():
            buffer.fill_(torch.nan)
        return normalizer

    @property
    def fitted(self) -> bool:
        """Whether every field has its statistics."""
        # Remembered, because looking costs a transfer from the device.
        self._known_finite = self._known_finite or all(bool(b.isfinite().all()) for b in self.buffers())
        return self._known_finite

    def normalize(self, name: str, x: Tensor) -> Tensor:
        """Environment units to network units, (..., *shape) of any dtype (uint8 images too) to float."""
        scale, offset = self._affine(name)
        inverse = torch.where(scale == 0, 0.0, 1.0 / scale)
        return (x - offset) * inverse

    def unnormalize(self, name: str, y: Tensor) -> Tensor:
        """Network units to environment units, (..., *shape)."""
        scale, offset = self._affine(name)
        return y * scale + offset

    def clamped(self, name: str, y: Tensor, size: float) -> Tensor:
        """Network units within ``size``, (..., *shape) as it came; what the data do not scale is left alone.

        Pictures, ``identity`` and ``unscaled`` are in units of their own: nothing says what is much of them.
        """
        if name not in self._far:
            return y
        limit = min(float(size), torch.finfo(y.dtype).max)  # a limit beyond that is none
        kept = y.clamp(-limit, limit)
        for element in self._unscaled[name]:
            kept[..., element] = y[..., element]
        return kept

    def is_near(self, name: str, x: Tensor) -> bool:
        """Whether all of x (..., *shape), in environment units, is finite and about where the data were.

        See `FAR`, and `MOVED` of an element that was constant. An element that is ``unscaled`` is near
        whatever its value, as nothing says where the data were, and so is one of which `say_far` has spoken:
        it is not looked for again.
        """
        if name not in self._far:
            return not x.is_floating_point() or bool(x.isfinite().all())
        if name not in self._bounds:  # kept: a robot asks in every step
            self._bounds[name] = self._limits(name)
        low, high = self._bounds[name]
        return bool(((x >= low) & (x <= high)).all())

    def _limits(self, name: str) -> tuple[Tensor, Tensor]:
        """The smallest and largest value of each element that is near, each of shape (*shape)."""
        scale, offset = self._affine(name)
        moved = MOVED * (self._noise[name] + ROUNDING * offset.abs())
        reach = torch.where(scale == 0, moved, self._far[name] * scale.abs())
        known = torch.zeros(scale.numel(), dtype=torch.bool)
        known[[element for of, element in self._said if of == name]] = True
        known, most = known.to(scale.device).reshape(scale.shape), torch.finfo(scale.dtype).max
        if self._unscaled[name]:
            known[..., self._unscaled[name]] = True
        return (offset - reach).masked_fill(known, -most), (offset + reach).masked_fill(known, most)

    def say_far(
        self, values: Mapping[str, Tensor], clamp: float | None = None, of: str = "observation"
    ) -> None:
        """Say on stderr, once an element, which of these values are not near, name -> (..., *shape).

        Args:
            clamp: What limits the size of the numbers that the network gets, if something does.
            of: What the values are, for the sentence.
        """
        advice = "" if clamp is None else f" (obs_clamp={clamp:g})"
        if clamp is None and of == "observation":
            advice = "; obs_clamp limits what it gets"
        for name in [name for name in values if name in self._far]:
            scale, offset = self._affine(name)
            rows = values[name].float().reshape(-1, max(scale.numel(), 1))
            low, high = (limit.flatten() for limit in self._limits(name))
            for element in ((rows < low) | (rows > high)).any(0).nonzero().flatten().tolist():
                self._said.add((name, element))
                middle, half = offset.flatten()[element].item(), abs(scale.flatten()[element].item())
                value = rows[(rows[:, element] - middle).abs().argmax(), element].item()
                index = list(map(int, np.unravel_index(element, scale.shape)))
                if half:
                    size = abs(value - middle) / half
                    gets = size if clamp is None else min(size, clamp)
                    what = (
                        f"the data that the policy learned from lie about {middle:.6g} +- {half:.3g}: the "
                        f"network gets {gets:.3g} where it knows about 1{advice}; check units and sensor"
                    )
                else:
                    what = (
                        f"it was {middle:.6g} in all the data that the policy learned from: the network does "
                        "not see it move; check the sensor, or train on data in which it moves"
                    )
                print(
                    f"{of} '{name}', element {index}, is {value:.6g}, and {what} (said once)",
                    file=sys.stderr,
                )
            self._bounds.pop(name, None)

    def disturbed(
        self,
        values: Mapping[str, Tensor],
        pictures: Collection[str],
        std: float,
        noise_like: Callable[[Tensor], Tensor],
    ) -> dict[str, Tensor]:
        """Values in environment units with noise on each of their numbers, as the network sees them.

        Args:
            values: name -> (B, ..., *shape).
            pictures: Names of those that are left as they are.
            std: Standard deviation of the noise, in network units.
            noise_like: Draws standard normal numbers of a tensor's shape.
        """
        names = [name for name in self.names if name in values and name not in pictures]
        clean = {name: self.normalize(name, values[name]) for name in names}
        noisy = {name: self.unnormalize(name, x + std * noise_like(x)) for name, x in clean.items()}
        return {**values, **noisy}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._bounds.clear()  # they go where the numbers go
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._bounds.clear()
        super()._load_from_state_dict(*arguments, **options)

    def _affine(self, name: str) -> tuple[Tensor, Tensor]:
        if name not in self.names:
            raise InputError(f"'{name}' is unknown; the policy was made for {', '.join(self.names)}")
        if not self.fitted:
            raise InputError(
                "the normalizer has no statistics: fit it on the training data or load a checkpoint with them"
            )
        return self.get_buffer(f"{name}_scale"), self.get_buffer(f"{name}_offset")


def nearly_constant(
    field: Field, statistics: RunningStatistics
) -> list[tuple[tuple[int, ...], float, float]]:
    """Elements that vary and count as constant all the same: their index, smallest and largest value."""
    if field.normalize in ("identity", "image") or statistics.count == 0:
        return []
    lost = ~_varies(field, statistics) & (statistics.max > statistics.min)
    if field.unscaled:
        lost[..., list(field.unscaled)] = False
    return [
        (tuple(map(int, at)), float(statistics.min[tuple(at)]), float(statistics.max[tuple(at)]))
        for at in np.argwhere(lost)
    ]


def _varies(field: Field, statistics: RunningStatistics) -> np.ndarray:
    """Which elements hold information: what float32 cannot hold next to the value itself is rounding."""
    largest = np.maximum(abs(statistics.min), abs(statistics.max))
    least = np.maximum(np.maximum(ROUNDING * largest, field.min_range), np.finfo(np.float32).tiny)
    found: np.ndarray = statistics.max - statistics.min > least
    return found


def say_nearly_constant(field: Field, statistics: RunningStatistics, where: str, needed: bool) -> None:
    """On stderr, which elements of a field count as constant, why, and what to do.

    Args:
        where: The field and its key, for the sentence.
        needed: Whether nothing can be learned if all elements that vary are like that, or none varies.

    Raises:
        InputError: It is so.
    """
    if needed and statistics.count > 1 and not (statistics.max > statistics.min).any():
        values = [f"{value:.6g}" for value in statistics.min.flatten()[:SHOWN]]
        values += ["..."] * (statistics.min.size > SHOWN)
        print(
            f"{where} is the same in all of the data, {', '.join(values)}: only "
            "that can be learned; look at what was recorded, or name another key",
            file=sys.stderr,
        )
    elements = nearly_constant(field, statistics)
    if not elements:
        return
    at, low, high = elements[0]
    more = f" and {len(elements) - 1} more elements" if len(elements) > 1 else ""
    found = f"{where}: element {list(at)}{more} varies by {high - low:.2g} only, {low:.6g} to {high:.6g}, "
    if high - low > field.min_range:
        found, advice = f"{found}which float32 hardly holds", "take a constant off in the data"
    else:
        found, advice = f"{found}no more than min_range={field.min_range:g}", "give its field less"
    if needed and not _varies(field, statistics).any():
        raise InputError(f"{found}, and so do all of them: {advice}")
    print(f"{found}, and counts as constant; to learn from it, {advice}", file=sys.stderr)


def _scale_and_offset(field: Field, statistics: RunningStatistics | None) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers in float64; not a number where statistics are needed and absent."""
    if field.normalize == "image":
        return np.array(127.5), np.array(127.5)
    if field.normalize == "identity":
        return np.array(1.0), np.array(0.0)
    if statistics is None or statistics.count == 0:
        return np.full(field.shape, np.nan), np.full(field.shape, np.nan)
    if field.normalize == "gaussian":
        scale, offset = statistics.std, statistics.mean
    else:
        scale, offset = (statistics.max - statistics.min) / 2, (statistics.max + statistics.min) / 2
    constant = statistics.min + (statistics.max - statistics.min) / 2
    varies = _varies(field, statistics)
    scale, offset = np.where(varies, scale, 0.0), np.where(varies, offset, constant)
    if field.unscaled:
        scale[..., list(field.unscaled)], offset[..., list(field.unscaled)] = 1.0, 0.0
    return scale, offset
