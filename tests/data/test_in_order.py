"""Work on all cores: results in order, few at a time, errors at their place."""

import threading
import time
from collections.abc import Iterator

import pytest

from shortcut_policy.data import in_order as module
from shortcut_policy.data.in_order import AHEAD, in_order


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 2)


def test_results_are_in_order_and_made_in_several_threads() -> None:
    threads = set()

    def work(number: int) -> int:
        threads.add(threading.get_ident())
        time.sleep(0.005 * (number % 2 == 0))  # every other one is overtaken
        return number**2

    assert list(in_order(work, range(20))) == [number**2 for number in range(20)]
    assert len(threads) == 2


def test_no_more_is_taken_than_can_be_worked_on() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    results = in_order(lambda number: number, items())
    assert next(results) == 0 and len(taken) <= 2 * AHEAD + 1
    results.close()
    assert len(taken) <= 2 * AHEAD + 1


def test_an_error_comes_at_its_place_and_ends_the_work() -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        return number

    found = []
    with pytest.raises(ValueError, match="three"):
        for result in in_order(work, range(50)):
            found.append(result)
    assert found == [0, 1, 2] and len(begun) <= 3 + 2 * AHEAD + 1
