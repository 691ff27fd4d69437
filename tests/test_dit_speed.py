"""The benchmark of the transformer over images counts memory by parts of torch that it may lose."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FILE = Path(__file__).resolve().parents[1] / "benchmarks/dit_speed.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, without waiting for diffusers, which is not measured here."""
    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(DiTTransformer2DModel=object))
    spec = importlib.util.spec_from_file_location("dit_speed", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_memory_is_counted_without_a_gpu(script: ModuleType):
    arguments = argparse.Namespace(channels=1, side=8, patch=2, classes=10, device="cpu")
    few, many = (script.memory("32x2x2", rows, False, arguments) for rows in (4, 64))
    assert 0 < few < many < 0.1
    assert script.memory("32x2x2", 64, True, arguments) < many


@pytest.mark.parametrize("name", ["torch._subclasses.fake_tensor", "torch.distributed._tools.mem_tracker"])
def test_a_torch_without_them_is_told_before_the_long_work(
    name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    monkeypatch.setitem(sys.modules, name, None)
    script = request.getfixturevalue("script")
    monkeypatch.setattr(script, "speed", lambda *arguments: pytest.fail("that is long work"))
    monkeypatch.setattr(sys, "argv", ["dit_speed.py", "--device", "cpu", "--memory-batches", "2"])
    with pytest.raises(SystemExit, match=r"cannot count memory without a GPU .*: leave it out, with --mem"):
        script.main()
