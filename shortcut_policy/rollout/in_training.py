"""Evaluation of a policy while it is trained."""

import sys
from collections.abc import Sequence

from shortcut_policy.errors import InputError
from shortcut_policy.model import Model
from shortcut_policy.objectives.base import usable_steps
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.evaluate import environment_maker
from shortcut_policy.rollout.play import rollout, try_environment
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.trainer import Rollouts


def rollouts_in(model: Model, trainer: TrainerConfig, seed: int) -> Rollouts:
    """What rolls a policy out in its task's environment: score and success of each step count.

    Args:
        model: Whose metadata names the environment; it is tried here, before hours of training.
        trainer: Its settings of rollouts.
        seed: Of the sampling noise.

    Raises:
        InputError: The task has no environment, or one that does not fit.
    """
    if not isinstance(model, Policy) or not model.metadata["task"]["env"]:
        raise InputError(
            f"trainer.rollout_every={trainer.rollout_every} needs an environment, and the task has none; "
            "set task.env, or trainer.rollout_every=0"
        )
    counts = usable_steps(model.objective, trainer.rollout_steps, "trainer.rollout_steps")
    make_env = environment_maker(model, {})
    _say_untaught(model, trainer, counts)
    try_environment(model, make_env, counts[0])
    seeds = range(trainer.rollout_seed, trainer.rollout_seed + trainer.rollout_episodes)

    def evaluate(policy: Model, step: int) -> dict[str, float]:
        assert isinstance(policy, Policy)
        values: dict[str, float] = {}
        for steps in counts:
            results = rollout(policy, make_env, seeds, steps, seed=seed)
            values[f"score_{steps}"] = sum(r.score for r in results) / len(results)
            values[f"success_{steps}"] = sum(r.success for r in results) / len(results)
        return values

    return evaluate


def _say_untaught(model: Model, trainer: TrainerConfig, counts: Sequence[int]) -> None:
    """On stderr, which rollouts come before the network has learned their steps: low scores mean nothing."""
    for steps in counts:
        first = model.objective.first_update(steps, trainer.max_steps)
        if trainer.rollout_every <= first:
            print(
                f"trainer.rollout_every={trainer.rollout_every}: steps={steps} are learned from update "
                f"{first} on, and rollouts before that will fail",
                file=sys.stderr,
            )
