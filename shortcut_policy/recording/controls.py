"""What a person moves in the page, as an action of the environment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces

from shortcut_policy.errors import InputError

#: Numbers of a displacement: position, rotation, gripper.
ARM_SIZE = 7


@dataclass(frozen=True)
class Control:
    """How a person acts in an environment.

    Attributes:
        kind: ``pointer``: a place in the picture, which shows the box of the actions from its upper left
            corner to its lower right one. ``arm``: a displacement of a gripper, (7,) in [-1, 1], by keys or
            gamepad.
        low: (A,) smallest action,
        high: (A,) and largest.
    """

    kind: Literal["pointer", "arm"]
    low: np.ndarray
    high: np.ndarray

    def action(self, given: Any) -> np.ndarray:
        """The action (A,) float32 for what the page gave, within the box.

        Args:
            given: ``pointer``: x and y as parts of the picture's width and height; ``arm``: the action
                itself.

        Raises:
            InputError: It is no list of so many finite numbers.
        """
        size = len(self.low)
        numbers = isinstance(given, Sequence) and all(type(number) in (int, float) for number in given)
        if not numbers or len(given) != size or not np.isfinite(np.array(given, np.float64)).all():
            raise InputError(f"the page gave {given!s:.60}, expected {size} finite numbers")
        values = np.array(given, np.float64)
        if self.kind == "pointer":
            values = self.low + values * (self.high - self.low)
        return values.clip(self.low, self.high).astype(np.float32)


def control_of(env: gymnasium.Env) -> Control:
    """The control that fits an environment's actions.

    Raises:
        InputError: There is none.
    """
    box = env.action_space
    if isinstance(box, spaces.Box) and np.isfinite(box.low).all() and np.isfinite(box.high).all():
        low, high = box.low.astype(np.float64), box.high.astype(np.float64)
        if box.shape == (2,):
            return Control("pointer", low, high)
        if box.shape == (ARM_SIZE,) and (low == -1).all() and (high == 1).all():
            return Control("arm", low, high)
    raise InputError(
        f"there is no way to move actions of {box} by hand: a box of 2 numbers is moved by the mouse, and "
        f"one of {ARM_SIZE} displacements in [-1, 1] by keys or gamepad (tasks of robosuite with one arm, "
        "and not *_absolute)"
    )
