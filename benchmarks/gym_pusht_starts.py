"""Our Push-T from the starts of the package gym-pusht, for ``scripts/rollout.py``.

    PYTHONPATH=benchmarks python scripts/rollout.py checkpoint=pretrained/pusht seed=1000 \
        +env.id=gym_pusht_starts:GymPushTStarts-v0

The physics are the same (``pusht_parity.py``), but gym-pusht draws its starts with another generator.
"""

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from shortcut_envs.pusht.env import PushTEnv
from shortcut_envs.pusht.physics import PushTState


class GymPushTStarts(PushTEnv):
    """Push-T whose ``reset(seed=s)`` gives the state of gym-pusht's ``reset(seed=s)``."""

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        draw = self.np_random
        if seed is not None:
            draw, _ = gymnasium.utils.seeding.np_random(seed)
        agent = draw.integers(50, 450), draw.integers(50, 450)
        start = np.array([*agent, draw.integers(100, 400), draw.integers(100, 400), 0.0])
        start[4] = draw.uniform(-np.pi, np.pi)
        self.simulator.set_state(PushTState.at_rest(start), legacy_order=True, settle=True)
        return self._observe(), self._info()


gymnasium.register("GymPushTStarts-v0", GymPushTStarts)
