"""A recorded computation, with the calls of a GPU replaced: what is recorded when, and what a replay returns.

What needs the GPU itself is in ``benchmarks/gpu_check.py``, whose other checks run here on the CPU.
"""

import contextlib
import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.training.cuda_graph import WARM_UP, CudaGraph

CPU = torch.device("cpu")
FILE = Path(__file__).resolve().parents[2] / "benchmarks/gpu_check.py"


class Graph:
    """Keeps what is computed while it is recorded, and computes it again into the same tensors."""

    def __init__(self) -> None:
        self.replayed, self.again = 0, lambda: None

    def register_generator_state(self, generator: torch.Generator) -> None:
        self.generator = generator

    def replay(self) -> None:
        self.replayed += 1
        self.again()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for torch.cuda; ``recording`` says whether something is recorded."""
    state = SimpleNamespace(recording=False, waits=0)

    class Stream:
        def __init__(self, device=None) -> None:
            pass

        def wait_stream(self, other: "Stream") -> None:
            state.waits += 1

    @contextlib.contextmanager
    def record(graph: Graph):
        state.recording = True
        try:
            yield
        finally:
            state.recording = False

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", record)
    return state


def computed(rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    return {"sum": rows.sum() + torch.rand((), generator=generator), "rows": rows * 2}


def test_replays_return_what_the_computation_does(gpu: SimpleNamespace):
    calls: list[bool] = []

    def compute(rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        calls.append(gpu.recording)
        results = computed(rows, generator)
        if gpu.recording:
            graph = recorded.graph

            def again() -> None:
                generator.manual_seed(generator.initial_seed())
                for name, value in computed(rows, generator).items():
                    results[name].copy_(value)

            graph.again = again
        return results

    recorded = CudaGraph(compute, torch.arange(3), CPU)
    kept: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
    for call in range(WARM_UP + 3):
        rows, seed = torch.arange(3) + 10 * call, 100 + call
        found = recorded(rows, torch.Generator().manual_seed(seed))
        kept.append((found, computed(rows, torch.Generator().manual_seed(seed))))
    assert calls == [False] * WARM_UP + [True], "recorded once, after the warm-up"
    assert recorded.graph.replayed == 3 and gpu.waits == 2 * WARM_UP
    for found, wanted in kept:  # results of a call are not those of the next
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_what_cannot_be_recorded_is_told(gpu: SimpleNamespace):
    def compute(rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        if gpu.recording:
            raise RuntimeError("operation not permitted when stream is capturing\nand more lines")
        return {}

    recorded = CudaGraph(compute, torch.arange(3), CPU)
    for _ in range(WARM_UP):
        assert recorded(torch.arange(3), torch.Generator()) == {}
    with pytest.raises(InputError, match=r"recorded as a CUDA graph \(operation not .* capturing\); give"):
        recorded(torch.arange(3), torch.Generator())


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_checks_of_a_gpu_run_without_one(script: ModuleType):
    results = script.run_checks("cpu", updates=6)
    skipped = {name for name, found in results.items() if "skipped" in found}
    assert skipped == {"cuda_graph", "compiled", "memory"}
    assert not [found for found in results.values() if "failed" in found]
    assert results["resumed"]["difference"] == 0


def test_a_check_that_fails_does_not_hide_the_others(script: ModuleType, monkeypatch: pytest.MonkeyPatch):
    def fail(self: object, *arguments: object, **settings: object) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(script.Checks, "train", fail)
    monkeypatch.setattr(script.subprocess, "run", fail)
    results = script.run_checks("cpu", updates=6)
    assert {name for name, found in results.items() if "failed" in found} == {
        *("bfloat16", "resumed", "processes", "acting")
    }
    assert results["acting"]["failed"] == "RuntimeError: no kernel image is available"
