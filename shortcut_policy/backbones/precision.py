"""Networks whose parameters were cast to another type than what they are asked about."""

from torch import Tensor, nn


class Wrapper(nn.Module):
    """A step map round another network, which computes in the type of ``x`` and asks `evaluate` for the rest.

    Attributes:
        network: What is inside.
    """

    network: nn.Module


def evaluate(network: nn.Module, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
    """A network's answer in the type of ``x``, whatever type its parameters have.

    So all but the network is computed in float32 after ``policy.to(torch.bfloat16)``: the noise, the steps of
    the sampler, the scaling of the actions. The times are handed on as they are, because 8 bits do not tell
    the noise levels of a diffusion apart.

    Args:
        network: Step map.
        x: (B, ...).
        t: (B,) in [0, 1], 0 is noise.
        d: (B,) in [0, 1].
        cond: (B, C), of any type.
    """
    parameter = next(network.parameters(), None)
    if isinstance(network, Wrapper) or parameter is None:
        return network(x, t, d, cond)
    out: Tensor = network(x.to(parameter.dtype), t, d, cond.to(parameter.dtype))
    return out.to(x.dtype)
