"""The policy: normaliser, observation encoder, step map and objective, and the one way to act with them."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shortcut_policy.adaptive import Auto, Sample, Steps, StepTimes, check_deadline, check_steps, sample_auto
from shortcut_policy.backbones import evaluate
from shortcut_policy.checkpoint import save_model
from shortcut_policy.control import StepwiseControl, check_finite
from shortcut_policy.data import Field, Normalizer
from shortcut_policy.data.fields import ACTION, read_fields, read_sizes
from shortcut_policy.encoders.crops import Augmenting
from shortcut_policy.encoders.prefix import CommittedPrefix
from shortcut_policy.errors import InputError
from shortcut_policy.model import Model, build_parts
from shortcut_policy.objectives import Draws, Metrics, Objective
from shortcut_policy.objectives.base import Generators
from shortcut_policy.plain import plain_json
from shortcut_policy.pretrained import Pretrained
from shortcut_policy.recipes import specification, training_default
from shortcut_policy.runtimes.compiled import Compiled
from shortcut_policy.runtimes.export import is_export
from shortcut_policy.settings import LARGEST_SEED, check_number, check_whole


class Policy(StepwiseControl, Compiled, Pretrained):
    """Acts on observations in environment units, and computes its own training loss.

    Args:
        obs: Observation fields by name.
        action: The action field, of shape (A,).
        horizon: T, steps of an action chunk as the network predicts it.
        n_obs_steps: Observed steps; the chunk begins with the first of them.
        n_action_steps: Steps of the chunk that are executed, from the last observed step on.
        encoder: Observation encoder, ``{name: (B, n_obs_steps, *shape)} -> (B, C)``.
        backbone: Step map over action chunks.
        objective: How it is trained and sampled.
        obs_noise: Standard deviation of what is added to each number of the normalised observations, but to
            no picture, while training, so that a small set of demonstrations is not learned by heart (Bishop
            1995); None adds nothing.
        obs_clamp: Observations that are scaled by data (``limits`` and ``gaussian``, without ``unscaled``
            elements) are kept within this size, normalised, in training and at play: a sensor that fails
            cannot carry the network far away from what it knows. None for any size.
        prefix_steps: K, the most actions that `act` takes as a ``prefix``; training gives 0 to K of them.

    Raises:
        InputError: ``obs_noise`` is not a number above 0, or ``obs_clamp`` below 1.

    Attributes:
        normalizer: Scaling between environment and network units; buffers of this module.
        spec: The specification that it was built from, as stored in a checkpoint.
        metadata: What is known of a trained policy: method, task, dataset, updates, commit and so on.
    """

    def __init__(
        self,
        obs: Mapping[str, Field],
        action: Field,
        horizon: int,
        n_obs_steps: int,
        n_action_steps: int,
        encoder: nn.Module,
        backbone: nn.Module,
        objective: Objective,
        obs_noise: float | None = None,
        obs_clamp: float | None = None,
        prefix_steps: int = 0,
    ) -> None:
        super().__init__(Normalizer.empty({**obs, ACTION: action}), encoder, backbone, objective)
        if obs_noise is not None:
            words = "above 0, a standard deviation, or null for none"
            check_number("obs_noise", obs_noise, lambda std: std > 0, words)
        self.obs_noise, self.obs_clamp = obs_noise, obs_clamp
        self.obs_shapes = {name: field.shape for name, field in obs.items()}
        self.cameras = frozenset(name for name, field in obs.items() if field.normalize == "image")
        (self.action_dim,) = action.shape
        self.horizon, self.n_obs_steps, self.n_action_steps = horizon, n_obs_steps, n_action_steps
        self.prefix = CommittedPrefix(prefix_steps, n_obs_steps - 1, self.action_dim)
        self._step_times = StepTimes()

    @classmethod
    def build(
        cls,
        obs: Mapping[str, Field],
        action: Field,
        horizon: int = 16,
        n_obs_steps: int = 2,
        n_action_steps: int = 8,
        *,
        objective: str | Mapping[str, Any] = "weighted_shortcut",
        backbone: str | Mapping[str, Any] = "unet",
        encoder: str | Mapping[str, Any] = "lowdim",
        precondition: Mapping[str, float] | Literal["default"] | None = "default",
        obs_noise: float | None = None,
        obs_clamp: float | None = None,
        prefix_steps: int = 0,
        seed: int = 0,
        task: str | None = None,
        env: Mapping[str, Any] | None = None,
    ) -> "Policy":
        """An untrained policy with the recipe of ``scripts/train.py``, for a `Trainer` to fit.

        Args:
            obs: Observation fields by name.
            action: The action field, of shape (A,).
            horizon: See `Policy`; a multiple of 4 for the UNet.
            n_obs_steps: See `Policy`.
            n_action_steps: See `Policy`.
            objective: Name of a file in ``configs/objective``, or a specification: `recipe` makes one with
                other settings, and ``{"_target_": "my_module.MyObjective", ...}`` is one of your own.
            backbone: The same, in ``configs/backbone``.
            encoder: The same, in ``configs/encoder``.
            precondition: Arguments of `Preconditioned`; None for none, by default those of
                ``configs/train.yaml``.
            obs_noise: See `Policy`.
            obs_clamp: See `Policy`.
            prefix_steps: See `Policy`.
            seed: Of the weights.
            task: Name of the task; that of the data if None.
            env: Specification of the task's environment, for ``scripts/rollout.py``, such as
                ``{"_target_": "gymnasium.make", "id": "my_module:Reach-v0"}``; None for none.

        Raises:
            InputError: The sizes contradict each other, a part has no such setting or is not known, or it is
                given something that a checkpoint's JSON cannot hold.

        Example:
            >>> obs = {"state": Field("state", shape=(4,))}
            >>> policy = Policy.build(obs, Field("action", shape=(2,)), backbone="unet_small")
        """
        obs, action = read_fields(obs, action)
        images = [name for name, field in obs.items() if field.normalize == "image"]
        if images and encoder == "lowdim":
            raise InputError(f"{images[0]} is an image: give encoder='image_light' in place of 'lowdim'")
        if env is not None and (not isinstance(env, Mapping) or "_target_" not in env):
            raise InputError(f'env={env!r} must be a mapping, {{"_target_": "gymnasium.make", "id": ...}}')
        check_whole("seed", seed, 0, LARGEST_SEED)
        if precondition == "default":
            precondition = training_default("precondition")
        spec = {
            "encoder": specification("encoder", encoder),
            "backbone": specification("backbone", backbone),
            "precondition": precondition,
            "objective": specification("objective", objective),
            "obs": {name: field.to_spec() for name, field in obs.items()},
            "action": action.to_spec(),
            "horizon": horizon,
            "n_obs_steps": n_obs_steps,
            "n_action_steps": n_action_steps,
            "obs_noise": obs_noise,
            "obs_clamp": obs_clamp,
            "prefix_steps": prefix_steps,
        }
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            policy = cls.from_spec(spec)
        if task is not None or env is not None:
            policy.metadata["task"] = plain_json({"name": task, "env": env}, "task")
        return policy

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> "Policy":
        """Build an untrained policy, whose normaliser has no statistics yet.

        Args:
            spec: Plain mapping with ``obs``, ``action``, ``horizon``, ``n_obs_steps``, ``n_action_steps``,
                perhaps ``obs_noise``, ``obs_clamp`` and ``prefix_steps``, and what `build_parts` takes.

        Raises:
            InputError: It holds what JSON cannot, or its parts cannot be built or do not fit each other.
        """
        spec = plain_json(spec)
        sizes, (obs, action) = read_sizes(spec), read_fields(spec["obs"], spec[ACTION])
        shapes = {name: field.shape for name, field in obs.items()}
        parts = build_parts(
            spec,
            {"obs_shapes": shapes, "n_obs_steps": spec["n_obs_steps"]},
            {"action_dim": action.shape[0], "horizon": spec["horizon"]},
            unbounded=action.normalize == "gaussian",
            prefix_dim=sizes["prefix_steps"] * (action.shape[0] + 1),
        )
        noise, clamp = spec.get("obs_noise"), spec.get("obs_clamp")
        policy = cls(obs=obs, action=action, **sizes, **parts, obs_noise=noise, obs_clamp=clamp)
        policy.spec = dict(spec)
        return policy

    @classmethod
    def traits(cls, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Horizon and observed steps, order of the observations, and key, shape and scaling of each field."""
        traits = {"obs": list(spec["obs"]), "horizon": spec["horizon"], "n_obs_steps": spec["n_obs_steps"]}
        obs, action = read_fields(spec["obs"], spec[ACTION])
        for name, field in ({f"obs.{name}": field for name, field in obs.items()} | {ACTION: action}).items():
            traits |= {f"{name}.shape": list(field.shape), f"{name}.normalize": field.normalize}
            traits[f"{name}.unscaled"] = list(field.unscaled)
            traits |= {f"{name}.key": field.key, f"{name}.columns": field.elements}
        return traits

    @torch.no_grad()
    def act(
        self,
        obs: Mapping[str, Any],
        steps: Steps = 1,
        generator: Generators = None,
        *,
        deadline_ms: float | None = None,
        guidance: float | None = None,
        prefix: Any = None,
    ) -> Tensor:
        """Choose the next actions.

        Args:
            obs: name -> (B, n_obs_steps, *shape), tensors or arrays in environment units, oldest step first.
                At the start of an episode the first observation fills the history. Names that the policy does
                not know are ignored.
            steps: Sampling steps; which numbers are allowed is the objective's to say. ``"auto"``, or `Auto`
                with a tolerance of your own, takes more of them where the policy finds its own error large.
            generator: Source of the noise: one generator for all rows, or a list of B, and then row i
                depends on generator i alone. The global generator if None.
            deadline_ms: Take the most steps that fit into so many milliseconds, in place of ``steps``. The
                first call for a batch size on a device measures how long they take, for some seconds.
            guidance: How strongly to follow the observation, for a policy that was trained with a range of
                scales; the lowest of them if None.
            prefix: (B, k, A) in environment units, the k <= ``prefix_steps`` actions from the last observed
                step on that are executed anyway: they come back, and the others continue them; None for none.

        Returns:
            (B, n_action_steps, A) in environment units, float32 whatever type the policy was cast to: the
            actions from the last observed step on.

        Raises:
            InputError: An observation that is missing or of another shape, a step count that the objective
                cannot take, a deadline that is too short for the fewest steps, or a guidance or a prefix
                that was not trained.
        """
        if deadline_ms is not None:
            check_deadline(deadline_ms, steps)
            steps = self._steps_within(deadline_ms, obs)
        return self.executed(self.predict(obs, steps, generator, guidance, prefix))

    def predict(
        self,
        obs: Mapping[str, Any],
        steps: Steps = 1,
        generator: Generators = None,
        guidance: float | None = None,
        prefix: Any = None,
    ) -> Tensor:
        """The whole chunk of which `act` returns the executed part, (B, horizon, A)."""
        return self.predict_with_cost(obs, steps, generator, guidance, prefix).x

    @torch.no_grad()
    def predict_with_cost(
        self,
        obs: Mapping[str, Any],
        steps: Steps = 1,
        generator: Generators = None,
        guidance: float | None = None,
        prefix: Any = None,
    ) -> Sample:
        """The chunks of `predict`, with what was spent on each, and its gap if steps are automatic."""
        steps = check_steps(self.objective, steps)
        tensors = self.check_histories(obs)
        given = self.prefix.check(prefix, len(next(iter(tensors.values()))), self.device)
        if given is not None and not self.normalizer.is_near(ACTION, given):
            self.normalizer.say_far({ACTION: given}, of="prefix")
        if self.runtime is not None:
            return self.run_compiled(tensors, steps, generator, guidance, given)
        if given is not None:
            tensors[ACTION] = self.prefix.condition(self.normalizer.normalize(ACTION, given))
        cond = self.objective.sampling_cond(self.encode(tensors), guidance)
        noise = self.noise(len(cond), (self.horizon, self.action_dim), generator)

        def draw(count: int) -> Tensor:
            return self.objective.sample(partial(evaluate, self.backbone), noise, cond, count, generator)

        if isinstance(steps, int):
            cost = self.objective.network_evaluations(steps)
            found = Sample(draw(steps), torch.full((len(cond),), cost, device=self.device), gap=None)
        else:
            found = sample_auto(draw, self.objective, Auto() if steps == "auto" else steps)
        x = self.normalizer.unnormalize(ACTION, found.x).float()
        check_finite(x, tensors)
        return found._replace(x=self.prefix.kept(x, given))

    def executed(self, chunk: Tensor) -> Tensor:
        """The part of a chunk (B, horizon, A) that is executed, (B, n_action_steps, A)."""
        return chunk[:, self.n_obs_steps - 1 : self.n_obs_steps - 1 + self.n_action_steps]

    def encode(self, given: Mapping[str, Tensor]) -> Tensor:
        """Observations in environment units, name -> (B, n_obs_steps, *shape), to the condition (B, C).

        Under the action's name: a prefix, see `CommittedPrefix.condition`.
        """
        parameter = next(self.encoder.parameters(), None)
        normalized = self._normalized(given)
        if parameter is not None:
            normalized = {name: value.to(parameter.dtype) for name, value in normalized.items()}
        return self.prefix.added(self.encoder(normalized), given.get(ACTION))

    def forward(
        self,
        obs: Mapping[str, Tensor],
        action: Tensor,
        ema: Model,
        draws: Draws,
        progress: float = 0.0,
        teacher: Model | None = None,
    ) -> tuple[Tensor, Metrics]:
        """Training loss of each row, (B,), and metrics; see `Model.losses`.

        Args:
            obs: name -> (B, n_obs_steps, *shape) in environment units.
            action: (B, horizon, A) in environment units.
            ema: The policy with averaged weights.
            draws: Source of all random numbers.
            progress: Part of the training done, in [0, 1].
            teacher: A frozen policy, for the objectives that distil one.
        """
        x_1 = self.normalizer.normalize(ACTION, action)
        if self.training and isinstance(self.encoder, Augmenting):
            obs = self.encoder.augment(obs, draws)
        if self.training and self.obs_noise is not None:
            obs = self.normalizer.disturbed(obs, self.cameras, self.obs_noise, draws.normal_like)
        if self.prefix.steps:
            obs = {**obs, ACTION: self.prefix.draw(x_1, draws)}
        return self.losses(x_1, obs, ema, draws, progress, teacher)

    @torch.no_grad()
    def validation_errors(
        self, batch: Mapping[str, Any], steps: int, generator: torch.Generator
    ) -> dict[str, float]:
        """``action_error_<steps>``: mean Euclidean distance between sampled and demonstrated actions.

        Of the executed part of the chunk, in environment units.
        """
        error = self.act(batch["obs"], steps, generator) - self.executed(batch[ACTION])
        return {f"action_error_{steps}": error.norm(dim=-1).mean().item()}

    def _normalized(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {name: self.normalizer.normalize(name, obs[name]) for name in self.obs_shapes}
        if self.obs_clamp is None:
            return found
        return {name: self.normalizer.clamped(name, x, self.obs_clamp) for name, x in found.items()}

    def _steps_within(self, deadline_ms: float, obs: Mapping[str, Any]) -> int:
        """The most sampling steps that fit into the deadline for a batch of this size."""
        if self.runtime is not None:
            words = f"chooses a number of steps, and this export takes steps={self.runtime.steps} alone"
            raise InputError(f"deadline_ms={deadline_ms} {words}: leave it out")
        rows = len(self.check_histories(obs)[next(iter(self.obs_shapes))])
        # Timing must not touch the caller's random numbers.
        generator = torch.Generator().manual_seed(0)
        return self._step_times.most_within(
            deadline_ms,
            self.objective,
            lambda steps: self.act(obs, steps, generator).cpu(),
            setting=f"batch size {rows} on {self.device}",
        )


def load_policy(
    path: str | Path, device: str | torch.device = "cpu", trust: str | Sequence[str] | None = ()
) -> Policy:
    """Load a trained policy, ready to act: `Policy.from_pretrained` in short.

    Args:
        path: A checkpoint folder; a run folder, whose newest checkpoint is taken; ``hf://user/name``; or what
            ``scripts/export.py`` has written.
        device: Where to put it; exports run on the CPU.
        trust: Modules of yours whose classes the checkpoint may name, such as ``["my_module"]``; the classes
            of this library, ``torch.nn`` and gymnasium's environments need none. ``native`` for exports of
            the formats aoti and torch_export, whose files run code.

    Raises:
        InputError: There is no checkpoint or no such device, or its files are damaged or do not fit each
            other, or what they hold makes images; or it names code that is not trusted, and then none of that
            has run.
    """
    return (Policy.from_export if is_export(path) else Policy.from_pretrained)(path, device, trust)


def save_policy(policy: Policy, folder: str | Path) -> None:
    """Write weights, statistics, specification and metadata of a policy into a folder; no model card.

    Raises:
        InputError: The policy has no specification, so that it could not be loaded again, or it says
            something of itself that JSON cannot hold.
    """
    save_model(policy, folder)
