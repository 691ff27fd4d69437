"""The number of threads under other programs' load, on a machine that is made up."""

from collections.abc import Iterator

import pytest
import torch

from shortcut_policy.training.threads import PATIENCE, Load, Threads, read_load

CPU = torch.device("cpu")


class Machine:
    """Cores that threads which spin and other programs share."""

    def __init__(self, cores: int, others: float = 0.0) -> None:
        self.cores, self.others = cores, others
        self.now = self.all = self.own = 0.0
        self.changes: list[int] = []

    def updates(self, threads: Threads, seconds: float) -> int:
        """Train for a while; returns the number of updates."""
        end, done = self.now + seconds, 0
        while self.now < end:
            with threads:
                self._pass(self.speed(threads.count), threads.count)
            done += 1
            if not self.changes or self.changes[-1] != threads.count:
                self.changes.append(threads.count)
        return done

    def rest(self, seconds: float) -> None:
        """Do something else, such as a rollout, while other processes of the training keep the cores busy."""
        self.now, self.all = self.now + seconds, self.all + self.cores * seconds

    def speed(self, count: int) -> float:
        """Updates a second: several threads wait for the slowest one, over and over."""
        share = min(1.0, self.cores / (count + self.others))
        waiting = 0.6 if share < 1 and count > 1 else 1.0
        return 2.5 * count**0.6 * share * waiting

    def _pass(self, speed: float, count: int) -> None:
        wanted = count + self.others
        share = min(1.0, self.cores / wanted)
        self.now += 1 / speed
        self.all, self.own = self.all + share * wanted / speed, self.own + share * count / speed


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def adapted(machine: Machine, setting="auto") -> Threads:
    return Threads(
        setting, CPU, lambda: Load(machine.all, machine.own), lambda: machine.now, cores=machine.cores
    )


def test_alone_nothing_changes() -> None:
    machine = Machine(cores=4)
    machine.updates(adapted(machine), 300)
    assert machine.changes == [4]


@pytest.mark.parametrize("others", [1, 2, 5])
def test_threads_make_room_and_come_back(others: int) -> None:
    machine = Machine(cores=4)
    threads = adapted(machine)
    alone = machine.updates(threads, 30)
    machine.others = others
    machine.updates(threads, 10)
    beside = machine.updates(threads, 60) / 2
    assert torch.get_num_threads() == threads.count == max(1, 4 - others)
    assert beside > 0.6 * alone or others > 1
    machine.others = 0
    machine.updates(threads, PATIENCE + 8)
    assert torch.get_num_threads() == 4
    threads.close()
    assert torch.get_num_threads() == 4


def test_programs_that_fit_beside_the_threads_disturb_nobody() -> None:
    machine = Machine(cores=8, others=4)
    machine.updates(adapted(machine), 60)
    assert machine.changes == [4]


def test_fewer_threads_that_are_slower_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(cores=4, others=1)
    monkeypatch.setattr(machine, "speed", lambda count: count)
    threads, seconds = adapted(machine), 60
    done = machine.updates(threads, seconds)
    assert machine.changes[:3] == [4, 3, 4] and done > 0.9 * 4 * seconds


def test_what_runs_between_updates_is_not_their_load() -> None:
    machine = Machine(cores=4)
    threads = adapted(machine)
    for _ in range(50):
        machine.updates(threads, 2)
        machine.rest(5)
    assert machine.changes == [4]


def test_a_number_is_kept() -> None:
    machine = Machine(cores=4, others=3)
    threads = adapted(machine, setting=2)
    assert torch.get_num_threads() == 2
    machine.updates(threads, 60)
    assert machine.changes == [2]
    threads.close()
    assert torch.get_num_threads() == 4


def test_a_system_that_does_not_tell_changes_nothing() -> None:
    threads = Threads("auto", CPU, lambda: None)
    assert not threads.adapts
    with threads:
        pass
    assert torch.get_num_threads() == 4


def test_the_load_of_this_machine() -> None:
    before = read_load()
    sum(range(3_000_000))
    after = read_load()
    assert before is not None and after is not None, "Linux tells"
    assert after.own > before.own and after.all >= before.all
