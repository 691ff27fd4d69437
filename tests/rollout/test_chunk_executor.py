"""Actions in time: with a clock and inference that the test moves, and with a thread and a process."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest

from shortcut_policy.errors import DeadlineError, InputError
from shortcut_policy.policy import Policy
from shortcut_policy.rollout import chunk_executor
from shortcut_policy.rollout.chunk_executor import ChunkExecutor
from shortcut_policy.rollout.chunk_joins import Joining
from shortcut_policy.rollout.delays import Execution
from shortcut_policy.rollout.play import rollout
from shortcut_policy.rollout.policy_planner import PolicyPlanner, executor_of
from tests.rollout.planners import Counting, Elsewhere, Gated
from tests.test_control import Drifting, observations

PERIOD = 0.1


class Inference(Future):
    """Runs when it is told to, or when somebody waits for it."""

    def __init__(self, compute: Callable[[], Any]) -> None:
        super().__init__()
        self.compute = compute

    def run(self) -> None:
        try:
            self.set_result(self.compute())
        except Exception as error:
            self.set_exception(error)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        if not self.done():
            self.run()
        return super().exception()


class Later(Executor):
    """Infers when `finish` is called, but the first chunk of an episode when it is waited for."""

    def __init__(self) -> None:
        self.asked: list[Inference] = []

    def submit(self, fn, /, *args, **kwargs):
        self.asked.append(Inference(partial(fn, *args, **kwargs)))
        return self.asked[-1]

    def finish(self) -> None:
        self.asked[-1].run()


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Later:
    pool = Later()
    monkeypatch.setattr(chunk_executor, "make_pool", lambda background, planner: pool)
    return pool


def make(planner=None, n_action_steps: int = 4, **options) -> ChunkExecutor:
    options = {"n_obs_steps": 2, "clock": lambda: 0.0, **options}
    return ChunkExecutor(planner or Counting(), 1 / PERIOD, n_action_steps=n_action_steps, **options)


def look(executor: ChunkExecutor, step: int) -> None:
    executor.observe({"step": np.array([step])}, step * PERIOD)


def play(executor: ChunkExecutor, step: int) -> float:
    look(executor, step)
    return executor.action(step * PERIOD).item()


def test_in_the_call_it_plays_what_select_action_plays(tiny_policy: Policy):
    """Bit for bit, over three chunks."""
    steps = observations()
    seen = [next(steps) for _ in range(20)]
    policy = deepcopy(tiny_policy)
    policy.reset(2, seed=3, episode=0)
    expected = [policy.select_action(obs) for obs in seen]
    with executor_of(tiny_policy, 10, steps=2, seed=3, background="none") as executor:
        for step, obs in enumerate(seen):
            executor.observe(obs, step / 10)
            assert np.array_equal(executor.action(step / 10), expected[step])
    assert executor.counts.chunks == 3 and executor.counts.misses == 0


@pytest.mark.parametrize("kind", ["switch", "crossfade", "ensemble", "naive"])
def test_a_robot_and_a_rollout_of_the_same_delay_play_the_same(tiny_policy: Policy, later: Later, kind: str):
    """Bit for bit: one arithmetic, once for measured times and once for simulated ones."""
    env, late, joining = Drifting(), 3, Joining(kind)  # type: ignore[arg-type]
    execution = Execution(joining, delay=late)
    rollout(tiny_policy, lambda: env, [100_007], seed=3, num_envs=1, batch_size=1, execution=execution)
    expected, ours = env.played, Drifting()
    obs, _ = ours.reset(seed=100_007)
    planner = PolicyPlanner(tiny_policy, seed=3, episode=100_007)
    executor = ChunkExecutor(planner, 10, 2, 8, joining=joining, lead=late, clock=lambda: 0.0).start()
    due: list[int] = []
    for step in range(29):
        executor.observe(obs, step / 10)
        if due and step == due[-1] + late:
            later.finish()
        before = len(later.asked)
        action = executor.action(step / 10)
        if step:
            due += [step] * (len(later.asked) - before)
        obs, *_ = ours.step(action)
    assert np.array_equal(ours.played, expected)
    assert executor.counts.chunks == 4


def test_a_late_chunk_is_played_at_the_time_it_is_meant_for(later: Later):
    with make(lead=2) as executor:
        for step in range(12):
            if step in (4, 8):
                later.finish()
            assert play(executor, step) == step
    assert executor.counts.misses == 0 and len(later.asked) == 4


@pytest.mark.parametrize(
    ("rule", "played"), [("continue", [4, 5, 6]), ("hold", [3, 3, 3]), ("stop", [DeadlineError])]
)
def test_a_missed_deadline_is_counted_and_handled_by_the_rule(later: Later, rule, played):
    executor = make(on_miss=rule).start()
    assert [play(executor, step) for step in range(4)] == [0, 1, 2, 3]
    for step, expected in enumerate(played, 4):
        if expected is DeadlineError:
            with pytest.raises(DeadlineError, match="the next chunk is not there, and 4 actions"):
                play(executor, step)
        else:
            assert play(executor, step) == expected
    assert executor.counts.misses == len(played)
    later.finish()
    assert play(executor, 7) == 7, "it goes on in time"


def test_behind_the_end_of_a_chunk_its_last_action_is_held_and_one_of_that_time_is_dropped(
    later: Later,
):
    executor = make(Counting(length=6)).start()
    assert [play(executor, step) for step in range(9)] == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert (executor.counts.misses, executor.counts.held) == (5, 3)
    look(executor, 9)
    later.finish()  # asked for at step 3, it ends at step 8
    assert executor.action(0.9) == 5
    assert (executor.counts.dropped, executor.counts.chunks, len(later.asked)) == (1, 1, 3)
    later.finish()
    assert play(executor, 10) == 10


def test_the_next_chunk_is_asked_for_as_early_as_the_last_one_was_late(later: Later):
    executor, asked = make(n_action_steps=8).start(), []
    for step in range(30):
        look(executor, step)
        if len(asked) > 1 and step == asked[-1] + 3:
            later.finish()
        before = len(later.asked)
        executor.action(step * PERIOD)
        asked += [step] * (len(later.asked) - before)
    # One step early at first, and three as soon as it is known that a chunk takes three.
    assert asked == [0, 7, 15, 23]
    assert executor.counts.misses == 2


def test_nothing_is_held_where_a_chunk_ends_with_what_is_played_of_it(later: Later):
    """As those of a server do: of a late one fewer actions than ``n_action_steps`` are left."""
    played = []
    with make(Counting(length=4)) as executor:
        for step in range(14):
            if later.asked and not later.asked[-1].done():
                later.finish()  # it took a step
            played.append(play(executor, step))
    assert played == list(range(14)) and executor.counts.held == executor.counts.misses == 0


def test_the_prefix_is_what_is_played_until_the_chunk_is_there(later: Later):
    planner = Counting()
    executor = make(planner, joining=Joining("prefix"), prefix_steps=3, lead=2).start()
    for step in range(3):
        play(executor, step)
    later.finish()
    assert planner.seen[0][1] is None
    assert planner.seen[1][1].tolist() == [[2], [3]]
    executor = make(planner, joining=Joining("prefix"), prefix_steps=3, lead=9).start()
    for step in range(2):
        play(executor, step)
    later.finish()
    assert [prefix is None for _, prefix in planner.seen[2:]] == [True, False]
    assert planner.seen[3][1].tolist() == [[1], [2], [3]], "as many as the planner takes"
    with pytest.raises(InputError, match="give prefix_steps"):
        make(joining=Joining("prefix"))


def test_observations_may_be_old_and_come_between_two_steps(later: Later):
    """Every step is played once, and the prefix begins at the observation."""
    planner = Counting()
    executor = make(planner, n_action_steps=4, joining=Joining("prefix"), prefix_steps=9, lead=1).start()
    executor.observe({"step": np.array([0])}, -0.23)
    played = [executor.action(0.0).item()]
    for step in range(1, 12):
        executor.observe({"step": np.array([step])}, step * PERIOD - 0.23)
        if len(later.asked) > 1 and not later.asked[-1].done():
            later.finish()
        played.append(executor.action(step * PERIOD + 0.03 * (-1) ** step).item())
    # From the second chunk on, two steps after its observation.
    assert played == [0, 1, 2, 3, *(2 + step for step in range(4, 12))]
    assert [prefix[:, 0].tolist() for _, prefix in planner.seen[1:]] == [[1, 2, 3], [7, 8, 9]]


def test_the_first_chunk_is_waited_for_and_then_begins(later: Later):
    """The clock and the times need not begin together."""
    now = iter([5.0, 5.0 + 6.6 * PERIOD])
    executor = make(clock=lambda: next(now)).start()
    look(executor, 0)
    assert executor.action(0.0) == 0
    assert [executor.action(step * PERIOD).item() for step in (7, 8, 9)] == [0, 1, 2]


def test_a_history_is_chosen_by_time():
    """Whatever the rate of the observations, one control step lies between them; the first fills the rest."""
    planner = Counting()
    executor = make(planner, n_action_steps=1, n_obs_steps=3, background="none").start()
    executor.observe({"step": np.array([0])}, 0.0)
    executor.action(0.0)
    for number in range(1, 40):
        executor.observe({"step": np.array([number])}, number * PERIOD / 10)
    executor.action(39 * PERIOD / 10)
    assert planner.seen[0][0]["step"][:, 0].tolist() == [0, 0, 0]
    assert planner.seen[1][0]["step"][:, 0].tolist() == [19, 29, 39]


def test_a_robot_may_use_its_arrays_again():
    planner, step = Counting(), np.array([5])
    with make(planner, background="none") as executor:
        executor.observe({"step": step}, 0.0)
        step[:] = 99
        action = executor.action(0.0)
        action[:] = np.nan
        assert executor.action(0.0) == 5


def test_what_the_policy_does_not_look_at_may_be_of_any_kind(tiny_policy: Policy):
    steps = observations()
    with executor_of(tiny_policy, 10, background="none") as executor:
        for step, more in enumerate(([[1], [2, 3]], "push", None)):
            executor.observe({**next(steps), "seen": more, str(step): step}, step / 10)
            assert np.isfinite(executor.action(step / 10)).all()
        with pytest.raises(InputError, match="has agent_pos, and lacks keypoint"):
            executor.observe({"agent_pos": np.zeros(2)}, 1.0)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (np.ma.masked_greater([5.0], 1), "observation 'step' has numbers that are masked"),
        ([[5.0], [5.0, 6.0]], "observation 'step' is no array"),
    ],
)
def test_observations_that_no_copy_is_made_of_are_one_sentence(value, sentence: str):
    with make(Counting(), background="none") as executor, pytest.raises(InputError, match=sentence):
        executor.observe({"step": value}, 0.0)


def test_what_inference_raises_reaches_the_loop_which_may_go_on(later: Later):
    planner = Counting()
    executor = make(planner).start()
    for step in range(4):
        play(executor, step)
    planner.fails = OSError("the cable is out")
    later.finish()
    with pytest.raises(OSError, match="the cable is out"):
        play(executor, 4)
    planner.fails = None
    play(executor, 5)
    later.finish()
    assert play(executor, 6) == 6


def test_time_goes_on(later: Later):
    executor = make().start()
    play(executor, 3)
    with pytest.raises(InputError, match=r"observation of time=0.3\d* comes after one of 0.3"):
        look(executor, 3)
    with pytest.raises(InputError, match=r"action for time=0.2 comes after one for 0.3"):
        executor.action(0.2)
    executor.reset()
    assert play(executor, 0) == 0, "an episode begins its own time"


def test_what_cannot_be_played_is_refused():
    executor = make(background="none")
    with pytest.raises(InputError, match="has not been started"):
        executor.action(0.0)
    executor.start()
    with pytest.raises(InputError, match="no observation to act on"):
        executor.action(0.0)
    look(executor, 0)
    with pytest.raises(InputError, match=r"older at time=9.0 than a chunk is long"):
        executor.action(9.0)
    with pytest.raises(InputError, match=r"'step' has shape \[2\], and those before had \[1\]"):
        executor.observe({"step": np.zeros(2)}, 1.0)
    with pytest.raises(InputError, match="has angle, and those before had step"):
        executor.observe({"angle": np.zeros(1)}, 1.0)
    with pytest.raises(InputError, match="rate_hz=0 must be above 0"):
        ChunkExecutor(Counting(), 0, 1, 1)
    with pytest.raises(InputError, match="on_miss=wait must be continue, hold or stop"):
        make(on_miss="wait")
    with pytest.raises(InputError, match="n_action_steps=0"):
        make(n_action_steps=0)


@pytest.mark.parametrize(
    ("chunk", "sentence"),
    [
        (np.zeros((3, 1)), r"shape \(3, 1\), expected \(n, A\).*n_action_steps=4 at least"),
        (np.zeros(8), r"shape \(8,\)"),
        (np.full((8, 1), np.nan), "NaN or infinity as an action"),
    ],
)
def test_a_planner_that_gives_no_chunk_is_refused(chunk: np.ndarray, sentence: str):
    planner = Counting()
    planner.plan = lambda history, prefix: chunk  # type: ignore[method-assign]
    with make(planner, background="none") as executor:
        look(executor, 0)
        with pytest.raises(InputError, match=sentence):
            executor.action(0.0)


def test_a_thread_infers_while_the_loop_goes_on_and_ends_with_it():
    planner = Gated()
    planner.gate.release()
    before = threading.active_count()
    with make(planner, lead=2) as executor:
        assert [play(executor, step) for step in range(5)] == [0, 1, 2, 3, 4]
        assert threading.active_count() == before + 1 and len(planner.seen) == 1
        planner.gate.release()
    assert threading.active_count() == before
    planner.gate.release()
    with executor:
        assert play(executor, 0) == 0, "it can be started again"
    executor.stop()


def test_a_process_infers_elsewhere_and_its_errors_come_back():
    executor = ChunkExecutor(Elsewhere(), 10, 1, 8, background="process")
    with executor:
        look(executor, 1)
        assert executor.action(PERIOD) not in (0, os.getpid())
        executor.reset()
        look(executor, -1)
        with pytest.raises(ValueError, match="a negative step"):
            executor.action(0.0)


def test_another_rate_than_that_of_the_data_is_told(tiny_policy: Policy, capsys):
    for known, told in ((None, 0), (10.0, 0), (20.0, 1)):
        tiny_policy.metadata["rate_hz"] = known
        executor_of(tiny_policy, 10)
        assert (
            capsys.readouterr().err.count("data of 20 steps a second, and is played at 10: it moves 0.5 t")
            == told
        )


class Reusing(Counting):
    """Writes each chunk into the same array, as runtimes and clients with a buffer do."""

    def plan(self, history, prefix):
        chunk = super().plan(history, prefix)
        self.buffer = getattr(self, "buffer", np.zeros_like(chunk))
        self.buffer[:] = chunk
        if len(self.seen) > 1:
            self.buffer[:] += 100
        return self.buffer


def test_a_chunk_is_played_as_it_was_given(later: Later):
    with make(Reusing(), lead=2) as executor:
        assert [play(executor, step) for step in range(3)] == [0, 1, 2]
        later.finish()  # the next one is there, and not joined yet
        assert executor._plan is not None and executor._plan.actions[:3, 0].tolist() == [0, 1, 2]
