"""Every command and every piece of code in the README, run as a reader would, with less of everything."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import TINY

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = [
    (language, re.sub(rf"^{indent}", "", text, flags=re.M))
    for indent, language, text in re.findall(r"^( *)```(\w+)\n(.*?)^ *```", README, flags=re.M | re.S)
]
COMMANDS = [line for language, text in BLOCKS if language == "bash" for line in text.splitlines()]

#: What makes a command short, by the script that it calls.
SMALLER = {
    "reach.py": [],
    "scripts/view.py": [],
    "scripts/train.py": [*(o for o in TINY if not o.startswith("data.")), "data.val_fraction=0.1"],
    "scripts/rollout.py": ["episodes=2"],
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that may be written to, with the files of the README in it."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("scripts", "pretrained"):
        (folder / name).symlink_to(ROOT / name)
    for _, text in BLOCKS:
        name = re.match(r"# (\S+\.(?:py|yaml))\n", text)
        if name:
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(text)
    return folder


def run(arguments: list[str], folder: Path) -> str:
    """Output of a command that must succeed."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'envs'}"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [line.split()[1] for line in COMMANDS if line.startswith("make ")]
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, flags=re.M) for target in targets)
    assert shutil.which("make")


def test_make_demo_in_miniature(folder: Path):
    """The command behind ``make demo``, with a tiny network and two short episodes."""
    overrides = ",".join(f"'{override}'" for override in ("task=pusht_policy", *TINY))
    updates = ["shortcut_updates=20", "diffusion_updates=20", "compute_rounds=3"]
    small = [f"training=[{overrides}]", *updates, "episodes=2", "+env.max_steps=16", "videos=2"]
    run([sys.executable, "scripts/benchmark.py", "--config-name", "demo", *small], folder)
    written = {path.name for path in (folder / "outputs" / "demo").iterdir()}
    assert {"report.html", "results.json", "results.md", "shortcut_1_step.mp4"} <= written


def test_commands_run_in_the_order_of_the_readme(folder: Path):
    for line in COMMANDS:
        program, *arguments = shlex.split(line)
        if program != "make":
            script = next(name for name in SMALLER if name in arguments)
            run([sys.executable, *arguments, *SMALLER[script]], folder)
    assert (folder / "runs" / "reach" / "log.jsonl").is_file()
    assert (folder / "outputs" / "reach").is_dir()


def test_python_of_the_readme_runs(folder: Path):
    """But for the ten lines, which test_python_api.py runs."""
    acts, _ = (text for language, text in BLOCKS if language == "python" and text[:2] != "# ")
    assert run([sys.executable, "-c", acts], folder) in ("True\n", "False\n")
