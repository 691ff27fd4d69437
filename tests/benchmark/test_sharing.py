"""Several processes at one benchmark, seen from two sessions in this one: locks keep those apart, too."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from shortcut_policy.benchmark.sharing import FRESH, LOST, Outcome, Part, Session, State, Stopped
from shortcut_policy.benchmark.workers import progress
from shortcut_policy.errors import InputError, TrainingError
from tests.full_disk import no_room

PART = Part("cells/a/0/step_00000010/steps_001", "a, 1 step", "evaluation")
OTHER = Part("runs/a_seed0", "training of a_seed0", "training")
SETTINGS = {"episodes": 3, "entries": [{"name": "a"}]}


def made() -> bool:
    return True


def never() -> bool:
    raise AssertionError("done again")


def test_a_part_is_done_by_one_process_and_known_to_the_others(tmp_path: Path):
    with Session(tmp_path, SETTINGS) as one, Session(tmp_path, SETTINGS) as other:
        during = []

        def work() -> bool:
            during.append((other.do(PART, never), other.do(OTHER, made)))
            return True

        assert one.do(PART, work) is Outcome.DONE
        assert during == [(Outcome.BUSY, Outcome.DONE)]
        assert other.do(PART, never) is one.do(OTHER, never) is Outcome.DONE
        assert one.name == other.name
        state = other.state(PART)
        assert (state.begun, state.ended) == (1, Outcome.DONE) and state.seconds is not None
    assert not list(tmp_path.glob("parts/**/*.lock"))
    with Session(tmp_path, SETTINGS) as later:
        assert later.state(PART) == State(), "what is finished shows in the results themselves"


def test_locks_that_could_not_be_removed_are_removed_by_the_next_session(tmp_path: Path):
    with Session(tmp_path, SETTINGS) as one:
        left = [tmp_path / "parts/head.lock", tmp_path / "parts/cells/of/before.lock"]
        left[1].parent.mkdir(parents=True)
        for file in left:
            file.touch()
        with one.leading(), Session(tmp_path, SETTINGS):
            assert all(file.exists() for file in left), "they may be held"
        left[0].touch()
    with Session(tmp_path, SETTINGS):
        assert not any(file.exists() for file in left)


def test_a_failure_is_told_once_and_tried_again_by_the_next_command(tmp_path: Path, capsys):
    def diverge() -> bool:
        raise TrainingError("the loss of update 7 is not finite")

    def crash() -> bool:
        raise KeyError("state")

    with Session(tmp_path, SETTINGS) as one, Session(tmp_path, SETTINGS) as other:
        assert one.do(PART, diverge) is Outcome.FAILED
        assert other.do(PART, never) is Outcome.FAILED
        assert other.state(PART).sentence == "the loss of update 7 is not finite"
        assert capsys.readouterr().err == "failed: a, 1 step: the loss of update 7 is not finite\n"
        with pytest.raises(KeyError):
            one.do(OTHER, crash, keep_error=True)
        assert other.state(OTHER).sentence == "KeyError: 'state'"
        assert "Traceback" in capsys.readouterr().err
    with Session(tmp_path, SETTINGS) as later:
        assert later.do(PART, made) is Outcome.DONE


def test_a_disk_that_fails_is_a_sentence_as_on_the_command_line(tmp_path: Path, capsys):
    def full() -> bool:
        raise OSError(errno.ENOSPC, "No space left on device", "bench/cells/a/episodes.part.jsonl")

    with Session(tmp_path, SETTINGS) as one:
        assert one.do(PART, full) is Outcome.FAILED
        sentence = one.state(PART).sentence
    assert sentence.startswith(
        "bench/cells/a/episodes.part.jsonl cannot be used (No space left on device): make"
    )
    assert capsys.readouterr().err == f"failed: a, 1 step: {sentence}\n"


def test_a_session_that_finds_no_room_names_its_file_and_blames_no_lock(tmp_path: Path, capsys):
    with no_room(), pytest.raises(OSError, match=r"'.*/parts/session\.json'"):
        Session(tmp_path, SETTINGS).__enter__()
    assert "cannot be locked" not in capsys.readouterr().err
    with Session(tmp_path, SETTINGS) as later:
        assert later.do(PART, made) is Outcome.DONE


def test_a_worker_that_is_lost_costs_its_part_alone_unless_the_part_costs_them_all(tmp_path: Path):
    def lost() -> bool:
        print("opening the simulator")
        os._exit(9)

    with Session(tmp_path, SETTINGS) as command:
        for number in range(LOST):
            assert command.state(PART) == State(begun=number)
            child = os.fork()
            if not child:
                Session(tmp_path, SETTINGS, command.name).__enter__().do(PART, lost)
            os.waitpid(child, 0)
        assert command.do(OTHER, made) is Outcome.DONE
        assert command.do(PART, never) is Outcome.FAILED
        sentence = "3 workers were lost at it, and its log ends in: opening the simulator"
        assert command.state(PART).sentence == sentence


def test_a_process_that_is_asked_to_end_leaves_the_part_as_it_was(tmp_path: Path):
    def ended() -> bool:
        raise SystemExit(143)

    with Session(tmp_path, SETTINGS) as one:
        with pytest.raises(SystemExit):
            one.do(PART, ended)
        assert one.state(PART) == State()
        assert one.do(PART, made) is Outcome.DONE


def test_a_worker_writes_into_the_log_of_its_part(tmp_path: Path, capsys):
    def work() -> bool:
        print("update 1")
        raise InputError("no such camera")

    with Session(tmp_path, SETTINGS) as command, Session(tmp_path, SETTINGS, command.name) as worker:
        worker.do(PART, work)
        assert worker.log(PART).read_text() == "update 1\nerror: no such camera\n"
    assert "update 1" not in capsys.readouterr().out


def test_another_benchmark_waits_until_the_first_has_ended(tmp_path: Path):
    other = Session(tmp_path, {**SETTINGS, "episodes": 4})
    with Session(tmp_path, SETTINGS), pytest.raises(InputError, match="episodes=3, not 4, is at work"):
        other.__enter__()
    with Session(tmp_path, {**SETTINGS, "episodes": 4}) as later:
        assert later.do(PART, made) is Outcome.DONE


def test_a_worker_that_sees_another_folder_is_refused(tmp_path: Path):
    sentence = r"is not the output of the command that has started this worker: give an output that all"
    with pytest.raises(InputError, match=sentence):
        Session(tmp_path / "nothing", SETTINGS, "a").__enter__()
    assert not (tmp_path / "nothing").exists()
    with Session(tmp_path, SETTINGS), pytest.raises(InputError, match=sentence):
        Session(tmp_path, SETTINGS, "the name of another session").__enter__()


def test_a_worker_that_does_not_meet_the_lock_of_its_command_is_refused(tmp_path: Path):
    head = tmp_path / "parts" / "head.lock"
    with Session(tmp_path, SETTINGS) as command:
        with command.leading(), Session(tmp_path, SETTINGS, command.name) as worker:
            assert worker.do(PART, made) is Outcome.DONE
        # As a file system looks that keeps locks between the processes of one machine alone.
        head.touch()
        with pytest.raises(InputError, match=r"does not keep locks between machines: mount it with locks"):
            Session(tmp_path, SETTINGS, command.name).__enter__()
        # A command that was killed has no lock either, and gives no sign of life.
        os.utime(head, times=(0, head.stat().st_mtime - FRESH - 5))
        with Session(tmp_path, SETTINGS, command.name) as worker:
            assert worker.do(OTHER, made) is Outcome.DONE


def test_one_command_leads_and_its_workers_stop_with_it(tmp_path: Path):
    with Session(tmp_path, SETTINGS) as command, Session(tmp_path, SETTINGS) as second:
        with command.leading():
            with pytest.raises(InputError, match="another command has started workers in"), second.leading():
                raise AssertionError
            command.stop()
            with Session(tmp_path, SETTINGS, command.name) as worker, pytest.raises(Stopped):
                worker.do(PART, never)
        with second.leading():
            assert second.do(PART, made) is Outcome.DONE


def test_without_locks_one_process_works_and_several_are_refused(tmp_path: Path, monkeypatch, capsys):
    def no_locks(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with Session(tmp_path, SETTINGS) as one:
        assert one.do(PART, made) is Outcome.DONE
        with pytest.raises(InputError, match=r"without locks, which several workers need"), one.leading():
            raise AssertionError
    assert "cannot be locked" in capsys.readouterr().err


def test_progress_tells_the_time_left_once_it_is_known():
    trainings = [Part(f"runs/{n}", "", "training") for n in range(3)]
    cells = [Part(f"cells/{n}", "", "evaluation") for n in range(4)]
    states = {part: State() for part in (*trainings, *cells)}
    assert progress(states, 0.0) == "0 of 7 parts done, 0.0 min"
    states |= {trainings[0]: State(1, Outcome.DONE, 600.0), trainings[1]: State(1), trainings[2]: State(1)}
    assert progress(states, 660.0) == "1 of 7 parts done, 2 at work, 11.0 min"
    states |= {cells[0]: State(1, Outcome.DONE, 60.0), cells[1]: State(1, Outcome.DONE)}
    states |= {cells[2]: State(1, Outcome.FAILED)}
    # Two trainings of which half is left, a minute for the last cell, two workers.
    assert progress(states, 720.0) == ("3 of 7 parts done, 1 failed, 2 at work, 12.0 min, about 5.5 min left")
    assert (
        progress({part: State(1, Outcome.DONE, 1.0) for part in states}, 60.0) == "7 of 7 parts done, 1.0 min"
    )
