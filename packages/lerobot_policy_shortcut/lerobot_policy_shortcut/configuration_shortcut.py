"""What can be set with ``--policy.*`` when ``--policy.type=shortcut``."""

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import FeatureType, NormalizationMode, PreTrainedConfig

from lerobot_policy_shortcut.optimizer_shortcut import ShortcutOptimizerConfig, ShortcutSchedulerConfig
from shortcut_policy.errors import InputError
from shortcut_policy.training.config import TrainerConfig

#: Features that a policy can observe.
OBSERVED = (FeatureType.STATE, FeatureType.ENV, FeatureType.VISUAL)


def _identity() -> dict[str, NormalizationMode]:
    return dict.fromkeys(("STATE", "ENV", "VISUAL", "ACTION"), NormalizationMode.IDENTITY)


@PreTrainedConfig.register_subclass("shortcut")
@dataclass
class ShortcutConfig(PreTrainedConfig):
    """A policy of ``shortcut_policy``: its own network, objective, scaling, optimizer and sampler.

    Attributes:
        n_obs_steps: Observed steps.
        horizon: Steps of an action chunk as the network predicts it.
        n_action_steps: Steps of it that are played.
        objective: File of ``configs/objective``: ``weighted_shortcut``, ``flow_matching``, ``diffusion`` and
            so on.
        objective_settings: What is to be different from that file.
        backbone: File of ``configs/backbone``: ``unet``, ``unet_small``, ``dit`` and so on.
        backbone_settings: What is to be different from that file.
        encoder: File of ``configs/encoder``; ``lowdim``, or ``image_light`` with cameras, if None.
        encoder_settings: What is to be different from that file.
        obs_noise: See `shortcut_policy.Policy`.
        sampling_steps: Network evaluations of a chunk, such as 1, 2, 4, ... 128.
        sampling_seed: Of the sampling noise, which is then a function of this seed, the number of the episode
            and that of the chunk: results depend neither on the batch size nor on what ran before. None takes
            the noise from torch's global generator, as LeRobot's policies do.
        first_episode: Number of the first episode that is played; the rows of a batch count on from it.
        training_steps: Updates in all, on which the objective depends. ``lerobot-train`` tells them, unless
            its presets are not used.
        optimizer: ``muon``, with AdamW for what is no matrix, or ``adamw``.
        optimizer_lr: AdamW's, and
        matrix_rate: Muon's as a multiple of it,
        encoder_rate: the encoder's as a multiple of the others'.
        optimizer_betas: Of AdamW.
        optimizer_weight_decay: Of both.
        grad_clip_norm: Gradients are scaled down to this norm.
        scheduler_warmup_steps: Updates of the warm-up, before the cosine; None for the trainer's rule, a
            fourteenth of the training and 500 at most.
        ema_power: See `TrainerConfig`,
        ema_max_decay: as well.
        normalization_mapping: Nothing is scaled outside of the policy, which has its own scaling.
        names: LeRobot's key of an observation -> its name here; made of the keys if empty.
        specification: What the policy is built from; made of the settings above if empty.
        metadata: What is known of a policy that was trained elsewhere.
    """

    n_obs_steps: int = 2
    horizon: int = 16
    n_action_steps: int = 8

    objective: str = "weighted_shortcut"
    objective_settings: dict[str, Any] = field(default_factory=dict)
    backbone: str = "unet"
    backbone_settings: dict[str, Any] = field(default_factory=dict)
    encoder: str | None = None
    encoder_settings: dict[str, Any] = field(default_factory=dict)
    obs_noise: float | None = None

    sampling_steps: int = 1
    sampling_seed: int | None = None
    first_episode: int = 0

    training_steps: int | None = None
    optimizer: str = TrainerConfig.optimizer
    optimizer_lr: float = TrainerConfig.learning_rate
    matrix_rate: float = TrainerConfig.matrix_rate
    encoder_rate: float = TrainerConfig.encoder_rate
    optimizer_betas: tuple[float, float] = TrainerConfig.betas
    optimizer_weight_decay: float = TrainerConfig.weight_decay
    grad_clip_norm: float = TrainerConfig.max_grad_norm
    scheduler_warmup_steps: int | None = None
    ema_power: float = TrainerConfig.ema_power
    ema_max_decay: float = TrainerConfig.ema_max_decay

    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=_identity)

    names: dict[str, str] = field(default_factory=dict)
    specification: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    #: Whether a training is to begin with the next update, from the averaged weights; no setting.
    begins = False

    @property
    def drop_n_last_frames(self) -> int:
        """Windows that begin so late in an episode are left out, as in our own training."""
        return self.horizon - self.n_obs_steps - self.n_action_steps + 1

    @property
    def observation_delta_indices(self) -> list[int]:
        """Observed steps, counted from the present one."""
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """Steps of a chunk, which begins with the first observed step."""
        return list(range(1 - self.n_obs_steps, 1 - self.n_obs_steps + self.horizon))

    @property
    def reward_delta_indices(self) -> None:
        """Rewards are not used."""
        return None

    def get_optimizer_preset(self) -> ShortcutOptimizerConfig:
        """Our optimizers, as one."""
        return ShortcutOptimizerConfig(
            lr=self.optimizer_lr,
            weight_decay=self.optimizer_weight_decay,
            grad_clip_norm=self.grad_clip_norm,
            optimizer=self.optimizer,
            matrix_rate=self.matrix_rate,
            encoder_rate=self.encoder_rate,
            betas=self.optimizer_betas,
        )

    def get_scheduler_preset(self) -> ShortcutSchedulerConfig:
        """Warm-up and cosine; LeRobot tells it how long the training is, and it passes that on."""
        preset = ShortcutSchedulerConfig(num_warmup_steps=self.scheduler_warmup_steps)
        preset.policy_config = self
        return preset

    def validate_features(self) -> None:
        """Refuse features of which no policy can be made.

        Raises:
            InputError: There is no action, or nothing is observed.
        """
        if self.action_feature is None:
            raise InputError("the data set or environment has no feature 'action', which a policy learns")
        if not self.observed:
            raise InputError(
                "there is nothing to observe: the data set or environment needs observation.state, "
                "observation.environment_state or cameras"
            )

    @property
    def observed(self) -> dict[str, Any]:
        """LeRobot's features that the policy observes, by key."""
        return {key: ft for key, ft in (self.input_features or {}).items() if ft.type in OBSERVED}
