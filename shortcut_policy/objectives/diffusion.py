"""Denoising diffusion as Diffusion Policy trains it (Ho et al. 2020; Chi et al. 2023), through diffusers."""

import torch
from torch import Tensor

from shortcut_policy.errors import InputError
from shortcut_policy.objectives.base import (
    Generators,
    LossContext,
    Metrics,
    Objective,
    check_step_range,
)
from shortcut_policy.objectives.errors import ErrorName, row_error
from shortcut_policy.objectives.step_map import StepMap, same_time
from shortcut_policy.settings import check_choice

#: Which levels DDIM visits, by diffusers' names.
SPACINGS = ("trailing", "leading", "linspace")


class Diffusion(Objective):
    """Predict the noise (epsilon) at a random one of ``train_steps`` noise levels.

    The full number of steps is sampled by DDPM (ancestral), any smaller one by DDIM (Song et al. 2021, with
    eta = 0). At level n the network is told ``t = 1 - (n + 1) / train_steps``, so that 0 is noise here as
    everywhere, and d = 0.

    Args:
        train_steps: Noise levels, and the number of steps that DDPM takes.
        beta_schedule: Name of a diffusers schedule; the baseline's is the cosine one.
        clip_sample: Clip the predicted data to [-1, 1] on the way, as the baseline does. Data that are scaled
            to reach beyond cannot be made then.
        timestep_spacing: Which levels DDIM visits. ``trailing`` begins at the noisiest one; the ``leading``
            of the baseline's code would begin a 1-step sample at the cleanest, where it cannot work.
        error: Of the noise, see `row_error`.

    Raises:
        InputError: A number of levels below 1, or a name that diffusers does not know.
    """

    def __init__(
        self,
        train_steps: int = 100,
        beta_schedule: str = "squaredcos_cap_v2",
        clip_sample: bool = True,
        timestep_spacing: str = "trailing",
        error: ErrorName = "l2",
    ) -> None:
        if not isinstance(train_steps, int) or train_steps < 1:
            raise InputError(f"objective.train_steps={train_steps} must be a whole number of noise levels")
        from diffusers import DDIMScheduler, DDPMScheduler  # seconds, which no other objective needs

        check_choice("objective.timestep_spacing", timestep_spacing, SPACINGS)
        check_choice("objective.clip_sample", clip_sample, (True, False))
        shared = {
            "num_train_timesteps": train_steps,
            "beta_schedule": beta_schedule,
            "clip_sample": clip_sample,
            "prediction_type": "epsilon",
        }
        self.train_steps, self.error, self.bounded = train_steps, row_error(error), clip_sample
        self._known_levels: dict[int, list[int]] = {}
        try:
            self.ddpm = DDPMScheduler(**shared, variance_type="fixed_small")
            self.ddim = DDIMScheduler(**shared, set_alpha_to_one=True, timestep_spacing=timestep_spacing)
        except NotImplementedError as error_of_diffusers:
            raise InputError(
                f"objective.beta_schedule={beta_schedule} is not a schedule of diffusers; the baseline's is "
                "squaredcos_cap_v2"
            ) from error_of_diffusers

    def loss(self, net: StepMap, x_1: Tensor, cond: Tensor, context: LossContext) -> tuple[Tensor, Metrics]:
        """Error of the predicted noise of each row, (B,)."""
        noise = context.draws.normal_like(x_1)
        level = (context.draws.uniform(len(x_1)) * self.train_steps).long()
        predicted = self._predict(net, self.ddpm.add_noise(x_1, noise, level), level, cond)
        return self.error(predicted, noise), {}

    def told_time(self, level: Tensor) -> Tensor:
        """The t that the network is told at each of the noise levels ``level``, whole numbers (B,)."""
        return 1 - (level + 1) / self.train_steps

    def sample(
        self, net: StepMap, noise: Tensor, cond: Tensor, steps: int, generator: Generators = None
    ) -> Tensor:
        """DDPM at ``train_steps`` steps, its noise drawn from ``generator``; DDIM, without any, below."""
        ancestral = steps == self.train_steps
        if ancestral and torch.compiler.is_exporting():
            raise InputError(
                f"steps={steps} of diffusion draws random numbers between its steps, which no seed would "
                "reach in a graph: export fewer steps, which are DDIM's and draw none"
            )
        x = noise * (self.ddpm if ancestral else self.ddim).init_noise_sigma
        levels = self._levels(steps)
        for level, after in zip(levels, [*levels[1:], -1], strict=True):
            predicted = self._predict(net, x, same_time(level, x).long(), cond)
            if ancestral:
                x = self.ddpm.step(predicted, level, x, generator=generator).prev_sample
            else:
                x = self._ddim_step(predicted, x, level, after)
        return x

    def check_steps(self, steps: int) -> None:
        """Any whole number of steps up to the number of noise levels."""
        check_step_range(steps, self.train_steps, f"a diffusion policy of {self.train_steps} noise levels")
        # Found here once, because no number can be read from a tensor while a graph is made.
        self._levels(steps)

    def network_evaluations(self, steps: int) -> int:
        """One a step."""
        return steps

    def _levels(self, steps: int) -> list[int]:
        """The noise levels that so many steps visit, the noisiest first."""
        if steps not in self._known_levels:
            scheduler = self.ddpm if steps == self.train_steps else self.ddim
            scheduler.set_timesteps(steps)
            # Where the steps do not divide the levels, rounding can make diffusers list one more.
            self._known_levels[steps] = scheduler.timesteps[:steps].tolist()
        return self._known_levels[steps]

    def _ddim_step(self, predicted: Tensor, x: Tensor, level: int, after: int) -> Tensor:
        """From one noise level to a cleaner one, -1 for the data (Song et al. 2021, equation 12, eta = 0).

        The step of diffusers ends ``train_steps // steps`` levels on, which is not the next level that its
        own list visits if ``steps`` does not divide ``train_steps``: from 51 of 100 on, samples stay noise.
        """
        signal = self.ddim.alphas_cumprod[level]
        signal_after = self.ddim.alphas_cumprod[after] if after >= 0 else self.ddim.final_alpha_cumprod
        data = (x - (1 - signal) ** 0.5 * predicted) / signal**0.5
        if self.bounded:
            data = data.clamp(-1, 1)
        return signal_after**0.5 * data + (1 - signal_after) ** 0.5 * predicted

    def _predict(self, net: StepMap, x: Tensor, level: Tensor, cond: Tensor) -> Tensor:
        t = self.told_time(level).to(x.dtype)
        return net(x, t, torch.zeros_like(t), cond)
