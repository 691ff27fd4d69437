"""A person's episodes in one environment: begun, played step by step, kept or not. No page and no clock."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import gymnasium
import numpy as np

from shortcut_policy.data.agreement import differences, kind_of_array
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.errors import InputError, exits_are_errors, first_line
from shortcut_policy.recording.controls import Control
from shortcut_policy.recording.player import PolicyPlayer
from shortcut_policy.recording.rows import INTERVENTION, Rows, check_free
from shortcut_policy.rollout.episode import close_environment, read_end, read_number, read_success
from shortcut_policy.rollout.recorder import frames_a_second, rendered

#: Environment seeds of recorded episodes lie from here on, far from those that policies are evaluated at.
FIRST_SEED = 20_000_000
#: Numbers of starts of one seed of the session, before those of the next.
STARTS = 100_000

Phase = Literal["ready", "running", "over"]
Keep = Literal["corrections", "episodes"]


@dataclass
class Status:
    """What the page shows.

    Attributes:
        phase: ``ready``: at a start, nothing moves; ``running``; ``over``: the longest episode has passed,
            and it is to be kept or discarded.
        step: Steps of the running episode,
        score: and its best score.
        human: Whether the person acts now.
        episodes: In the store,
        steps: and their steps.
        note: What happened last, a sentence.
    """

    phase: Phase = "ready"
    step: int = 0
    score: float = 0.0
    human: bool = True
    episodes: int = 0
    steps: int = 0
    note: str = ""


class Session:
    """Plays episodes and stores those that are to be kept, each in one step of the writer.

    What is solved is stored at once. Without a policy the person acts all the time. With one, the policy acts
    until they take over; then either the corrections alone are stored, each as an episode, or whole episodes
    with marks of the corrected steps (`INTERVENTION`).

    Args:
        env: With ``render_mode="rgb_array"`` and ``is_success`` in ``info``.
        writer: The store.
        control: How the person acts.
        rows: The form of the store.
        seed: Of the starts: start i is a function of it and i.
        least: Steps of the shortest episode that is stored: of a shorter one training makes no window.
        player: The policy, if there is one.
        keep: What is stored of a policy's episodes.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        writer: EpisodeWriter | RobomimicWriter,
        control: Control,
        rows: Rows,
        *,
        seed: int = 0,
        least: int = 1,
        player: PolicyPlayer | None = None,
        keep: Keep = "corrections",
    ) -> None:
        self._env, self._writer, self.control, self._rows = env, writer, control, rows
        self._least, self._player, self._keep = least, player, keep
        #: Control steps a second; whether a policy plays.
        self.rate, self.has_policy = frames_a_second(env), player is not None
        self._next = FIRST_SEED + STARTS * seed + writer.n_episodes
        self._status = Status()
        #: What the page gave last in this episode, None if nothing.
        self.given: Any = None
        self._obs: Any = None
        self._info: Any = None
        self._reset()

    @property
    def status(self) -> dict[str, Any]:
        """`Status` as plain JSON."""
        self._status.episodes, self._status.steps = self._writer.n_episodes, self._writer.n_steps
        return asdict(self._status)

    @property
    def running(self) -> bool:
        """Whether the environment moves."""
        return self._status.phase == "running"

    def picture(self) -> np.ndarray:
        """The scene now, (H, W, 3) uint8."""
        return page_picture(self._env)

    def begin(self) -> None:
        """Let the episode run."""
        if self._status.phase == "ready":
            self._status.phase, self._status.note = "running", ""

    def step(self, given: Any, held: bool) -> None:
        """Play one step, if the episode runs.

        Args:
            given: What the page gives, see `Control.action`; None if nothing was moved yet: then the person's
                episode waits.
            held: Whether the person acts, where a policy does otherwise.

        An environment that fails ends the episode: what was played before is there to be kept.

        Raises:
            InputError: ``given`` is no control; nothing moves then.
        """
        human = self._player is None or (held and given is not None)
        if not self.running or (human and given is None):
            return
        before = self._rows.before(self._obs, self._info)
        action = self._control_or_policy(human, given)
        self.given = given
        try:
            # A copy: an environment may scale or clip what it is given, and what was asked for is stored.
            with exits_are_errors():
                self._obs, reward, terminated, truncated, self._info = self._env.step(action.copy())
            success, over = read_success(self._env, self._info), read_end(self._env, terminated, truncated)
            reward = read_number("reward", reward)
            score = read_number("score", self._info.get("score", reward))
        except Exception as error:  # of whatever kind: it is the simulator's
            self._status.phase = "over"
            self._status.note = (
                f"the environment failed ({type(error).__name__}: {first_line(error)}): keep the episode up "
                "to here, or discard it"
            )
            return
        self._solved |= success
        if self._player is not None:
            self._player.observe(self._obs)
        self._status.step += 1
        self._status.score = max(self._status.score, score)
        self._add(before | self._rows.after(action, reward, success), human)
        self._status.human = human
        if success:
            self.finish()
        elif over:
            self._status.phase = "over"
            self._status.note = "the longest episode has passed: keep it, or discard it"

    def finish(self) -> None:
        """Keep the episode as it is, and go to the next start."""
        if self._status.phase == "ready":
            return
        self._status.note = ("solved: " if self._solved else "") + self._store()
        self._next += 1
        self._reset()

    def discard(self) -> None:
        """Forget what is not stored of the episode, and go back to its start."""
        self._status.note = "discarded" if self._status.phase != "ready" else ""
        self._reset()

    def skip(self) -> None:
        """Forget what is not stored of the episode, and go to another start."""
        self._next += 1
        self._status.note = "another start"
        self._reset()

    def undo(self) -> None:
        """Take the last stored episode out of the store; the running one stays."""
        if self._writer.n_episodes == 0:
            self._status.note = "the store holds no episode"
            return
        self._writer.remove_last()
        self._status.note = f"episode {self._writer.n_episodes} was taken out of the store"

    def close(self) -> None:
        """Close the environment; the writer is its owner's."""
        close_environment(self._env)

    def _reset(self) -> None:
        try:
            self._obs, self._info = _begun(self._env, self._next)
        except InputError as error:
            raise InputError(f"{error}; what has been stored stays") from error
        self._solved, self._stored_before = False, self._writer.n_episodes
        self._kept: list[Mapping[str, Any]] = []
        self._marks: list[bool] = []
        self.given = None
        self._status.phase, self._status.step, self._status.score = "ready", 0, 0.0
        self._status.human = self._player is None
        if self._player is not None:
            self._player.reset(self._next)
            self._player.observe(self._obs)

    def _control_or_policy(self, human: bool, given: Any) -> np.ndarray:
        if human:
            action = self.control.action(given)
            if self._player is not None:
                self._player.interrupt()
            return action
        assert self._player is not None
        return self._player.action()

    def _add(self, row: Mapping[str, Any], human: bool) -> None:
        """Keep a row, or store the correction that it ends."""
        if self._player is None or self._keep == "episodes" or human:
            self._kept.append(row)
            self._marks.append(human)
        elif self._kept:
            self._status.note = self._store()
            self._kept, self._marks = [], []

    def _store(self) -> str:
        """Write what is kept, if it can be learned from; says what was done."""
        marked = self._player is not None and self._keep == "episodes"
        if self._player is not None and not any(self._marks):
            if (stored := self._writer.n_episodes - self._stored_before) > 0:
                return f"its corrections are stored ({stored})"
            return "nothing was corrected, so nothing was stored"
        if len(self._kept) < self._least:
            what = "correction" if self._player is not None and not marked else "episode"
            return f"dropped: {len(self._kept)} steps are too short a {what} to learn from ({self._least})"
        episode = {key: np.stack([row[key] for row in self._kept]) for key in self._kept[0]}
        if marked:
            episode[INTERVENTION] = np.array(self._marks, np.uint8)
        self._writer.add_episode({**self._rows.whole(), **episode})
        return f"stored episode {self._writer.n_episodes - 1}, {len(self._kept)} steps"


