"""What a training needs of the machine and of its model, told in a sentence where it is not there."""

import shutil
from pathlib import Path

import pytest
import torch

from shortcut_policy import checkpoint
from shortcut_policy.checkpoint import list_checkpoints
from shortcut_policy.commands.train import read_training, run
from shortcut_policy.errors import InputError, TrainingError
from shortcut_policy.policy import Policy
from shortcut_policy.training.processes import compiling, make_accelerator, reaching_all
from tests.conftest import Compose


def test_compiling_without_a_compiler_is_refused_before_any_work(compose_config: Compose, monkeypatch):
    config = read_training(compose_config("trainer.compile=true")).trainer
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/clang++" if name == "clang++" else None)
    make_accelerator(True, config)
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(InputError, match=r"trainer.compile=true needs a C\+\+ compiler, and /nowhere/g\+\+"):
        make_accelerator(True, config)


@pytest.mark.slow
def test_a_compiler_that_fails_is_one_sentence(tmp_path: Path, monkeypatch):
    """As one does without the headers of Python."""
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "g++ 12.2.0" && exit\n'
        'echo "main.cpp:2:10: fatal error: Python.h: No such file or directory" >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    from torch._inductor import config

    settings = {"cpp.cxx": (str(broken),), "compile_threads": 1, "force_disable_caches": True}
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    with (
        config.patch(settings),
        pytest.raises(TrainingError, match=r"cannot compile the network \(.*Python.h: No such file.*compile"),
        compiling(),
    ):
        torch.compile(lambda x: x.sin() + 1)(torch.ones(3))
    with pytest.raises(RuntimeError, match=r"^of another kind$"), compiling():
        raise RuntimeError("of another kind")


def test_a_disk_that_fills_up_leaves_the_checkpoints_before(
    compose_config: Compose, tmp_path: Path, monkeypatch
):
    real = torch.save

    def save(state, path):
        real(state, path)
        if "step_00000020" in str(path):
            raise RuntimeError(
                "[enforce fail at inline_container.cc] . unexpected pos 64 vs 0\nand more lines"
            )

    monkeypatch.setattr(checkpoint.torch, "save", save)
    overrides = (f"output={tmp_path / 'run'}", "trainer.keep_last=5")
    with pytest.raises(
        TrainingError, match=r"of update 20 cannot be written to .*MiB are free \(\[enforce fail"
    ):
        run(compose_config(*overrides))
    folder = tmp_path / "run/checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step_00000010"]
    monkeypatch.undo()
    run(compose_config(*overrides, "resume=true"))
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["step_00000010", "step_00000020"]


def test_weights_that_reach_no_loss_are_named(tiny_policy: Policy):
    for parameter in tiny_policy.parameters():
        parameter.grad = torch.zeros_like(parameter)
    tiny_policy.backbone.network.embed_d.mlp = torch.nn.Linear(2, 2)
    with (
        pytest.raises(
            TrainingError,
            match=r"2 weights do not reach the loss \(.*embed_d.mlp.weight, .*embed_d.mlp.bias\), and",
        ),
        reaching_all(tiny_policy),
    ):
        raise RuntimeError("... by passing the keyword argument `find_unused_parameters=True` to ...")
    with pytest.raises(RuntimeError, match="out of memory"), reaching_all(tiny_policy):
        raise RuntimeError("out of memory")
