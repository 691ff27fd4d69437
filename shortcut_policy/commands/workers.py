"""Workers of a benchmark: processes of this machine, or jobs of one of Hydra's launchers."""

import copy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, open_dict

from shortcut_policy.benchmark.sharing import last_line
from shortcut_policy.benchmark.workers import LOOK, Launch
from shortcut_policy.commands.ending import tidied
from shortcut_policy.errors import InputError, first_line

#: Seconds that jobs get to end when all work is done.
LAST = 15.0


def launcher(config: DictConfig, work: Callable[[DictConfig], None], output: Path) -> Launch:
    """What starts workers: jobs of ``hydra/launcher``, or without one processes of this machine.

    Args:
        config: Of the command, which each worker is given too.
        work: What a job of the launcher calls with its configuration; it can be pickled.
        output: Folder of the benchmark.

    Raises:
        InputError: The command is a sweep.
    """
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        raise InputError("workers=... starts jobs of its own: leave --multirun out")
    if settings.launcher._target_.endswith(".BasicLauncher"):
        return lambda number, session, _: _processes(number, session, output / "jobs")
    context = HydraContext(config_loader=GlobalHydra.instance().config_loader(), callbacks=Callbacks())
    whole = cast(DictConfig, copy.deepcopy(HydraConfig.instance().cfg))
    with open_dict(whole):
        whole.merge_with(config)
    given = list(settings.overrides.task)

    def launch(number: int, session: str, is_over: Callable[[], bool]) -> Sequence[str]:
        jobs = Plugins.instance().instantiate_launcher(
            hydra_context=context, task_function=work, config=whole
        )
        said: list[str] = []

        def wait() -> None:
            try:
                ended = jobs.launch([[*given, *_overrides(session)]] * number, 0)
            except Exception as error:  # whatever the cluster has to say
                said.append(f"{type(error).__name__}: {first_line(error)}")
            else:
                said.extend(str(one._return_value) for one in ended if one.status == JobStatus.FAILED)

        # A launcher may wait without end for a job that was lost, though others have done its work.
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        while thread.is_alive() and not is_over():
            thread.join(LOOK)
        thread.join(LAST)
        return said

    return launch


def _overrides(session: str) -> list[str]:
    return ["workers=0", f"session='{session}'"]


def _processes(number: int, session: str, folder: Path) -> Sequence[str]:
    """Start workers here and wait for them; what those say last that ended badly."""
    folder.mkdir(parents=True, exist_ok=True)
    logs = [folder / f"worker_{one}.log" for one in range(number)]
    with tidied():
        workers: list[subprocess.Popen[bytes]] = []
        try:
            workers += [_process(session, log) for log in logs]
            codes = [worker.wait() for worker in workers]
        except BaseException:
            # A group of their own keeps Ctrl-C from them: a training that gets two signals does not save.
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
            raise
    return [_last(log, code) for log, code in zip(logs, codes, strict=True) if code]


def _process(session: str, log: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, *sys.argv, *_overrides(session)]
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )


def _last(log: Path, code: int) -> str:
    """What a worker said last; of one that was killed, by which signal."""
    if code < 0:
        return f"a worker was ended by {signal.Signals(-code).name}"
    return last_line(log).removeprefix("error: ") or f"a worker ended with status {code}"
