"""Our optimizers and schedule, as LeRobot's training loop wants them: one of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lerobot.optim import DiffuserSchedulerConfig, LRSchedulerConfig, OptimizerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from shortcut_policy.errors import InputError
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.optimizers import make_optimizers
from shortcut_policy.training.schedules import set_rate

#: Under which `ShortcutPolicy.get_optim_params` hands over the module that is trained.
MODULE = "module"


class Joined(Optimizer):
    """Several optimizers of different parameters, as one: it has all their groups, and all their state.

    Args:
        optimizers: What it steps.
    """

    def __init__(self, optimizers: list[Optimizer]) -> None:
        self.parts = optimizers
        for part in optimizers:
            set_rate(part, part.defaults["lr"], None)
        super().__init__([group for part in optimizers for group in part.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> Any:
        """One update of each."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """All state, each tensor in one piece, as LeRobot's file needs it; some parameters lie otherwise."""
        found: dict[str, Any] = super().state_dict()
        entries = {
            number: {name: _in_one_piece(value) for name, value in entry.items()}
            for number, entry in found["state"].items()
        }
        return {**found, "state": entries}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state of another one, and give each optimizer its part."""
        super().load_state_dict(dict(state_dict))
        for parameter, entry in self.state.items():
            for name, value in entry.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    # Laid out as the parameter: fused optimizers walk through the memory of both.
                    entry[name] = torch.empty_like(parameter).copy_(value)
        self._share()

    def _share(self) -> None:
        """Let the optimizers look at the groups and the state of this one, which may be new objects."""
        first = 0
        for part in self.parts:
            part.param_groups = self.param_groups[first : first + len(part.param_groups)]
            part.state = self.state
            first += len(part.param_groups)


def _in_one_piece(value: Any) -> Any:
    return value.contiguous() if isinstance(value, Tensor) else value


@OptimizerConfig.register_subclass("shortcut")
@dataclass
class ShortcutOptimizerConfig(OptimizerConfig):
    """Settings of `shortcut_policy.training.optimizers.make_optimizers`; see `TrainerConfig`."""

    lr: float = TrainerConfig.learning_rate
    weight_decay: float = TrainerConfig.weight_decay
    grad_clip_norm: float = TrainerConfig.max_grad_norm
    optimizer: str = TrainerConfig.optimizer
    matrix_rate: float = TrainerConfig.matrix_rate
    encoder_rate: float = TrainerConfig.encoder_rate
    betas: tuple[float, float] = TrainerConfig.betas

    def build(self, params: Any) -> Optimizer:
        """The optimizer of what `ShortcutPolicy.get_optim_params` returns.

        Raises:
            InputError: The parameters are those of another policy, or a setting is out of its bounds.
        """
        if not isinstance(params, Mapping) or MODULE not in params:
            raise InputError(
                "the optimizer 'shortcut' is made for --policy.type=shortcut with "
                "--use_policy_training_preset=true; give --optimizer.type=adamw for other policies"
            )
        config = TrainerConfig(
            optimizer=self.optimizer,  # type: ignore[arg-type]  # checked there
            learning_rate=self.lr,
            matrix_rate=self.matrix_rate,
            encoder_rate=self.encoder_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            max_grad_norm=self.grad_clip_norm,
        )
        return Joined(make_optimizers(params[MODULE], config))


@LRSchedulerConfig.register_subclass("shortcut")
@dataclass
class ShortcutSchedulerConfig(DiffuserSchedulerConfig):
    """LeRobot's own cosine with a warm-up, which is ours as well, and a word to the policy.

    The objective depends on how much of the training is done, and LeRobot tells the length of a training to
    its schedule alone. A training that goes on has its schedule from a file, and knows its length already.
    """

    def __post_init__(self) -> None:
        #: Whose training begins; no setting, so that it is not stored.
        self.policy_config: Any = None

    def build(self, optimizer: Optimizer, num_training_steps: int) -> LambdaLR:
        """The schedule for so many updates."""
        if self.policy_config is not None:
            self.policy_config.training_steps, self.policy_config.begins = num_training_steps, True
        warmup = self.num_warmup_steps
        if warmup is None:
            warmup = TrainerConfig(max_steps=num_training_steps).warmup
        return DiffuserSchedulerConfig(name=self.name, num_warmup_steps=warmup).build(
            optimizer, num_training_steps
        )
