"""A network that sees and predicts numbers of size one, whatever the noise level, as a step map."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from shortcut_policy.backbones.precision import Wrapper, evaluate
from shortcut_policy.build import build
from shortcut_policy.errors import InputError
from shortcut_policy.objectives.paths import GaussianPath
from shortcut_policy.objectives.step_map import expand_like
from shortcut_policy.settings import check_number


class Preconditioned(Wrapper):
    """``s(x, t, d) = c_skip(t) x + c_out(t) F(c_in(t) x, t, d)``, for a network F.

    Preconditioning after Karras et al. 2022, equation 7, who predict the data where here the average velocity
    of a path is predicted. F has to say what a linear function of x cannot, so that it does not have to pass
    the noise through its normalisations to the last digit: at t = 0, where one-step samples are made, the
    velocity is the data less x, and F is left with the data.

    ``c_skip`` is the slope of the velocity in x for data of standard deviation ``residual_std``: it keeps to
    "the data less x" until x tells more of the data than the condition does. ``c_out`` is the root mean
    square of what is left for F, and ``c_in`` that of x, inverted, both for data of ``data_std``.

    Args:
        network: F.
        path: Whose velocities are predicted.
        data_std: Root mean square of normalised data.
        residual_std: Roughly their standard deviation where the condition is known.

    Raises:
        InputError: A standard deviation is not above 0.
    """

    def __init__(
        self, network: nn.Module, path: GaussianPath, data_std: float = 0.5, residual_std: float = 0.1
    ) -> None:
        super().__init__()
        for name, value in (("data_std", data_std), ("residual_std", residual_std)):
            # Squares of larger ones leave float32.
            check_number(
                f"precondition.{name}",
                value,
                lambda std: 0 < std <= 1e6,
                "above 0 and at most 1e6: it is a standard deviation of normalised data",
            )
        self.network, self.path = network, path
        self.data_variance, self.residual_variance = data_std**2, residual_std**2

    @classmethod
    def from_settings(cls, settings: Any, network: nn.Module, path: GaussianPath) -> "Preconditioned":
        """One as the ``precondition`` of a configuration says.

        Raises:
            InputError: The settings are not a mapping, or hold other keys or values than they may.
        """
        if not isinstance(settings, Mapping):
            raise InputError(
                f"precondition={settings} must be null or a mapping, such as "
                "precondition={data_std: 0.5, residual_std: 0.1}"
            )
        target = "shortcut_policy.backbones.Preconditioned"
        preconditioned: Preconditioned = build({**settings, "_target_": target}, network=network, path=path)
        return preconditioned

    def forward(self, x: Tensor, t: Tensor, d: Tensor, cond: Tensor) -> Tensor:
        """Average velocity over [t, t + d].

        Args:
            x: (B, ...).
            t: (B,) in [0, 1], 0 is noise.
            d: (B,) in [0, 1].
            cond: (B, C).
        """
        skip, out, scale = (expand_like(factor, x) for factor in self.factors(t))
        return skip * x + out * evaluate(self.network, scale * x, t, d, cond)

    def factors(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``c_skip``, ``c_out`` and ``c_in`` at times ``t``, (B,) each."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        alpha_rate, sigma_rate = self.path.rates(t)
        residual = self.residual_variance
        skip = (residual * alpha * alpha_rate + sigma * sigma_rate) / (residual * alpha**2 + sigma**2)
        left = self.data_variance * (alpha_rate - skip * alpha) ** 2 + (sigma_rate - skip * sigma) ** 2
        return skip, left.sqrt(), (self.data_variance * alpha**2 + sigma**2).rsqrt()
