"""``precision=auto`` asks the device that trains."""

import pytest
import torch

from shortcut_policy.training import precision
from shortcut_policy.training.precision import computes_bf16, has_tiles, training_device

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """A machine with a GPU and a processor that both have bf16 or not."""

    def make(gpu: bool, tiles: bool) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return gpu or including_emulation

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
        monkeypatch.setattr(precision, "has_tiles", lambda: tiles)

    return make


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("tiles", [True, False])
def test_auto_asks_the_device_that_is_used(machine, gpu: bool, tiles: bool):
    machine(gpu, tiles)
    assert computes_bf16("auto", GPU) == gpu, "emulated bf16 does not count"
    assert computes_bf16("auto", CPU) == tiles, "not the GPU beside it"
    for device in (CPU, GPU):
        assert computes_bf16("bf16", device) and not computes_bf16("fp32", device)


def test_cpu_leaves_a_gpu_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: GPU)
    assert (training_device(True), training_device(False)) == (CPU, GPU)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert training_device(False) == CPU


@pytest.mark.parametrize("has", [True, False])
def test_tiles_are_known_with_newer_and_older_releases_of_torch(monkeypatch: pytest.MonkeyPatch, has: bool):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_tile": has}, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: not has, raising=False)
    assert has_tiles() == has
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert has_tiles() != has
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")
    assert not has_tiles()
