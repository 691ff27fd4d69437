"""Coverage-guided: a file of a target is changed where that reaches lines of the readers that are new.

    pip install atheris
    python -m tests.campaign.fuzz_coverage --targets zarr checkpoint --seconds 600

Atheris (https://github.com/google/atheris) watches which lines of this library an input reaches, and keeps
those that reach new ones as a beginning for others. The files are those of `fuzz_targets`, what counts as
found is said in `fuzz_readers`, and the result is written beside that of the latter. Each target runs in a
process of its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results/campaign/fuzz.json"
#: Target -> the file that is changed.
FILES = {
    "zarr": "a.zarr/data/state/.zarray",
    "zarr_3": "a.zarr/data/state/zarr.json",
    "zarr_zip": "a.zarr.zip",
    "hdf5": "a.hdf5",
    "minari": "small-v0/data/metadata.json",
    "lerobot_3": "a/meta/info.json",
    "lerobot_2": "a/meta/episodes.jsonl",
    "mcap": "a.mcap",
    "checkpoint": "policy.json",
    "training_state": "training_state.pt",
    "export": "export/manifest.json",
    "results": "a.jsonl",
    "run": "config.yaml",
    "images": "arrays.npz",
}
#: Seconds of an example, and MiB of the process, after which it counts as a hang or as too large.
SECONDS, MEMORY_MB = 20, 4096
#: Examples between two writings of the counts.
EVERY = 200


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--targets", nargs="+", choices=tuple(FILES), default=tuple(FILES))
    parser.add_argument("--seconds", type=int, default=600, help="of each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--worker", type=Path, default=None, help="own use")
    given = parser.parse_args()
    if given.worker is not None:
        work(given.targets[0], given.worker, given.seconds, given.seed)
        return
    from shortcut_policy.paths import write_atomic
    from shortcut_policy.provenance import command_line, commit, library_versions

    results = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {"readers": {}}
    for name in given.targets:
        with tempfile.TemporaryDirectory(prefix="fuzz_") as folder:
            command = [sys.executable, "-m", "tests.campaign.fuzz_coverage", "--targets", name]
            command += ["--seconds", str(given.seconds), "--seed", str(given.seed), "--worker", folder]
            with Path(folder, "noise").open("wb") as noise:
                code = subprocess.run(command, cwd=ROOT, stdout=noise, stderr=noise).returncode
            counts = Path(folder, "counts.json")
            if not counts.exists():
                raise SystemExit(Path(folder, "noise").read_text(errors="replace")[-2000:])
            found = json.loads(counts.read_text())
        found |= {"file": FILES[name], "crashes": int(code != 0), "ended_with": code}
        found |= {"commit": commit(), "command": command_line(), "date": datetime.now(UTC).date().isoformat()}
        found["versions"] = library_versions("atheris")
        results.setdefault("coverage_guided", {})[name] = found
        print(name, found, flush=True)
        write_atomic(given.output, json.dumps(results, indent=2) + "\n")


def work(name: str, folder: Path, seconds: int, seed: int) -> None:
    """The process of a target."""
    import atheris

    os.environ["SHORTCUT_POLICY_CACHE"] = str(folder / "cache")
    with atheris.instrument_imports(include=["shortcut_policy"]):
        from shortcut_policy.errors import InputError
        from tests.campaign.fuzz_damage import damage_json, fresh_copy
        from tests.campaign.fuzz_readers import place_of
        from tests.campaign.fuzz_targets import TARGETS

    target, valid, given, made = TARGETS[name], folder / "valid", folder / "given", folder / "made"
    for path in (valid, folder / "empty", folder / "beginnings"):
        path.mkdir()
    target.make(valid)
    file, structured = FILES[name], FILES[name].endswith((".json", ".jsonl", ".zarray"))
    (folder / "beginnings/valid").write_bytes((valid / file).read_bytes())
    fresh_copy(folder / "empty", made)
    target.read(valid, made)
    fresh_copy(valid, given)
    kinds: Counter[str] = Counter()
    places: Counter[str] = Counter()
    started = time.process_time()

    def read(data: bytes) -> None:
        (given / file).write_bytes(data)
        fresh_copy(folder / "empty", made)
        try:
            target.read(given, made)
            kinds["accepted"] += 1
        except InputError:
            kinds["refused"] += 1
        except Exception as error:
            kinds["tracebacks"] += 1
            places[place_of(error)] += 1
        if sum(kinds.values()) % EVERY == 1:
            write()

    def write() -> None:
        found: dict[str, Any] = {"examples": sum(kinds.values()), **kinds, "tracebacks_at": dict(places)}
        found["cpu_seconds"] = round(time.process_time() - started, 1)
        part = folder / "counts.part"
        part.write_text(json.dumps({"tracebacks": 0, **found}))
        part.rename(folder / "counts.json")

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = Random(number)
        if structured and rng.random() < 0.5:
            return damage_json(data, rng)[:most]
        changed: bytes = atheris.Mutate(data, most)
        return changed

    limits = [
        f"-max_total_time={seconds}",
        f"-timeout={SECONDS}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-seed={seed}",
    ]
    places_of_files = [f"-artifact_prefix={folder}/", str(folder / "beginnings")]
    atheris.Setup([sys.argv[0], *limits, "-max_len=65536", *places_of_files], read, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
