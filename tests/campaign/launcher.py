"""Runs commands of the command line in forked processes, each of which may be hurt at a chosen moment.

A process that has imported the library waits for requests and forks for each one, so that a command takes
what it takes and not the seconds of the imports. ``storage.c`` counts what the fork does to its files.
"""

import ctypes
import errno
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
#: What to do at the n-th operation, as `storage.c` numbers it.
MODES = {"count": 0, "fail": 1, "kill before": 2, "kill half": 3, "kill after": 4, "vanish": 5}
TIMEOUT_S = 900


@dataclass
class Request:
    """A command, and what happens to it.

    Attributes:
        command: Name of a function of `shortcut_policy.commands.cli`, or of `tests.campaign.scenarios`.
        arguments: Of the command line.
        folder: Where it is given; operations below it are counted.
        log: File for what it prints.
        env: Environment variables.
        mode: One of `MODES`.
        at: Number of the operation; 0 for none.
        error: Name of the error of a failing operation.
        cpu_seconds: Kill it after so many of the processor's, which do not depend on what else runs; never if
            None.
        group: Whether its whole process group is killed, and not the process alone.
        trace: File for a line of each operation.
    """

    command: str
    arguments: list[str]
    folder: str
    log: str
    env: dict[str, str] = field(default_factory=dict)
    mode: str = "count"
    at: int = 0
    error: str = "EIO"
    cpu_seconds: float | None = None
    group: bool = True
    trace: str | None = None
    timeout: float = TIMEOUT_S


@dataclass
class Outcome:
    """What became of it: exit status (negative: a signal; None: hung and killed), operations, the hit one."""

    status: int | None
    seconds: float
    cpu_seconds: float
    operations: int
    hit: str
    left: bool


class Launcher:
    """The waiting process.

    Args:
        place: Folder for the compiled ``storage.c``.
        clone: The checkout whose code runs.
    """

    def __init__(self, place: Path, clone: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        library = place / "storage.so"
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(HERE / "storage.c"), "-ldl"],
            check=True,
        )
        env = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "STORAGE": str(library),
            "PYTHONPATH": os.pathsep.join(map(str, (clone, clone / "envs", clone / "studies"))),
            "OMP_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "launcher.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
            cwd=place,
        )

    def run(self, request: Request) -> Outcome:
        """Run a command to its end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(request)) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the launcher has ended")
        return Outcome(**json.loads(line))

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve() -> None:
    """Answer requests, one a line, until the input ends."""
    storage = ctypes.CDLL(os.environ["STORAGE"])
    storage.storage_hit.restype = ctypes.c_char_p
    storage.storage_done.restype = ctypes.c_long
    # What is said by the commands goes to their logs; answers have the output for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.pop("LD_PRELOAD")
    _import_everything()
    # What is there now is never looked at again: forks do not copy it.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        request = Request(**json.loads(line))
        answers.write(json.dumps(asdict(_run(request, storage))) + "\n")
        answers.flush()


def _import_everything() -> None:
    import importlib

    commands = "benchmark", "collect", "convert", "download", "export", "import_mcap", "render", "rollout"
    for name in (
        *(f"shortcut_policy.commands.{command}" for command in (*commands, "teleop", "train", "view")),
        "shortcut_policy.commands.cli",
        "shortcut_policy.training.trainer",
        "shortcut_envs.pusht",
        "imageio.plugins.ffmpeg",
        "imageio_ffmpeg",
        "matplotlib.backends.backend_agg",
        "h5py",
        "pyarrow.parquet",
        "mcap_ros2.reader",
        "websockets.asyncio.server",
        "websockets.sync.client",
        "hydra._internal.core_plugins.basic_launcher",
        "hydra._internal.core_plugins.basic_sweeper",
        "pydantic",
        "pymunk",
        "shapely",
        "shortcut_envs.pusht.env",
        "shortcut_envs.pusht.expert",
        "shortcut_envs.pusht.demonstrations",
        "torch.distributed.tensor",
        "rich.table",
    ):
        try:
            importlib.import_module(name)
        except ImportError:
            print(f"{name} is not there", file=sys.stderr)
    from hydra import compose, initialize_config_dir

    from shortcut_policy.paths import CONFIG_DIR

    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        compose("train")


def _run(request: Request, storage: Any) -> Outcome:
    trace = os.open(request.trace, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) if request.trace else -1
    storage.storage_arm(
        request.folder.encode(),
        f"{request.folder}.gone".encode(),
        ctypes.c_long(request.at),
        MODES[request.mode],
        getattr(errno, request.error),
        int(request.group),
        trace,
    )
    started = time.perf_counter()
    child = os.fork()
    if child == 0:
        _child(request)
    status, left, cpu = _wait(child, request, started)
    seconds = time.perf_counter() - started
    operations, hit = storage.storage_done(), storage.storage_hit().decode()
    storage.storage_arm(b"", b"", 0, 0, 0, 0, -1)
    if trace >= 0:
        os.close(trace)
    return Outcome(status, round(seconds, 3), round(cpu, 3), operations, hit, left)


def _wait(child: int, request: Request, started: float) -> tuple[int | None, bool, float]:
    """The exit status, whether processes of its group lived on, and the processor's time."""
    killed, cpu = False, 0.0
    while True:
        cpu = max(cpu, _cpu(child))
        done, code = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if request.cpu_seconds is not None and cpu >= request.cpu_seconds and not killed:
            (os.killpg if request.group else os.kill)(child, signal.SIGKILL)
            killed = True
        if time.perf_counter() - started > request.timeout:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None, False, cpu
        time.sleep(0.002)
    # Workers of a process that was killed alone have to notice.
    waited = time.perf_counter()
    while _alive(child):
        if time.perf_counter() - waited > 120:
            os.killpg(child, signal.SIGKILL)
            return os.waitstatus_to_exitcode(code), True, cpu
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(code), False, cpu


def _cpu(process: int) -> float:
    """Seconds of the processor that a process has had."""
    try:
        parts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    # Zombies of a reaper that does not reap are not alive.
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parts = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(parts[2]) == group and parts[0] != "Z":
            return True
    return False


def _child(request: Request) -> None:
    os.setsid()
    log = os.open(request.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status, before = 1, set(sys.modules)
    try:
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        os.environ.update(request.env)
        tempfile.tempdir = None
        os.chdir(request.folder)
        sys.argv = [f"{request.command}.py", *request.arguments]
        from shortcut_policy.commands import cli

        function = getattr(cli, request.command, None)
        if function is None:
            sys.path.insert(0, str(HERE.parents[1]))
            from tests.campaign import scenarios

            function = getattr(scenarios, request.command)
        function()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else (0 if ended.code is None else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        if "CAMPAIGN_MODULES" in os.environ:
            print(
                "\nmodules",
                time.process_time(),
                sorted({m.split(".")[0] for m in set(sys.modules) - before}),
                len(set(sys.modules) - before),
            )
        _end(status)


def _end(status: int) -> None:
    """End as a process does that was not forked: with what is registered for the end."""
    import atexit
    import threading
    import weakref

    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        weakref.finalize._exitfunc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


if __name__ == "__main__":
    serve()
