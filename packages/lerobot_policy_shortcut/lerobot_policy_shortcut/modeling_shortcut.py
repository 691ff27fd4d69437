"""A policy of ``shortcut_policy`` behind LeRobot's interface."""

import builtins
from collections import deque
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from lerobot.policies import PreTrainedPolicy
from lerobot.policies.utils import populate_queues
from lerobot.utils.constants import ACTION
from safetensors import SafetensorError
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from lerobot_policy_shortcut.configuration_shortcut import ShortcutConfig
from lerobot_policy_shortcut.optimizer_shortcut import MODULE
from lerobot_policy_shortcut.translation import (
    check_keys,
    check_no_depth,
    fit_normalizer,
    make_fields,
    observations,
    our_names,
    usual_crop,
)
from shortcut_policy import Policy, recipe
from shortcut_policy.control import chunk_generator
from shortcut_policy.data.fields import read_fields
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws
from shortcut_policy.training.averaging import averaging
from shortcut_policy.training.batches import seeded_generator
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.trust import check_trust


class ShortcutPolicy(PreTrainedPolicy):
    """Trains a `shortcut_policy.Policy` with its own loss, and acts with its averaged weights.

    Args:
        config: Settings; what is empty in it of ``names`` and ``specification`` is filled in.
        dataset_stats: LeRobot's statistics of the training data, from which the scaling is made; None if
            weights are loaded, which hold their own.
        others: What LeRobot tells its policies beside that: ``dataset_meta`` says which cameras are of depth.

    Attributes:
        policy: What is trained.
        ema: Its averaged weights, which act, and make targets for some objectives.

    Raises:
        InputError: A setting is not known, or the features fit no policy; or the configuration came from
            elsewhere and names code that is not part of ``shortcut_policy``.
    """

    config_class = ShortcutConfig
    name = "shortcut"
    config: ShortcutConfig
    training_seed: Tensor

    def __init__(
        self,
        config: ShortcutConfig,
        dataset_stats: dict[str, dict[str, Tensor]] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(config)
        config.validate_features()
        check_no_depth(getattr(others.get("dataset_meta"), "depth_keys", ()), config.observed)
        config.names = config.names or our_names(config.observed)
        self.policy = make_policy(config)
        config.specification = dict(self.policy.spec)
        if dataset_stats is not None and not config.pretrained_path:
            obs, action = read_fields(self.policy.spec["obs"], self.policy.spec[ACTION])
            keys = {name: key for key, name in config.names.items()} | {ACTION: ACTION}
            self.policy.normalizer = fit_normalizer({**obs, ACTION: action}, keys, dataset_stats)
        settings = TrainerConfig(ema_power=config.ema_power, ema_max_decay=config.ema_max_decay)
        self.ema = AveragedModel(self.policy, multi_avg_fn=averaging(settings)).requires_grad_(False).eval()
        # Drawn with the first update; in the weights' file, so that a run that goes on has it.
        self.register_buffer("training_seed", torch.tensor(-1))
        self._episodes = self._rows = 0
        self.reset()

    @property
    def averaged(self) -> Policy:
        """The policy with averaged weights: the one that acts."""
        return cast(Policy, self.ema.module)

    @property
    def updates(self) -> int:
        """Updates of the training so far."""
        return int(self.ema.n_averaged)

    def train(self, mode: bool = True) -> Self:
        """Switch what is trained; the averaged weights are always as in play."""
        super().train(mode)
        self.ema.eval()
        return self

    def get_optim_params(self) -> dict[str, Any]:
        """What `ShortcutOptimizerConfig.build` takes."""
        return {MODULE: self.policy}

    def forward(self, batch: dict[str, Tensor], reduction: str = "mean") -> tuple[Tensor, dict[str, float]]:
        """The training loss and what it consists of.

        Args:
            batch: LeRobot's keys; observations (B, n_obs_steps, ...) and ``action`` (B, horizon, A), in the
                units of the data.
            reduction: ``mean``, or ``none`` for that of each row.

        Raises:
            InputError: How long the training is, is not known, or the objective needs a teacher.
        """
        if self.policy.objective.teacher_phases:
            raise InputError(
                "this objective trains in phases with a teacher, which LeRobot's loop has not: train it with "
                "shortcut-train and convert its checkpoint"
            )
        if self.config.begins:
            self._begin()
        progress = self.updates / self._training_steps()
        observed = self._observed(batch)
        losses, metrics = self.policy(
            observed, batch[ACTION], ema=self.averaged, draws=self._draws(), progress=min(progress, 1.0)
        )
        told = {name: value.item() for name, value in metrics.items()}
        return losses if reduction == "none" else losses.mean(), told

    def update(self) -> None:
        """Average the weights; LeRobot calls it after each update."""
        self.ema.update_parameters(self.policy)

    def reset(self) -> None:
        """Begin new episodes: forget observations and actions, and count on."""
        self._history: dict[str, deque[Tensor]] = {
            key: deque(maxlen=self.config.n_obs_steps) for key in self.config.names
        }
        self._actions: deque[Tensor] = deque()
        self._episodes += self._rows
        self._rows = self._chunks = 0

    @torch.no_grad()
    def select_action(self, batch: dict[str, Tensor], **others: Any) -> Tensor:
        """The actions for the step that was just observed, (B, A), in the units of the data.

        Args:
            batch: LeRobot's key -> (B, ...), one step.
            others: What other policies take; not used.
        """
        check_keys(batch, self.config.names)
        # Copies: a robot may write every observation into the same arrays, which on a CPU are these tensors.
        observed = {key: value.clone() for key, value in batch.items() if key in self._history}
        self._history = populate_queues(self._history, observed)
        if not self._actions:
            histories = {key: torch.stack(list(steps), dim=1) for key, steps in self._history.items()}
            self._actions.extend(self.predict_action_chunk(histories).unbind(1))
        return self._actions.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Tensor], **others: Any) -> Tensor:
        """The actions from the last observed step on, (B, n_action_steps, A), in the units of the data.

        Args:
            batch: LeRobot's key -> (B, n_obs_steps, ...).
            others: What other policies take; not used.
        """
        observed = self._observed(batch)
        self._rows = len(next(iter(observed.values())))
        found = self.averaged.act(observed, self.config.sampling_steps, self._noise())
        self._chunks += 1
        return found

    def _noise(self) -> list[torch.Generator] | None:
        """The sources of the noise of the next chunks; None for the global one."""
        seed, first = self.config.sampling_seed, self.config.first_episode + self._episodes
        if seed is None:
            return None
        return [chunk_generator(seed, first + row, self._chunks) for row in range(self._rows)]

    def _observed(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        policy = self.policy
        return observations(batch, self.config.names, policy.obs_shapes, policy.cameras, policy.n_obs_steps)

    def _draws(self) -> Draws:
        """The random numbers of an update: a function of the training's seed and of the update alone.

        LeRobot keeps the state of torch's generator, but other numbers are drawn from it when a run goes on.
        """
        if self.training_seed < 0:
            self.training_seed.random_(0, 2**31)
        seed = int(self.training_seed)
        several = dist.is_available() and dist.is_initialized()
        ranks = (dist.get_rank(), dist.get_world_size()) if several else (0, 1)
        return Draws(seeded_generator(self.policy.device, seed, self.updates), *ranks)

    def _begin(self) -> None:
        """Begin a training: from the averaged weights of the one before, if there was one."""
        self.training_seed.fill_(-1)
        self.policy.load_state_dict(self.averaged.state_dict())
        self.ema.n_averaged.zero_()
        self.config.begins = False

    def _training_steps(self) -> int:
        steps = self.config.training_steps
        if steps is None:
            raise InputError(
                "the length of the training is not known, on which the objective depends: give "
                "--policy.training_steps with the number of --steps"
            )
        return max(steps, 1)

    @classmethod
    def _load_as_safetensor(
        cls: "builtins.type[ShortcutPolicy]",
        model: "ShortcutPolicy",
        model_file: str,
        map_location: str,
        strict: bool,
    ) -> "ShortcutPolicy":
        """Load weights exactly, whatever ``strict`` is, which LeRobot leaves at False."""
        try:
            loaded: ShortcutPolicy = super()._load_as_safetensor(model, model_file, map_location, True)
        except (SafetensorError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())
            raise InputError(
                f"the weights {model_file} cannot be loaded ({reason:.200}); take another checkpoint or copy "
                "this one again"
            ) from error
        if not loaded.averaged.normalizer.fitted:
            raise InputError(f"{model_file} lacks the scaling's statistics; take another checkpoint")
        return loaded


def make_policy(config: ShortcutConfig) -> Policy:
    """The untrained policy of a configuration, whose normaliser has no statistics yet.

    Raises:
        InputError: See `ShortcutPolicy`.
    """
    file = Path(config.pretrained_path or "", "config.json")
    if config.specification:
        check_trust(file, config.specification)
        policy = Policy.from_spec(_with_sizes(config))
    else:
        pictures = list(config.image_features)
        shapes = {key: feature.shape for key, feature in config.observed.items()}
        parts = {
            "objective": recipe("objective", config.objective, **config.objective_settings),
            "backbone": recipe("backbone", config.backbone, **config.backbone_settings),
            "encoder": _encoder(config, [shapes[key] for key in pictures]),
        }
        check_trust(file, parts)
        fields = make_fields(shapes, pictures, config.names)
        (action,) = make_fields({ACTION: config.action_feature.shape}, (), {ACTION: ACTION}).values()
        sizes = (config.horizon, config.n_obs_steps, config.n_action_steps)
        policy = Policy.build(
            fields,
            action,
            *sizes,
            objective=parts["objective"],
            backbone=parts["backbone"],
            encoder=parts["encoder"],
            obs_noise=config.obs_noise,
        )
    policy.metadata = dict(config.metadata)
    return policy


def _with_sizes(config: ShortcutConfig) -> dict[str, Any]:
    """The specification of a trained policy, of whose chunks another number of actions may be played."""
    spec = config.specification
    for name in ("horizon", "n_obs_steps"):
        if getattr(config, name) != spec.get(name):
            raise InputError(
                f"--policy.{name}={getattr(config, name)} cannot be changed: the policy was trained with "
                f"{spec.get(name)}"
            )
    return {**spec, "n_action_steps": config.n_action_steps}


def _encoder(config: ShortcutConfig, pictures: list[tuple[int, ...]]) -> dict[str, Any]:
    """The specification of the encoder; a crop for pictures (C, H, W) of these shapes, if none is given."""
    name = config.encoder or ("image_light" if pictures else "lowdim")
    found = recipe("encoder", name, **config.encoder_settings)
    if "crop" in found and "crop" not in config.encoder_settings:
        found["crop"] = usual_crop(pictures)
    return found