def page_picture(env: gymnasium.Env) -> np.ndarray:
    """The scene of an environment, (H, W, 3) uint8.

    Raises:
        InputError: It draws none.
    """
    try:
        with exits_are_errors():
            return rendered(env, "the page needs", otherwise="")
    except InputError:
        raise
    except Exception as error:  # of whatever kind: it is the simulator's
        found = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{env.unwrapped} cannot be drawn ({found}): the page needs pictures") from error


def _begun(env: gymnasium.Env, seed: int) -> tuple[Any, dict[str, Any]]:
    """What a reset gives, or one sentence."""
    try:
        with exits_are_errors():
            return env.reset(seed=seed)
    except Exception as error:  # of whatever kind: it is the simulator's
        raise InputError(
            f"{env.unwrapped} cannot be reset with seed={seed} ({type(error).__name__}: {first_line(error)})"
        ) from error


def row_of(env: gymnasium.Env, rows: Rows, marked: bool) -> tuple[dict[str, np.ndarray], Mapping[str, Any]]:
    """One row as it will be stored, and the ``info`` beside it, from the first start; nothing is played."""
    obs, info = _begun(env, FIRST_SEED)
    action = np.zeros(env.action_space.shape or (), np.float32)
    row = rows.before(obs, info) | rows.after(action, 0.0, False)
    if marked:
        check_free(env, INTERVENTION, row)
    stored = {key: np.asarray(value) for key, value in row.items()}
    return stored | ({INTERVENTION: np.array(0, np.uint8)} if marked else {}), info


def check_continues(
    path: str, row: Mapping[str, np.ndarray], there: Mapping[str, tuple[tuple[int, ...], np.dtype]]
) -> None:
    """Find out before anybody plays whether rows fit what is to be continued.

    Args:
        path: Of that.
        row: Key -> what would be stored of a step.
        there: Key -> shape and type of a step that is stored.

    Raises:
        InputError: They have other keys, shapes or types.
    """
    asked = {key: kind_of_array(np.shape(value), np.asarray(value).dtype) for key, value in row.items()}
    held = {key: kind_of_array(*kind) for key, kind in there.items()}
    for key, theirs, ours in differences(held, asked):
        raise InputError(
            f"{path} cannot be continued: in it '{key}' is {theirs}, and here it would be {ours}; choose "
            "another output"
        )
