"""One action for each control step of a robot, however long the inference of a chunk takes.

Nothing here knows what infers: a policy (`policy_planner.PolicyPlanner`), an exported one, a server far away.
"""

import math
import time as wall
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np

from shortcut_policy.arrays import copied
from shortcut_policy.errors import DeadlineError, InputError
from shortcut_policy.rollout.chunk_joins import Joining, Plan, join
from shortcut_policy.rollout.workers import Background, make_pool
from shortcut_policy.settings import check_choice, check_number, check_whole

#: Chunks whose lateness is remembered, to ask for the next one in time.
REMEMBERED = 16


class ChunkPlanner(Protocol):
    """What infers chunks. With ``background="process"`` it is pickled."""

    def plan(self, history: Mapping[str, np.ndarray], prefix: np.ndarray | None) -> np.ndarray:
        """The actions (n, A) from the last observed step on, in environment units.

        Args:
            history: name -> (n_obs_steps, *shape), oldest first, one control step apart.
            prefix: (k, A), the first of these actions that are played anyway; None if none is given.
        """
        ...


@dataclass
class Counts:
    """What happened since the last `ChunkExecutor.reset`.

    Attributes:
        actions: Actions given.
        chunks: Chunks that were joined.
        misses: Actions that were due before the chunk that should have held them was there.
        held: Actions that no chunk held, so that the last one was repeated.
        dropped: Chunks that came when all their actions had passed.
    """

    actions: int = 0
    chunks: int = 0
    misses: int = 0
    held: int = 0
    dropped: int = 0


@dataclass(frozen=True)
class _Request:
    """A chunk that was asked for at the time ``asked``, with an observation of the time ``observed``."""

    future: "Future[np.ndarray]"
    asked: float
    observed: float


