"""Whether the machine has the device that a configuration names."""

import torch

from shortcut_policy.errors import InputError


def usable_device(name: str | torch.device) -> torch.device:
    """The device of that name, such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        InputError: This machine or this build of torch has none.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"device={name} cannot be used here ({reason}): give device=cpu") from error
    return device
