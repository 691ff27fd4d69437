"""Which device trains, and in which number format it multiplies fastest."""

import torch

#: Of a processor with tiles for matrix products of bfloat16, as Linux and torch call it.
TILES = "amx_tile"


def training_device(cpu: bool) -> torch.device:
    """Where a training runs: on the accelerator that torch finds, unless there is none or ``cpu``."""
    found = None if cpu or not torch.accelerator.is_available() else torch.accelerator.current_accelerator()
    return torch.device("cpu") if found is None else found


def computes_bf16(precision: str, device: torch.device) -> bool:
    """Whether matrix products are taken in bfloat16.

    Args:
        precision: ``bf16``, ``fp32`` or ``auto``: where the device has units for it, which leaves out those
            that only emulate it.
        device: That trains.
    """
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and has_tiles()


def has_tiles() -> bool:
    """Whether the processor has tiles for matrix products (AMX); False where torch cannot say."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return bool(capabilities().get(TILES, False))
    # Older releases have only a private function for it, which need not be there.
    older = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return older is not None and bool(older())
