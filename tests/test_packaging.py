"""The wheel carries everything it needs, and works from any directory once it is installed."""

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from email.message import Message
from email.parser import Parser
from itertools import chain
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = (
    "train",
    "rollout",
    "benchmark",
    "collect",
    "teleop",
    "convert",
    "download",
    "import-mcap",
    "render",
    "export",
    "serve",
    "view",
    "sample",
    "benchmark-images",
    "encode-latents",
)


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of a command that must succeed and must not see the checkout."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a new environment which holds the wheel and borrows the libraries of this one.

    The libraries come in as a plain path entry: Python does not read ``.pth`` files found there, so that an
    editable install of the checkout in this environment stays out of the new one.
    """
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    scripts = home / "bin"
    (site,) = home.glob("lib/python*/site-packages")
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "libraries.pth").write_text("".join(f"{path}\n" for path in sorted(libraries)))
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", wheel, cwd=home)
    return scripts


def files(folder: Path) -> set[str]:
    """Every file below ``folder``, hidden ones included, as paths relative to it."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    ("folder", "inside"),
    [
        ("configs", "shortcut_policy/configs"),
        ("envs/shortcut_envs", "shortcut_envs"),
        ("shortcut_policy", "shortcut_policy"),
        ("shortcut_policy/assets", "shortcut_policy/assets"),
    ],
)
def test_wheel_has_every_file_of(folder: str, inside: str, names: set[str]) -> None:
    expected = {f"{inside}/{name}" for name in files(ROOT / folder)}
    assert expected, f"{folder} is empty"
    assert expected <= names


def test_wheel_keeps_the_hidden_metadata_of_the_bundled_stores(names: set[str]) -> None:
    stores = sorted((ROOT / "shortcut_policy" / "assets").glob("*.zarr"))
    assert stores
    for store in stores:
        root = f"shortcut_policy/assets/{store.name}"
        assert names & {f"{root}/.zgroup", f"{root}/zarr.json"}


def test_wheel_has_nothing_else(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    (dist_info,) = (top for top in tops if top.endswith(".dist-info"))
    assert tops == {"shortcut_policy", "shortcut_envs", dist_info}
    assert f"{dist_info}/licenses/LICENSE" in names
    assert not [name for name in names if "__pycache__" in name or "/tests/" in name]


def test_wheel_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "shortcut-policy"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "dev",
        "docs",
        "export",
        "images",
        "lerobot",
        "mcap",
        "metaworld",
        "record",
        "rerun",
        "robomimic",
        "serve",
        "slurm",
        "timm",
    }


# Each test below starts a Python that imports torch, which takes the time: hence few, with much in each.


def test_installed_wheel_is_what_python_and_its_commands_import(installed: Path, tmp_path: Path) -> None:
    assert set(PROJECT["scripts"]) == {f"shortcut-{name}" for name in COMMANDS}
    assert all((installed / name).is_file() for name in PROJECT["scripts"])
    code = """
from importlib.metadata import distribution
import shortcut_envs, shortcut_policy
from shortcut_policy.paths import CONFIG_DIR
for script in distribution("shortcut-policy").entry_points:
    assert callable(script.load())
print(shortcut_envs.__file__, shortcut_policy.__file__, CONFIG_DIR)
"""
    for path in run(installed / "python", "-c", code, cwd=tmp_path).split():
        assert Path(path).is_relative_to(installed.parent), f"{path} is not the installed copy"


def test_installed_wheel_has_its_environments_and_demonstrations(installed: Path, tmp_path: Path) -> None:
    code = """
import gymnasium
from shortcut_policy.data import bundled
observation, _ = gymnasium.make("shortcut_envs:shortcut_policy/PushTKeypoints-v0").reset(seed=0)
print({name: value.shape for name, value in sorted(observation.items())})
print(len(bundled("pusht").episode_ends))
"""
    shapes, episodes = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()[-2:]
    assert shapes == "{'agent_pos': (2,), 'keypoint': (9, 2)}"
    assert int(episodes) >= 150


