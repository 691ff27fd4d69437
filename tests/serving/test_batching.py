"""Nobody's actions depend on who else asks."""

import threading
from concurrent.futures import CancelledError

import pytest
import torch

from shortcut_policy.control import chunk_generator
from shortcut_policy.errors import InputError
from shortcut_policy.serving.batching import Batcher
from shortcut_policy.serving.sessions import Noise, Question, Sampling
from tests.serving.conftest import history


def question(number: int, steps=1, scale=1.0) -> Question:
    obs = {name: scale * torch.from_numpy(value) for name, value in history(number).items()}
    return Question(obs, Noise(0, number, 0), Sampling(steps, None))


@pytest.fixture
def batcher(tiny_policy):
    """Makes batchers, which are closed in the end."""
    made = []

    def make(batch_size, **settings):
        made.append(Batcher(tiny_policy, batch_size, 1, **settings))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        one.close()


class Held:
    """Keeps the thread of a batcher busy until it is let go, so that questions gather."""

    def __init__(self, batcher, monkeypatch):
        self.go, self.busy, infer = threading.Event(), threading.Event(), batcher._infer
        self.sizes = []

        def held(questions):
            self.busy.set()
            assert self.go.wait(10)
            self.sizes.append(len(questions))
            return infer(questions)

        monkeypatch.setattr(batcher, "_infer", held)


def test_one_row_gives_the_bits_of_act(batcher, tiny_policy):
    one = question(3)
    expected = tiny_policy.act(
        {name: value[None] for name, value in one.obs.items()}, 1, [chunk_generator(*one.noise)]
    )
    assert torch.equal(torch.from_numpy(batcher(1).submit(one).result().actions), expected[0])


@pytest.mark.parametrize("batch_size", [8, 9])
def test_alone_and_among_others_are_the_same_bits(batcher, monkeypatch, batch_size):
    full = batcher(batch_size)
    alone = [full.submit(question(n, steps)).result().actions for n in range(8) for steps in (1, 4)]
    held = Held(full, monkeypatch)
    first = full.submit(question(99))
    held.busy.wait(10)
    futures = [full.submit(question(n, steps)) for n in range(8) for steps in (1, 4)]
    held.go.set()
    assert first.result().actions.shape == alone[0].shape
    together = [future.result().actions for future in futures]
    assert held.sizes[0] == 1 and max(held.sizes) > 2, "the questions did not share batches"
    assert all((one == other).all() for one, other in zip(alone, together, strict=True))


def test_rows_that_round_differently_are_not_used(tiny_policy, monkeypatch):
    real = tiny_policy.predict_with_cost

    def uneven(obs, *arguments):
        found = real(obs, *arguments)
        found.x[2] = found.x[2].nextafter(torch.tensor(1e9))
        return found

    monkeypatch.setattr(tiny_policy, "predict_with_cost", uneven)
    uneven_batcher = Batcher(tiny_policy, 4, 1)
    uneven_batcher.start()
    uneven_batcher.close()
    assert 2 not in uneven_batcher.places and 0 in uneven_batcher.places


def test_who_breaks_a_batch_pays_alone(batcher, monkeypatch):
    full = batcher(4)
    expected = [full.submit(question(n)).result().actions for n in (0, 2)]
    held = Held(full, monkeypatch)
    full.submit(question(99))
    held.busy.wait(10)
    good, bad, fine = (full.submit(one) for one in (question(0), question(1, scale=1e34), question(2)))
    held.go.set()
    with pytest.raises(InputError, match="no finite action"):
        bad.result()
    assert (good.result().actions == expected[0]).all()
    assert (fine.result().actions == expected[1]).all()


def test_what_is_taken_back_is_not_computed(batcher, monkeypatch):
    full = batcher(1)
    held = Held(full, monkeypatch)
    full.submit(question(0))
    held.busy.wait(10)
    dropped, last = full.submit(question(1)), full.submit(question(2))
    assert dropped.cancel()
    held.go.set()
    last.result()
    assert len(held.sizes) == 2


def test_closing_ends_the_batch_and_cancels_the_rest(batcher, monkeypatch):
    full = batcher(1)
    held = Held(full, monkeypatch)
    working, waiting = full.submit(question(0)), full.submit(question(1))
    held.busy.wait(10)
    threading.Timer(0.05, held.go.set).start()
    full.close()
    assert working.result().evaluations == 1
    with pytest.raises(CancelledError):
        waiting.result()
    with pytest.raises(InputError, match="going down"):
        full.submit(question(2)).result()


def test_a_policy_that_cannot_act_is_told_before_it_serves(tiny_policy, monkeypatch):
    def broken(*arguments):
        raise InputError("no such thing")

    monkeypatch.setattr(tiny_policy, "predict_with_cost", broken)
    with pytest.raises(InputError, match="no such thing"):
        Batcher(tiny_policy, 1, 1).start()
