"""Benchmarks and trainings on real engines of this machine: SLURM, Ray, two network namespaces.

They need root and programs that an ordinary run of the tests does without; `docs/clusters.md` says how to
give them. Each skips with what is missing.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shortcut_policy.training.log import read_log
from tests.benchmark.test_harness import ROOT
from tests.benchmark.test_workers import compare, rows, settings, start, wait_for
from tests.conftest import TINY

HERE = Path(__file__).parent
#: Python of an environment with Ray and hydra-ray-launcher.
RAY_PYTHON = os.environ.get("SHORTCUT_POLICY_RAY_PYTHON", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "SHORTCUT_POLICY_CLUSTER_TESTS" not in os.environ,
        reason="SHORTCUT_POLICY_CLUSTER_TESTS=1 asks for them",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="clusters are started by root"),
]


@pytest.fixture(scope="module")
def one_process(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """The results of the benchmark in one process."""
    output = tmp_path_factory.mktemp("one")
    compare(settings(demonstrations, output))
    return rows(output)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.fixture
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """A SLURM cluster of one node; the environment that names it."""
    missing = [name for name in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    subprocess.run([HERE / "slurm.sh", "start", folder], check=True)
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([HERE / "slurm.sh", "stop", folder], check=True)


@pytest.fixture
def ray(folder: Path) -> Iterator[dict[str, str]]:
    """A Ray cluster of two nodes; the environment that names it."""
    if not RAY_PYTHON:
        pytest.skip("SHORTCUT_POLICY_RAY_PYTHON names no Python with Ray and hydra-ray-launcher")
    path = {"PATH": f"{Path(RAY_PYTHON).parent}:{os.environ['PATH']}"}
    subprocess.run([HERE / "ray.sh", "start", folder], check=True, env={**os.environ, **path})
    yield {**path, "RAY_ADDRESS": (folder / "address").read_text().strip()}
    subprocess.run([HERE / "ray.sh", "stop", folder], check=True)


@pytest.fixture
def namespaces() -> Iterator[None]:
    """Two network namespaces with a cable between them."""
    if shutil.which("ip") is None:
        pytest.skip("no ip: apt-get install iproute2")
    subprocess.run([HERE / "namespaces.sh", "start"], check=True)
    yield
    subprocess.run([HERE / "namespaces.sh", "stop"], check=True)


def test_slurm_makes_the_same_table_though_a_job_is_cancelled(
    slurm: dict[str, str], one_process: list[dict], demonstrations: Path, tmp_path: Path
):
    launcher = ["workers=2", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=test"]
    command = start(settings(demonstrations, tmp_path / "out", *launcher, updates=20), **slurm)
    runs = tmp_path / "out" / "parts" / "runs"
    wait_for(lambda: len(list(runs.glob("*.json"))) > 1, command)
    jobs = subprocess.run(
        ["squeue", "--noheader", "--array", "--format=%i"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **slurm},
    ).stdout.split()
    subprocess.run(["scancel", jobs[-1]], check=True, env={**os.environ, **slurm})
    said, _ = command.communicate(timeout=1200)
    assert command.returncode == 0, said
    assert rows(tmp_path / "out") == one_process


def test_ray_makes_the_same_table_though_a_node_is_lost(
    ray: dict[str, str], folder: Path, one_process: list[dict], demonstrations: Path, tmp_path: Path
):
    launcher = ["workers=2", "hydra/launcher=ray", "hydra.launcher.ray.init.address=auto"]
    launcher += ["+hydra.launcher.ray.init.object_store_memory=null"]
    command = start(settings(demonstrations, tmp_path / "out", *launcher), RAY_PYTHON, **ray)
    runs = tmp_path / "out" / "parts" / "runs"
    wait_for(lambda: len(list(runs.glob("*.json"))) > 1, command)
    subprocess.run([HERE / "ray.sh", "kill-node", folder], check=True)
    said, _ = command.communicate(timeout=1200)
    assert command.returncode == 0, said
    assert rows(tmp_path / "out") == one_process


def test_two_namespaces_train_as_one_process(namespaces: None, demonstrations: Path, tmp_path: Path):
    torchrun = [sys.executable, "-m", "torch.distributed.run"]

    def training(name: str, *launcher: str, **environment: str) -> subprocess.Popen[str]:
        command = [
            *launcher,
            str(ROOT / "scripts/train.py"),
            "task=pusht_human",
            *TINY,
            "trainer.log_every=1",
        ]
        command += [f"task.source.path={demonstrations}", "trainer.threads=1", f"output={tmp_path / name}"]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )

    def node(side: str, rank: int) -> subprocess.Popen[str]:
        meet = ["--nnodes=2", f"--node_rank={rank}", "--nproc_per_node=1"]
        meet += ["--master_addr=10.77.0.1", "--master_port=29577"]
        launcher = ["ip", "netns", "exec", f"node_{side}", *torchrun, *meet]
        return training("apart", *launcher, GLOO_SOCKET_IFNAME=f"cable_{side}")

    started = [node("a", 0), node("b", 1)]
    started += [
        training("one", sys.executable),
        training("two", *torchrun, "--standalone", "--nproc_per_node=2"),
    ]
    deadline = time.monotonic() + 1200
    for process in started:
        said, _ = process.communicate(timeout=deadline - time.monotonic())
        assert process.returncode == 0, said
    one, two, apart = (read_log(tmp_path / name) for name in ("one", "two", "apart"))
    assert [record["step"] for record in apart] == [record["step"] for record in one]
    for record, other, alone in zip(apart, two, one, strict=True):
        for key in ("loss", "grad_norm"):
            if key in alone:
                assert record[key] == other[key], "the network changes no bit"
                assert record[key] == pytest.approx(alone[key], rel=1e-3)
