"""A network that was trained to predict the noise of a diffusion, as a step map on the straight path."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shortcut_policy.backbones.precision import Wrapper, evaluate
from shortcut_policy.float32_buffers import Float32Buffers
from shortcut_policy.objectives.diffusion import Diffusion
from shortcut_policy.objectives.step_map import expand_like

#: Mean squared error that a noise prediction is taken to have, over the mean square of the data.
NOISE_ERROR = 0.01


class NoiseAsVelocity(Wrapper, Float32Buffers):
    """Velocity from a noise prediction, so that a DDPM can be trained on as a flow or a shortcut model.

    A point of the straight path, ``x_t = (1 - t) x_0 + t x_1``, divided by ``sqrt((1 - t)^2 + t^2)``, is a
    point of the diffusion at the noise level with the same signal-to-noise ratio (Kingma et al. 2021; Karras
    et al. 2022). There the network predicts the noise e; the velocity is the data less the noise, and an
    Euler step of it a DDIM step (Song et al. 2021), with ``(x_t - (1 - t) e) / t`` for the data.

    That quotient is useless near t = 0, where what is left of the data is smaller than the error of e:
    samplers of diffusions clip it, and clipped values teach nothing. Here it is shrunk towards zero as far
    as the error has to be expected to reach, by the Wiener filter ``t / (t^2 + NOISE_ERROR (1 - t)^2)`` in
    place of 1 / t: at t = 0 the velocity is -e, which training moves as easily as anywhere.

    Args:
        network: Makes the network from ``sizes``.
        diffusion: What it was trained by.
        sizes: Of the data and the condition.
    """

    levels: Tensor
    told: Tensor

    def __init__(self, network: Callable[..., nn.Module], diffusion: Diffusion, **sizes: Any) -> None:
        super().__init__()
        self.network = network(**sizes)
        # From noise to data, as t goes.
        level = torch.arange(diffusion.train_steps - 1, -1, -1)
        signal = diffusion.ddpm.alphas_cumprod[level].double()
        ratio = (signal / (1 - signal)).sqrt()
        self.register_buffer("levels", (ratio / (1 + ratio)).float(), persistent=False)
        self.register_buffer("told", diffusion.told_time(level), persistent=False)

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Average velocity over [t, t + d].

        Args:
            x: (B, ...).
            t: (B,) in [0, 1], 0 is noise.
            d: (B,) in [0, 1].
            cond: (B, C).
        """
        alpha = expand_like(t, x)
        sigma = 1 - alpha
        scaled = x / (alpha**2 + sigma**2).sqrt()
        noise = evaluate(self.network, scaled, self.time_of(t), d, cond)
        data = (x - sigma * noise) * alpha / (alpha**2 + NOISE_ERROR * sigma**2)
        return data - noise

    def time_of(self, t: Tensor) -> Tensor:
        """What the network was told at the noise level of the straight path's t (B,); interpolated, (B,)."""
        after = torch.searchsorted(self.levels, t).clamp(1, len(self.levels) - 1)
        low, high = self.levels[after - 1], self.levels[after]
        part = ((t - low) / (high - low)).clamp(0, 1)
        return torch.lerp(self.told[after - 1], self.told[after], part)
