"""What both sides of `serve_openpi.py` write down of an episode; for any NumPy."""

import hashlib

import numpy as np


class Record:
    """One episode, step by step."""

    def __init__(self, seed: int) -> None:
        self.seed, self.steps, self.over, self._success = seed, 0, False, False
        self._score, self._return = -np.inf, 0.0
        self._actions = hashlib.sha256()

    def add(self, action: np.ndarray, reward: float, terminated: bool, truncated: bool, info: dict) -> None:
        """The action of a step and what came of it."""
        self._actions.update(np.asarray(action, np.float32).tobytes())
        self._return, self._score = self._return + float(reward), max(self._score, float(info["score"]))
        self._success, self.over = self._success or bool(info["is_success"]), terminated or truncated
        self.steps += 1

    def row(self) -> dict:
        """In plain numbers. Rewards are rounded: the last digits of an area follow the version of NumPy."""
        return {
            "seed": self.seed,
            "success": self._success,
            "score": round(self._score, 9),
            "return": round(self._return, 9),
            "length": self.steps,
            "actions_sha256": self._actions.hexdigest()[:16],
        }
