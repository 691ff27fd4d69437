"""The quick tests on other versions of Python and of the libraries: the lowest allowed, and the newest.

    python tests/campaign/versions.py --uv uv --work /tmp/versions
    python tests/campaign/versions.py --rows 3.12-newest --output /tmp/versions.json

A row is a version of Python and a choice of versions: ``lowest`` takes of each direct dependency, extras
included, the oldest release that pyproject.toml allows and that has a wheel for this Python, ``newest``
the newest. For each row an environment is made with uv (https://docs.astral.sh/uv/), the tests that are
not slow run there on the committed code, and the environment is deleted again. ``--extra NAME==VERSION``
adds a requirement to all rows, for a look at one package alone. One row takes some ten minutes and up to
9 GB.

Written after every row: how many tests passed, failed and were skipped, why they failed, and the
versions. Rows that the file has already are kept, and those of the same name replaced.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import command_line, commit

ROOT = Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results/campaign/versions.json"
ROWS = [f"{python}-{choice}" for python in ("3.11", "3.12", "3.13") for choice in ("newest", "lowest")]
RESOLUTION = {"newest": "highest", "lowest": "lowest-direct"}
EXTRAS = (
    *("dev", "docs", "robomimic", "images", "mcap", "serve", "export"),
    *("lerobot", "record", "rerun", "timm"),
)
#: Published without wheels, so they are built.
BUILT = ("antlr4-python3-runtime", "evdev")
#: Versions that a row names.
SHOWN = (
    *(
        "torch",
        "numpy",
        "scipy",
        "pandas",
        "zarr",
        "numcodecs",
        "gymnasium",
        "pymunk",
        "shapely",
        "diffusers",
    ),
    *("accelerate", "einops", "safetensors", "hydra-core", "omegaconf", "pydantic", "h5py", "pyarrow", "av"),
    *("robosuite", "mujoco", "onnxruntime", "openvino", "websockets", "msgpack", "mcap", "huggingface-hub"),
    *("matplotlib", "pillow", "pytest", "hypothesis"),
)
MINUTES = 45


def interpreter(version: str) -> str:
    """The newest installed Python of a version such as 3.12: of pyenv, or on the path."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
    path = str(found[-1]) if found else shutil.which(f"python{version}")
    if path is None:
        raise SystemExit(f"there is no Python {version} here: install it with pyenv, or leave its rows out")
    return path


def install(row: str, folder: Path, uv: str, extra: list[str]) -> dict[str, str]:
    """Make the environment of a row, if it is not there yet; returns all versions in it."""
    python, choice = row.split("-")
    environment = {**os.environ, "VIRTUAL_ENV": str(folder / "venv")}
    environment.pop("PYTHONPATH", None)
    only_wheels = ["--only-binary", ":all:", *(word for name in BUILT for word in ("--no-binary", name))]
    extras = [word for name in EXTRAS for word in ("--extra", name)]
    code = str(folder / "code")
    commands = [
        ["venv", "--quiet", "--python", interpreter(python), str(folder / "venv")],
        [
            *("pip", "install", "--quiet", "--resolution", RESOLUTION[choice], *only_wheels),
            *("--requirements", f"{code}/pyproject.toml", *extras, *extra),
        ],
        ["pip", "install", "--quiet", "--no-deps", "--editable", code],
    ]
    for command in [] if (folder / "venv").exists() else commands:
        subprocess.run([uv, *command], env=environment, check=True)
    listed = subprocess.run(
        [uv, "pip", "freeze"], env=environment, check=True, capture_output=True, text=True
    ).stdout
    return dict(line.split("==") for line in listed.splitlines() if "==" in line)


def run_tests(folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run the quick tests in the environment; a run that does not end is stopped and said to have been."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{folder / 'venv/bin'}:{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    command = [
        *(str(folder / "venv/bin/python"), "-m", "pytest", "-q", "-n", "1", "-m", "not slow", "--tb=short"),
        *(f"--junitxml={folder / 'tests.xml'}", f"--basetemp={folder / 'tmp'}", *arguments),
    ]
    started = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        try:
            code = subprocess.run(
                command, cwd=folder / "code", env=environment, stdout=log, stderr=log, timeout=60 * MINUTES
            ).returncode
        except subprocess.TimeoutExpired:
            return {"error": f"stopped after {MINUTES} minutes"}
    if not (folder / "tests.xml").exists():
        return {"error": f"pytest ended with status {code} without a report"}
    return {**read_report(folder / "tests.xml"), "minutes": round((time.monotonic() - started) / 60, 1)}


def read_report(path: Path) -> dict[str, Any]:
    """Counts, and why tests failed, of a report of pytest."""
    (suite,) = ElementTree.parse(path).getroot().iter("testsuite")
    counts = {key: int(suite.attrib[key]) for key in ("tests", "failures", "errors", "skipped")}
    failed = []
    for case in suite.iter("testcase"):
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                name = f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}"
                failed.append({"test": name, "why": scrubbed(found.attrib.get("message", ""))})
    bad = counts["failures"] + counts["errors"]
    return {
        "passed": counts["tests"] - bad - counts["skipped"],
        "failed": bad,
        "skipped": counts["skipped"],
        "failures": failed,
    }


def scrubbed(text: str) -> str:
    """The first lines of a message, without the folders of the machine that it was made on."""
    return re.sub(r"(/[\w.+-]+){2,}/", ".../", text)[:300]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument(
        "--extra", nargs="*", default=[], help="requirements for all rows, numpy==2.2 for example"
    )
    parser.add_argument("--uv", default="uv")
    parser.add_argument("--work", type=Path, default=Path("versions"), help="folder for environments")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--keep", action="store_true", help="keep environments, and use those that were kept")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="further arguments for pytest")
    given = parser.parse_args()
    stored = json.loads(given.output.read_text("utf-8"))["rows"] if given.output.exists() else []
    rows = {row["row"]: row for row in stored}
    for name in given.rows:
        title = " ".join([name, *given.extra, *given.pytest])
        folder = (given.work / name).resolve()
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(folder / "code", ignore_errors=True)
        (folder / "tests.xml").unlink(missing_ok=True)
        (folder / "code").mkdir(parents=True)
        archive = subprocess.run(
            ["git", "-C", str(ROOT), "archive", "HEAD"], check=True, capture_output=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(folder / "code")], input=archive, check=True)
        row: dict[str, Any] = {"row": title, "date": datetime.now(UTC).date().isoformat(), "commit": commit()}
        try:
            versions = install(name, folder, given.uv, given.extra)
        except subprocess.CalledProcessError as error:
            row["error"] = scrubbed(f"could not be installed: {' '.join(error.cmd[1:4])} failed")
        else:
            row |= run_tests(folder, given.pytest)
            row["versions"] = {package: versions[package] for package in SHOWN if package in versions}
        rows[title] = row
        print(
            title,
            {key: row.get(key) for key in ("error", "passed", "failed", "skipped", "minutes")},
            flush=True,
        )
        for part in ("code", "tmp") if given.keep else ("venv", "code", "tmp"):
            shutil.rmtree(folder / part, ignore_errors=True)
        ordered = sorted(rows.values(), key=lambda each: each["row"])
        result = {"rows": ordered, "command": command_line(), "commit": commit()}
        write_atomic(given.output, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
