"""A benchmark whose work is done by other processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from shortcut_policy.benchmark import harness
from shortcut_policy.benchmark.config import with_comparisons
from shortcut_policy.benchmark.sharing import Session
from shortcut_policy.benchmark.work import common
from shortcut_policy.commands import benchmark, cli, train
from shortcut_policy.errors import InputError, TrainingError
from tests.benchmark.test_harness import ROOT, configuration
from tests.conftest import TINY

#: What a row tells of the moment at which it was made.
MEASURED = {"command", "commit", "train_commit", "latency_ms_p50", "latency_ms_p95", "train_seconds"}


def settings(demonstrations: Path, output: Path, *more: str, updates: int = 20) -> list[str]:
    """Overrides of a benchmark of three tiny trainings with two cells each."""
    shared = ["task=pusht_human", f"task.source.path={demonstrations}", *TINY, "trainer.threads=1"]
    training = ",".join(f"'{one}'" for one in [*shared, f"trainer.max_steps={updates}"])
    entries = (
        "[{name: shortcut, steps: [1, 2], seeds: [0, 1], overrides: ['objective=shortcut']},"
        "{name: diffusion, steps: [1, 3], overrides: ['objective=diffusion']}]"
    )
    protocol = ["episodes=2", "num_envs=2", "batch_size=2", "+env.max_steps=8", "compute_rounds=1"]
    return [f"training=[{training}]", f"entries={entries}", *protocol, f"output='{output}'", *more]


def start(
    overrides: Sequence[str], python: str = sys.executable, **environment: str
) -> subprocess.Popen[str]:
    """Give the command in a process of its own."""
    return subprocess.Popen(
        [python, str(ROOT / "scripts/benchmark.py"), *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        # Tests that a shell runs in the background would have it ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def rows(output: Path) -> list[dict]:
    """The results, without what tells of the moment."""
    found = json.loads((output / "results.json").read_text())
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in found]


def differences(one: Sequence[dict], other: Sequence[dict]) -> list[tuple]:
    """Line, key and both values where results differ."""
    assert len(one) == len(other)
    return [
        (line, key, a.get(key), b.get(key))
        for line, (a, b) in enumerate(zip(one, other, strict=True))
        for key in a.keys() | b.keys()
        if a.get(key) != b.get(key)
    ]


def wait_for(condition: Callable[[], object], command: subprocess.Popen[str], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert command.poll() is None and time.monotonic() < deadline, command.communicate()[0]
        time.sleep(0.05)


def compare(overrides: Sequence[str]) -> None:
    benchmark.run(configuration("benchmark", *overrides))


@pytest.mark.slow
def test_workers_make_the_same_table_though_one_is_killed(demonstrations: Path, tmp_path: Path):
    compare(settings(demonstrations, tmp_path / "one"))
    command = start(settings(demonstrations, tmp_path / "two", "workers=2"))
    runs = tmp_path / "two" / "parts" / "runs"
    wait_for(lambda: len(list(runs.glob("*.json"))) > 1, command)
    # Of the processes of the command one is killed, in the middle of a training or just after it.
    found = subprocess.run(["pgrep", "-P", str(command.pid)], capture_output=True, text=True).stdout.split()
    assert len(found) == 2
    os.kill(int(found[0]), signal.SIGKILL)
    said, _ = command.communicate(timeout=600)
    assert command.returncode == 0, said
    assert "9 of 9 parts done" in said and "Report: " in said
    assert not differences(rows(tmp_path / "two"), rows(tmp_path / "one"))
    assert "workers=2" in json.loads((tmp_path / "two/results.json").read_text())[0]["command"]
    assert "session=" not in (tmp_path / "two/results.json").read_text()


@pytest.mark.slow
def test_an_interrupted_command_tells_how_far_it_is_and_goes_on(demonstrations: Path, tmp_path: Path):
    overrides = settings(demonstrations, tmp_path / "out", "workers=1", updates=2000)
    command = start(overrides)
    log = tmp_path / "out/runs/shortcut_seed0/log.jsonl"
    wait_for(lambda: log.is_file() and log.stat().st_size > 500, command)
    command.send_signal(signal.SIGINT)
    said, _ = command.communicate(timeout=300)
    assert command.returncode == 130, said
    assert "interrupted: 0 of 9 parts done" in said and "; the same command goes on" in said
    assert "Traceback" not in said
    assert "stopped at update" in (tmp_path / "out/parts/runs/shortcut_seed0.log").read_text()


def test_a_part_that_fails_does_not_stop_the_others(
    demonstrations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    trains = train.train

    def train_or_fail(config):
        if config.seed == 1:
            raise TrainingError("the loss of update 3 is not finite")
        return trains(config)

    monkeypatch.setattr(train, "train", train_or_fail)
    overrides = settings(demonstrations, tmp_path / "out")
    with pytest.raises(InputError, match=r"1 of 10 parts failed, see above: there is no table without them"):
        compare(overrides)
    said = capsys.readouterr().err
    assert "failed: training of shortcut_seed1: the loss of update 3 is not finite" in said
    assert len(list((tmp_path / "out").glob("cells/**/summary.json"))) == 4
    assert not (tmp_path / "out/results.json").exists()
    monkeypatch.undo()
    compare(overrides)
    assert [row["name"] for row in rows(tmp_path / "out")] == [
        "shortcut",
        "shortcut",
        "diffusion",
        "diffusion",
    ]


def test_the_command_asks_for_no_more_workers_than_parts_and_needs_no_gpu_itself(
    demonstrations: Path, tmp_path: Path
):
    overrides = settings(demonstrations, tmp_path / "out", "workers=20", "device=cuda")
    asked = []

    def launch(number: int, session: str, is_over: Callable[[], bool]) -> list[str]:
        asked.append((number, is_over()))
        return ["no GPU is free"]

    sentence = "the workers have ended before the work was done, .* goes on with it: no GPU is free"
    with pytest.raises(InputError, match=sentence):
        harness.compare(
            benchmark.read_benchmark(configuration("benchmark", *overrides)), benchmark.trainings(), launch
        )
    assert asked == [(9, False)], "what changes nothing is not tried again"


def test_a_second_benchmark_of_other_settings_is_refused(demonstrations: Path, tmp_path: Path):
    first = benchmark.read_benchmark(configuration("benchmark", *settings(demonstrations, tmp_path)))
    first = with_comparisons(first, ["shortcut", "diffusion"])
    sentence = r"a benchmark with noise_seed=0, not 1, is at work in .*: wait for it, or give another output"
    with Session(tmp_path, common(first)), pytest.raises(InputError, match=sentence):
        compare(settings(demonstrations, tmp_path, "noise_seed=1"))
    assert not (tmp_path / "runs").exists()


def test_a_launcher_that_is_not_there_or_cannot_start_jobs_is_told(
    demonstrations: Path, tmp_path: Path, give, capsys, monkeypatch: pytest.MonkeyPatch
):
    overrides = settings(demonstrations, tmp_path / "out", "workers=2")
    with pytest.raises(SystemExit, match="2"):
        give(cli.benchmark, *overrides, "hydra/launcher=slurm")
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "Could not find 'hydra/launcher/slurm'" in said
    with pytest.raises(SystemExit, match="2"):
        give(cli.benchmark, "-m", *overrides)
    assert "workers=... starts jobs of its own: leave --multirun out" in capsys.readouterr().err
    assert not (tmp_path / "out/parts").exists()
    # Without the programs of SLURM.
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        give(cli.benchmark, *overrides, "hydra/launcher=submitit_slurm")
    said = capsys.readouterr().err
    assert "the workers have ended before the work was done, the same command goes on with it: " in said
    assert said.rstrip().endswith('Could not detect "srun", are you indeed on a slurm cluster?')