class ChunkExecutor:
    """Plays chunks in time, and infers the next one meanwhile.

    Each step of the loop gives it an observation and takes an action, both with their time. An action is
    played at the time that its chunk means it for: what has passed when a chunk is there is dropped, or
    joined otherwise (`Joining`). The next chunk is asked for as early as the last ones were late, so that it
    is there when ``n_action_steps`` actions of the present one have been played, which is its deadline, or
    when the present one ends.

    The first chunk of an episode is waited for, and begins when it is there: the robot has not moved.

    Args:
        planner: Infers chunks.
        rate_hz: Control steps in a second: the rate of the training data.
        n_obs_steps: Observations of a history.
        n_action_steps: Actions of a chunk that are played, if the next one is in time.
        joining: How a chunk takes over from the one before.
        prefix_steps: The most actions that the planner takes as a prefix, for ``Joining("prefix")``.
        background: Where inference runs: in a ``thread``, in a ``process``, which leaves the interpreter of
            the loop alone, or in the call of `action` (``none``), which then takes as long.
        on_miss: What is played after a missed deadline: ``continue`` the old chunk, and at its end hold its
            last action; ``hold`` the last action at once; ``stop`` with a `DeadlineError`.
        lead: Steps from asking for a chunk to the chunk, by which it is asked for earlier; the most that one
            of the last chunks took if None.
        names: Of the observations that the planner looks at; others may be of any kind. All of them if None.
        clock: Seconds; it measures how long the first chunk is waited for.

    Attributes:
        counts: What happened since the last reset.

    Raises:
        InputError: An argument is out of its bounds.

    Example:
        >>> with ChunkExecutor(planner, rate_hz=20, n_obs_steps=2, n_action_steps=8) as executor:
        ...     executor.observe(robot.observe(), time.monotonic())
        ...     robot.move(executor.action(time.monotonic()))
    """

    def __init__(
        self,
        planner: ChunkPlanner,
        rate_hz: float,
        n_obs_steps: int,
        n_action_steps: int,
        *,
        joining: Joining | None = None,
        prefix_steps: int = 0,
        background: Background = "thread",
        on_miss: Literal["continue", "hold", "stop"] = "continue",
        lead: int | None = None,
        names: Collection[str] | None = None,
        clock: Callable[[], float] = wall.monotonic,
    ) -> None:
        check_number("rate_hz", rate_hz, lambda rate: rate > 0, "above 0, control steps in a second")
        for name, count, least in (
            ("n_obs_steps", n_obs_steps, 1),
            ("n_action_steps", n_action_steps, 1),
            ("prefix_steps", prefix_steps, 0),
            ("lead", lead or 0, 0),
        ):
            check_whole(name, count, least)
        check_choice("background", background, ("none", "thread", "process"))
        check_choice("on_miss", on_miss, ("continue", "hold", "stop"))
        self._planner, self._period = planner, 1 / rate_hz
        self._n_obs_steps, self._n_action_steps, self._prefix_steps = (
            n_obs_steps,
            n_action_steps,
            prefix_steps,
        )
        self._joining, self._background, self._on_miss = joining or Joining(), background, on_miss
        if self._joining.executor == "prefix" and not prefix_steps:
            raise InputError(
                "executor=prefix needs a planner that takes a prefix: give prefix_steps, its most actions"
            )
        self._lead, self._names, self._clock = lead, names, clock
        self._pool: Pool | None = None
        self.reset()

    def start(self) -> Self:
        """Make the thread or process that infers, and begin an episode."""
        if self._pool is None:
            self._pool = make_pool(self._background, self._planner)
        self.reset()
        return self

    def stop(self) -> None:
        """End them; an inference that runs is waited for. `start` makes new ones."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()

    def reset(self) -> None:
        """Begin an episode: forget observations, chunks and counts. What is being inferred is dropped."""
        self.counts = Counts()
        self._history: deque[tuple[float, dict[str, np.ndarray]]] = deque()
        self._pending: _Request | None = None
        self._plan: Plan | None = None
        self._last: np.ndarray | None = None
        # The plan's first step is at the time _origin, and its newest chunk began at its step _begin.
        self._origin, self._begin, self._time = 0.0, 0, -np.inf
        self._lateness: deque[int] = deque(maxlen=REMEMBERED)

    def observe(self, obs: Mapping[str, Any], time: float) -> None:
        """Add an observation.

        Args:
            obs: name -> (*shape), of one step. What the planner looks at is copied.
            time: In seconds, when it was made; later than that of the one before.

        Raises:
            InputError: The time does not go on, something is missing, or names or shapes are not those of the
                observation before.
        """
        names = obs if self._names is None else self._names
        if missing := sorted(set(names) - set(obs)):
            raise InputError(f"an observation has {', '.join(sorted(obs))}, and lacks {', '.join(missing)}")
        copies = {name: copied(f"observation '{name}'", obs[name]) for name in names}
        if self._history:
            before, known = self._history[-1]
            if not time > before:
                raise InputError(f"an observation of time={time} comes after one of {before}: time goes on")
            _check_same(copies, known)
        self._history.append((time, copies))
        oldest = time - (self._n_obs_steps - 0.5) * self._period
        while len(self._history) > 1 and self._history[1][0] <= oldest:
            self._history.popleft()

    def action(self, time: float) -> np.ndarray:
        """The action (A,) for this time, float32, the caller's to change.

        Args:
            time: In seconds, of the same clock as the observations'.

        Raises:
            InputError: There is no observation, it has not been started, or time goes backwards.
            DeadlineError: A deadline was missed, with ``on_miss="stop"``.
            Exception: Whatever the inference raised. The next call asks for a chunk again.
        """
        if self._pool is None:
            raise InputError("the executor has not been started: call start(), or use it in a with statement")
        if not self._history:
            raise InputError("there is no observation to act on: call observe(obs, time) first")
        if not time >= self._time:
            raise InputError(f"an action for time={time} comes after one for {self._time}: time goes on")
        self._time = time
        self._collect(time)
        if self._due(time):
            self._request(self._pool, time)
            self._collect(time)
        if self._plan is None:
            self._await_first(time)
        return self._play(time)

    def _due(self, time: float) -> bool:
        """Whether the next chunk has to be asked for now."""
        if self._pending is not None:
            return False
        if self._plan is None:
            return True
        # A chunk that was late may end before so many of its actions are played, as a server's does.
        end = min(self._begin + self._n_action_steps, len(self._plan.votes))
        return self._step(time) + self._expected() >= end

    def _expected(self) -> int:
        """Steps from asking for a chunk to the chunk."""
        if self._background == "none":
            return 0
        return max(self._lateness, default=1) if self._lead is None else self._lead

    def _request(self, pool: Pool, time: float) -> None:
        observed = self._history[-1][0]
        prefix = None
        if self._joining.executor == "prefix" and self._plan is not None:
            age = self._age(time, observed)
            length = min(age + self._expected(), self._prefix_steps)
            first = self._step(time) - age
            prefix = self._plan.window(first, length).actions if length else None
        future = pool.submit(self._planner.plan, self._stacked(), prefix)
        self._pending = _Request(future, time, observed)

    def _collect(self, time: float) -> None:
        """Join the chunk that was asked for, if it is there."""
        if self._pending is None or not self._pending.future.done():
            return
        request, self._pending = self._pending, None
        chunk = self._checked(request.future.result())
        late = self._age(time, request.observed)
        if self._plan is not None:
            self._lateness.append(self._steps(time - request.asked))
        if late >= len(chunk) and self._joining.aligned:
            self.counts.dropped += 1
            return
        if self._plan is None:
            self._plan = Plan.of(chunk)
        else:
            step = self._step(time)
            old = self._plan.window(step - late, len(chunk) + late)
            self._plan = join(old, chunk, late, self._joining)
            time = self._origin + step * self._period
        # Chunks keep the raster of the first one: if each had one of its own, between the times of the
        # actions, jitter of these times could repeat an action or leave one out.
        self._origin, self._begin = time - late * self._period, late
        self.counts.chunks += 1

    def _await_first(self, time: float) -> None:
        """The first chunk, which begins when it is there."""
        if self._pending is None:
            raise InputError(
                f"the newest observation, of time={self._history[-1][0]}, is older at time={time} than a "
                "chunk is long: observe before each action"
            )
        asked = self._clock()
        self._pending.future.exception()  # waits, and leaves it to the next line to raise
        self._pending = _Request(self._pending.future, time, time)
        self._collect(time)
        self._origin = time + self._steps(self._clock() - asked) * self._period

    def _play(self, time: float) -> np.ndarray:
        assert self._plan is not None
        step = max(0, self._step(time))
        self.counts.actions += 1
        missed = step - self._begin >= self._n_action_steps
        self.counts.misses += missed
        if missed and self._on_miss == "stop":
            raise DeadlineError(
                f"at time={time} the next chunk is not there, and {self._n_action_steps} actions of the "
                "present one have been played: lower rate_hz, infer faster, or give on_miss=continue"
            )
        if not (missed and self._on_miss == "hold" and self._last is not None):
            played = self._plan.window(step, 1)
            self._last = played.actions[0].astype(np.float32)
            self.counts.held += int(played.votes[0] == 0)
        assert self._last is not None
        return self._last.copy()

    def _step(self, time: float) -> int:
        """The step of the plan that is played at a time."""
        return self._steps(time - self._origin)

    def _age(self, time: float, observed: float) -> int:
        """Steps from an observation to the step that is played at a time."""
        played_at = time if self._plan is None else self._origin + self._step(time) * self._period
        return max(0, self._steps(played_at - observed))

    def _steps(self, seconds: float) -> int:
        """So many control steps, the nearest whole number; halves count up."""
        return math.floor(seconds / self._period + 0.5)

    def _stacked(self) -> dict[str, np.ndarray]:
        """The observations nearest to one control step apart, up to the newest; the first fills the rest."""
        newest = self._history[-1][0]
        wanted = [newest - back * self._period for back in reversed(range(self._n_obs_steps))]
        chosen = [min(self._history, key=lambda seen: abs(seen[0] - when))[1] for when in wanted]
        return {name: np.stack([obs[name] for obs in chosen]) for name in chosen[0]}

    def _checked(self, chunk: Any) -> np.ndarray:
        """What a planner gave, as float32.

        Raises:
            InputError: It is no chunk that can be played.
        """
        # A copy: a planner may write each chunk into the same array, while the one before is played.
        actions = copied("a chunk of the planner", chunk).astype(np.float32)
        width = None if self._plan is None else self._plan.actions.shape[-1]
        if actions.ndim != 2 or len(actions) < self._n_action_steps or width not in (None, actions.shape[1]):
            raise InputError(
                f"the planner gave actions of shape {actions.shape}, expected (n, {width or 'A'}): from the "
                f"last observed step on, n_action_steps={self._n_action_steps} at least"
            )
        if not np.isfinite(actions).all():
            raise InputError("the planner gave NaN or infinity as an action")
        return actions


def _check_same(obs: Mapping[str, np.ndarray], known: Mapping[str, np.ndarray]) -> None:
    if obs.keys() != known.keys():
        raise InputError(
            f"an observation has {', '.join(sorted(obs))}, and those before had {', '.join(sorted(known))}"
        )
    for name, value in obs.items():
        if value.shape != known[name].shape:
            raise InputError(
                f"observation '{name}' has shape {list(value.shape)}, and those before had "
                f"{list(known[name].shape)}"
            )