def test_installed_command_composes_its_configuration(installed: Path, tmp_path: Path) -> None:
    shown = run(installed / "shortcut-train", "--cfg", "job", cwd=tmp_path)
    assert re.search(r"^task:\n  name: pusht$", shown, re.MULTILINE)


def requirements() -> list[str]:
    return [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]


OURS = {"shortcut_policy", "shortcut_envs", "shortcut_studies"}


def imported(folder: Path) -> set[str]:
    """The top-level modules that the code below ``folder`` imports from elsewhere."""
    nodes = [node for path in folder.rglob("*.py") for node in ast.walk(ast.parse(path.read_text()))]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in modules} - sys.stdlib_module_names - OURS


@pytest.mark.parametrize("folder", ["shortcut_policy", "envs", "studies"])
def test_every_import_is_a_declared_dependency(folder: str) -> None:
    projects = {"PIL": "pillow", "hydra": "hydra-core", "rerun": "rerun-sdk", "sklearn": "scikit-learn"}
    projects |= {"mcap_ros2": "mcap-ros2-support", "yaml": "pyyaml"}
    declared = {canonicalize_name(Requirement(text).name) for text in requirements()}
    needed = {canonicalize_name(projects.get(module, module)) for module in imported(ROOT / folder)}
    assert needed <= declared


def test_the_client_imports_what_it_declares_and_nothing_of_ours() -> None:
    client = ROOT / "packages" / "client"
    declared = tomllib.loads((client / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {Requirement(text).name for text in declared}
    assert imported(client / "shortcut_client") - {"shortcut_client"} == names
    text = "".join(path.read_text() for path in (client / "shortcut_client").glob("*.py"))
    assert not re.search(r"^\s*(from|import) (torch|shortcut_policy)", text, re.MULTILINE)
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(pins()[requirement.name])


def test_the_plugin_for_lerobot_imports_what_it_declares_and_has_the_name_that_lerobot_looks_for() -> None:
    plugin = ROOT / "packages" / "lerobot_policy_shortcut"
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    assert project["name"] == "lerobot_policy_shortcut" and (plugin / project["name"]).is_dir()
    names = {Requirement(text).name.replace("-", "_") for text in project["dependencies"]}
    assert imported(plugin / project["name"]) - {project["name"]} == names - {"shortcut_policy"}
    for requirement in map(Requirement, project["dependencies"]):
        if requirement.name in pins():
            assert requirement.specifier.contains(pins()[requirement.name])


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name: version for name, version in pairs}


# Meta-World takes one mujoco alone, in an environment of its own.
@pytest.mark.parametrize("text", [text for text in requirements() if text != "mujoco==3.3.0"])
def test_constraints_pin_every_requirement_within_its_range(text: str) -> None:
    requirement = Requirement(text)
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_constraints_hold_on_any_computer() -> None:
    for name, version in pins().items():
        assert re.fullmatch(r"\d[\w.]*", version), f"{name}=={version} is not a plain public version"
    assert "torchvision" not in pins()


@pytest.mark.parametrize(
    ("path", "ignored"),
    [
        ("data/pusht.zarr/.zgroup", True),
        ("runs/demo/config.yaml", True),
        ("wandb/run.log", True),
        ("rollout.mp4", True),
        ("docs/rollout.mp4", False),
        ("shortcut_policy/data/windows.py", False),
        ("shortcut_policy/assets/pusht.zarr/data/action/.zarray", False),
        ("shortcut_policy/assets/pusht.zarr/data/action/c/0/0", False),
        ("pretrained/pusht/policy.safetensors", False),
    ],
)
def test_git_ignores_what_runs_write_and_nothing_of_the_package(path: str, ignored: bool) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is not a git checkout")
    done = subprocess.run(["git", "check-ignore", "--quiet", "--no-index", path], cwd=ROOT)
    assert (done.returncode == 0) is ignored
