"""Damaged files for every reader: no crash, no traceback, no hang, no memory without bound.

    python -m tests.campaign.fuzz_readers --cpu-minutes 120
    python -m tests.campaign.fuzz_readers --targets hdf5 --cpu-minutes 2 --seed 7 --output /tmp/fuzz.json
    python -m tests.campaign.fuzz_readers --targets mcap hdf5 --cpu-minutes 20 --place /dev/shm/fuzz

Each example is a copy of small valid files, damaged by draws from (seed, target, number of the example),
and read as the commands read them. What may come back is a result, or one of the library's own errors,
which the command line prints as a sentence. Everything else is counted: tracebacks, the end of the
process (crashes), and reading that takes more than `SECONDS` of processor time (hangs). The system
refuses more than `ROOM` bytes of memory. A target's examples run in a process of their own, which is
started again after a crash.

The results hold counts and, of each traceback, its kind and place, and no damaged file. With ``--keep`` a
folder gets the files of what was found. With ``--place`` the work is in a folder that stays: the same
command goes on where it was. Several commands at once, each with a place and targets of its own, add to one
file of results.
"""

import argparse
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results/campaign/fuzz.json"
#: Processor time that one example may take, s; that after which a process is ended that shows no progress, or
#: has not begun; bytes that it may have beside what it had after its imports.
SECONDS, PATIENCE, ROOM = 10.0, 90.0, 2 * 2**30
#: Seconds of the clock after which a process is ended that waits for something.
STUCK = 1800.0
LIBRARIES = ("torch", "numpy", "zarr", "numcodecs", "h5py", "pyarrow", "av", "mcap", "pillow", "safetensors")


