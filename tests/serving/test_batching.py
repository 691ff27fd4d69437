"""Nobody's actions depend on who else asks."""

import asyncio
import threading
from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch

from shortcut_policy.control import chunk_generator
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.serving.batching import Batcher
from shortcut_policy.serving.sessions import Noise, Question, Sampling
from tests.serving.conftest import history

#: Seconds for a batch to count as quick: computed in the loop, or in a thread.
IN_LOOP, IN_THREAD = 10.0, 0.0


def question(number: int, steps=1, scale=1.0) -> Question:
    obs = {name: (scale * value).astype(np.float32) for name, value in history(number).items()}
    return Question(obs, Noise(0, number, 0), Sampling(steps, None))


def with_batcher(policy: Policy, batch_size: int, use: Callable, quick_seconds: float = IN_LOOP):
    """What ``use`` returns of a batcher, and the sizes of the batches."""
    sizes: list[int] = []

    async def run():
        batcher = Batcher(
            policy, batch_size, 1, lambda rows, seconds, waited: sizes.append(rows), quick_seconds
        )
        await batcher.start()
        try:
            return await use(batcher)
        finally:
            await batcher.close()

    return asyncio.run(run()), sizes


@pytest.mark.parametrize("where", [IN_LOOP, IN_THREAD])
def test_one_row_gives_the_bits_of_act(tiny_policy, where):
    one = question(3)
    expected = tiny_policy.act(
        {name: value[None] for name, value in one.obs.items()}, 1, [chunk_generator(*one.noise)]
    )
    answer, _ = with_batcher(tiny_policy, 1, lambda batcher: batcher.ask(one), where)
    assert np.array_equal(answer.actions, expected[0])
    assert answer.evaluations == 1 and answer.gap is None and answer.infer_ms > 0


@pytest.mark.parametrize("where", [IN_LOOP, IN_THREAD])
@pytest.mark.parametrize("batch_size", [8, 9])
def test_alone_and_among_others_are_the_same_bits(tiny_policy, batch_size, where):
    asked = [question(n, steps) for n in range(8) for steps in (1, 4, "auto")]

    async def both(batcher):
        alone = [await batcher.ask(one) for one in asked]
        together = await asyncio.gather(*(batcher.ask(one) for one in asked))
        return alone, together

    (alone, together), sizes = with_batcher(tiny_policy, batch_size, both, where)
    assert sizes[: len(asked)] == [1] * len(asked)
    assert len(sizes) <= len(asked) + 6 and max(sizes) > 4, "the questions did not share batches"
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.actions, other.actions)
        assert (one.evaluations, one.gap) == (other.evaluations, other.gap)


def test_answers_come_in_the_order_of_the_questions(tiny_policy):
    order: list[int] = []

    async def ask(batcher, number, steps):
        await batcher.ask(question(number, steps))
        order.append(number)

    async def all_of_them(batcher):
        kinds = [1, 4, 1, 4, 1]
        await asyncio.gather(*(ask(batcher, number, steps) for number, steps in enumerate(kinds)))

    _, sizes = with_batcher(tiny_policy, 4, all_of_them)
    assert order == [0, 2, 4, 1, 3] and sizes == [3, 2]


def test_rows_that_round_differently_are_not_used(tiny_policy, monkeypatch):
    real = tiny_policy.predict_with_cost

    def uneven(obs, *arguments):
        found = real(obs, *arguments)
        found.x[2] = found.x[2].nextafter(torch.tensor(1e9))
        return found

    monkeypatch.setattr(tiny_policy, "predict_with_cost", uneven)

    async def places(batcher):
        return batcher.places

    assert with_batcher(tiny_policy, 4, places)[0] == [0, 1, 3]


def test_rows_are_compared_inside_the_network(tiny_policy, monkeypatch):
    """Another rounding shows in few of the actions, and only now and then."""
    policy = deepcopy(tiny_policy)
    policy.probe = torch.nn.Identity()
    real = policy.predict_with_cost

    def uneven_inside(obs, *arguments):
        hidden = torch.ones(4, 3)
        hidden[1, 2] = hidden[1, 2].nextafter(torch.tensor(2.0))
        policy.probe(hidden)
        return real(obs, *arguments)

    monkeypatch.setattr(policy, "predict_with_cost", uneven_inside)

    async def places(batcher):
        return batcher.places

    assert with_batcher(policy, 4, places)[0] == [0, 2, 3]
    assert not policy.probe._forward_hooks


@pytest.mark.parametrize("where", [IN_LOOP, IN_THREAD])
def test_who_breaks_a_batch_pays_alone(tiny_policy, where):
    async def three(batcher):
        alone = [await batcher.ask(question(n)) for n in (0, 2)]
        asked = (question(0), question(1, scale=1e34), question(2))
        return alone, await asyncio.gather(*map(batcher.ask, asked), return_exceptions=True)

    (alone, (good, bad, fine)), _ = with_batcher(tiny_policy, 4, three, where)
    assert isinstance(bad, InputError) and "no finite action" in str(bad)
    assert np.array_equal(good.actions, alone[0].actions) and np.array_equal(fine.actions, alone[1].actions)


def test_what_nobody_waits_for_is_not_computed(tiny_policy):
    async def three(batcher):
        asked = [batcher.ask(question(0)), batcher.ask(question(1), lambda: False)]
        return await asyncio.gather(*asked, return_exceptions=True)

    (answered, dropped), sizes = with_batcher(tiny_policy, 1, three)
    assert answered.evaluations == 1 and isinstance(dropped, asyncio.CancelledError)
    assert sizes == [1]


def test_the_loop_goes_on_during_a_slow_batch_and_closing_waits_for_it(tiny_policy, monkeypatch):
    go, infer = threading.Event(), Batcher._infer

    async def slow(batcher):
        monkeypatch.setattr(batcher, "_infer", lambda asked: go.wait(10) and infer(batcher, asked))
        asked = [asyncio.ensure_future(batcher.ask(question(n))) for n in range(2)]
        await asyncio.sleep(0.05)
        assert not any(future.done() for future in asked)
        closing = asyncio.ensure_future(batcher.close())
        await asyncio.sleep(0)
        go.set()
        await closing
        return await asyncio.gather(*asked, batcher.ask(question(2)), return_exceptions=True)

    (working, waiting, late), _ = with_batcher(tiny_policy, 1, slow, IN_THREAD)
    assert working.evaluations == 1
    assert all(isinstance(one, InputError) and "going down" in str(one) for one in (waiting, late))


def test_a_policy_that_cannot_act_is_told_before_it_serves(tiny_policy, monkeypatch):
    def broken(*arguments):
        raise InputError("no such thing")

    monkeypatch.setattr(tiny_policy, "predict_with_cost", broken)
    with pytest.raises(InputError, match="no such thing"):
        with_batcher(tiny_policy, 1, lambda batcher: batcher.ask(question(0)))