class Hang(BaseException):
    """An example took too long; no handler of the library catches this."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", default=None, help="all by default")
    parser.add_argument(
        "--cpu-minutes", type=float, default=120.0, help="processor time of all targets together"
    )
    parser.add_argument("--examples", type=int, default=None, help="at most, of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files of what was found")
    parser.add_argument("--place", type=Path, default=None, help="folder of the work, a new one by default")
    parser.add_argument("--worker", type=Path, default=None, help="own use")
    given = parser.parse_args()
    if given.worker is not None:
        work(given.targets, given.seed, given.examples, given.cpu_minutes * 60, given.worker, given.keep)
        return
    names = given.targets or every_target()
    seconds = given.cpu_minutes * 60 / len(names)
    with contextlib.ExitStack() as stack:
        folder = given.place or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz_")))
        folder.mkdir(parents=True, exist_ok=True)
        found = run_targets(names, given.seed, given.examples, seconds, folder, given.keep)
    results = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {"readers": {}}
    from shortcut_policy.paths import write_atomic
    from shortcut_policy.provenance import command_line, commit, library_versions

    results["readers"] |= found
    for name, counts in found.items():
        print(name, {key: value for key, value in counts.items() if key != "tracebacks_at"}, flush=True)
        for place, count in counts["tracebacks_at"].items():
            print("   ", count, place, flush=True)
    about = {
        "rules": {"cpu_seconds_of_an_example": SECONDS, "memory_bytes": ROOM, "seed": given.seed},
        "versions": library_versions(*LIBRARIES),
        "commit": commit(),
        "command": command_line(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_atomic(given.output, json.dumps({**results, **about}, indent=2) + "\n")


def every_target() -> list[str]:
    """Names of all targets."""
    from tests.campaign.fuzz_targets import TARGETS

    return list(TARGETS)


def run_targets(
    names: list[str], seed: int, examples: int | None, seconds: float, folder: Path, keep: Path | None
) -> dict[str, dict[str, Any]]:
    """Run targets in a process of their own, which is started again behind an example that ended it."""
    left = list(names)
    while left:
        command = [sys.executable, "-m", "tests.campaign.fuzz_readers", "--seed", str(seed)]
        command += ["--worker", str(folder), "--cpu-minutes", str(seconds / 60), "--targets", *left]
        command += ["--examples", str(examples)] if examples is not None else []
        command += ["--keep", str(keep)] if keep is not None else []
        with (folder / "noise").open("wb") as noise:
            process = subprocess.Popen(command, cwd=ROOT, stdout=noise, stderr=noise)
            ended = _wait(process, folder / "now")
        if ended == 0:
            break
        if not (folder / "now").exists():
            raise SystemExit((folder / "noise").read_text(errors="replace")[-2000:] or "no target runs")
        name, number = (folder / "now").read_text().split()
        if ended is not None and ended > 0:
            print((folder / "noise").read_text(errors="replace")[-1000:], file=sys.stderr)
        how = "hang" if ended is None else f"signal {-ended}" if ended < 0 else f"status {ended}"
        _keep(keep, folder / name / "given", f"{name}_{number}_crash")
        with (folder / name / "log").open("a") as log:
            record = {"kind": "crash", "number": int(number), "cpu": 0.0, "mb": 0, "ended": how}
            print(json.dumps(record), file=log)
        left = left[left.index(name) :]
    return {name: _counted(folder / name / "log") for name in names}


def _counted(log: Path) -> dict[str, Any]:
    """The counts of a target."""
    lines = _records(log)
    ends = Counter(line["ended"] for line in lines if "ended" in line)
    kinds = Counter(line["kind"] for line in lines)
    places = Counter(line["at"] for line in lines if line["kind"] == "traceback")
    return {
        "examples": len(lines) - kinds["undamaged"],
        "accepted": kinds["accepted"],
        "refused": kinds["refused"],
        "cpu_seconds": round(resource_of(lines), 1),
        "crashes": sum(count for kind, count in ends.items() if kind != "hang"),
        "tracebacks": kinds["traceback"],
        "hangs": kinds["hang"] + ends["hang"],
        "of_several_lines": sum(line.get("lines", 1) > 1 for line in lines),
        "peak_mb": max((line["mb"] for line in lines), default=0),
        "tracebacks_at": dict(places.most_common()),
        **({"ends": dict(ends)} if ends else {}),
    }


def _records(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def resource_of(records: list[dict[str, Any]]) -> float:
    """Processor time of examples, s."""
    return sum(record["cpu"] for record in records)


def _wait(process: subprocess.Popen[bytes], now: Path) -> int | None:
    """How a process ended; None if it had to be, with one example for `PATIENCE` or `STUCK` seconds."""
    seen, since, shown = "", 0.0, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        with contextlib.suppress(psutil.NoSuchProcess):
            used = sum(psutil.Process(process.pid).cpu_times()[:2])
            at = now.read_text() if now.exists() else ""
            if at != seen:
                seen, since, shown = at, used, time.monotonic()
            if used - since > PATIENCE or time.monotonic() - shown > STUCK:
                process.kill()
                process.wait()
                return None
    return process.returncode


def _keep(keep: Path | None, given: Path, name: str) -> None:
    from tests.campaign.fuzz_damage import fresh_copy

    if keep is not None and given.exists():
        keep.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            fresh_copy(given, keep / name)


def work(
    names: list[str], seed: int, examples: int | None, seconds: float, folder: Path, keep: Path | None
) -> None:
    """The process of targets: examples one after the other, each written down."""
    os.environ["SHORTCUT_POLICY_CACHE"] = str(folder / "cache")
    from tests.campaign.fuzz_targets import TARGETS

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _too_long)
    for name in names:
        place, target = folder / name, TARGETS[name]
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if not (place / "valid").exists():
            (place / "valid").mkdir(parents=True)
            target.make(place / "valid")
        (place / "unharmed").mkdir(exist_ok=True)
        if not any((place / "unharmed").iterdir()):
            target.read(place / "valid", place / "unharmed")  # imports what is imported when it is needed
        status = Path("/proc/self/status").read_text()
        room = int(re.search(r"VmSize:\s+(\d+)", status)[1]) * 1024 + ROOM  # type: ignore[index]
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        _work(name, seed, examples, seconds, folder, keep)


def _work(
    name: str, seed: int, examples: int | None, seconds: float, folder: Path, keep: Path | None
) -> None:
    done, kept = _records(folder / name / "log"), set()
    used, number = resource_of(done), len(done)
    with (folder / name / "log").open("a", buffering=1) as log:
        while used < seconds and (examples is None or number < examples):
            (folder / "now").write_text(f"{name} {number}")
            record = example(name, seed, number, folder / name)
            used += record["cpu"]
            print(json.dumps(record), file=log)
            found = (record["kind"], record.get("at"))
            if record["kind"] in ("traceback", "hang") and found not in kept:
                kept.add(found)
                _keep(keep, folder / name / "given", f"{name}_{number}_{record['kind']}")
            number += 1


def example(name: str, seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Damage, read, and say what came of it."""
    from shortcut_policy.errors import InputError
    from tests.campaign.fuzz_damage import fresh_copy
    from tests.campaign.fuzz_targets import TARGETS

    given, made = folder / "given", folder / "made"
    started = time.process_time()
    fresh_copy(folder / "valid", given)
    (folder / "empty").mkdir(exist_ok=True)
    fresh_copy(folder / "empty", made)
    try:
        TARGETS[name].damage(given, Random(f"{seed} {name} {number}"))
    except Exception:  # two damages in one place may exclude each other
        return {"kind": "undamaged", "cpu": round(time.process_time() - started, 5), "mb": 0}
    record: dict[str, Any] = {"kind": "accepted"}
    try:
        with limited(SECONDS):
            TARGETS[name].read(given, made)
    except InputError as error:
        record = {"kind": "refused", "lines": len(str(error).splitlines())}
    except Hang:
        record = {"kind": "hang"}
    except BaseException as error:
        record = {"kind": "traceback", "at": place_of(error), "why": _scrubbed(str(error), folder)}
    record["cpu"] = round(time.process_time() - started, 5)
    record["mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return record


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """`Hang` after so much processor time of this process."""
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_long(number: int, frame: Any) -> None:
    raise Hang


def place_of(error: BaseException) -> str:
    """Kind of an error, the last line of this library that it went through, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/shortcut_policy/" in frame.filename]
    if not own:
        return type(error).__name__
    place = f"{own[-1].filename.rpartition('/shortcut_policy/')[2]}:{own[-1].lineno} {own[-1].name}"
    return f"{type(error).__name__} {place} ({Path(frames[-1].filename).name} {frames[-1].name})"


def _scrubbed(text: str, folder: Path) -> str:
    return (text.replace(str(folder), "").splitlines() or [""])[0][:200]


if __name__ == "__main__":
    main()
