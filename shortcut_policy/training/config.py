"""What can be set about a training: ``configs/train.yaml``, typed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import AllowInfNan

from shortcut_policy.data.fields import SIZES
from shortcut_policy.errors import InputError
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.settings import (
    SPEC,
    Count,
    Index,
    NotNegative,
    Positive,
    Seed,
    Spec,
    Words,
    check_fields,
    flatten,
    parse,
)

#: A share of what there is that leaves something.
Part = Annotated[float, Ge(0), Lt(1)]
#: Between one thing and the next, in updates; 0 or less for never.
Interval = int


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of the training loop; ``configs/trainer/`` holds the defaults that were found to serve.

    Attributes:
        max_steps: Updates in all.
        batch_size: Windows of an update, over all processes together.
        optimizer: ``muon`` for the network's matrices and AdamW for the rest, or ``adamw`` for all.
        learning_rate: Peak of AdamW's; linear warm-up over ``warmup_steps``, then a cosine to 0,
            or, with ``cooldown``, this rate up to the last part of the updates, so large, and a line to 0. It
            serves short trainings of the shortcut policy, which learns its large steps late.
        matrix_rate: Muon's learning rate, as a multiple of that.
        encoder_rate: Learning rates of the encoder's parameters, as a multiple of the others': 0.1 suits
            pretrained weights.
        warmup_steps: Updates of the warm-up; None for a fourteenth of the run, 500 at most, see `warmup`.
        betas: Of AdamW, two.
        weight_decay: Of both.
        max_grad_norm: Gradients are scaled down to this norm; inf leaves them as they are.
        ema_power: The averaged weights forget with decay ``1 - (1 + n) ** -ema_power`` after n updates,
        ema_max_decay: but never slower than this.
        precision: ``bf16`` for the matrix products, ``fp32``, or ``auto``: bf16 on GPUs that have it and on
            CPUs with tiles for it (AMX); elsewhere it is slower than fp32. See `precision.computes_bf16`.
        compile: Run the network through ``torch.compile``: a minute or more of start-up, faster updates.
        cuda_graph: On a single GPU, with data in memory, launch the gradients of an update as a whole.
        find_unused_parameters: With several processes (torchrun): look in each update for weights that do not
            reach the loss, such as the unused head of a pretrained network. It costs time.
        threads: That compute: a number, or ``auto`` for PyTorch's own (``OMP_NUM_THREADS``, or one a core),
            and on a CPU fewer while other programs use the cores, see `threads.Threads`. Sums are rounded
            otherwise with another number of threads: a training that was disturbed is as good as one that
            was not, but equal to it in every bit only with a number.
        log_every: Updates between lines of the log.
        validate_every: Updates between validations on held-out windows; 0 for never.
        validation_steps: Step counts whose action error is measured there.
        validation_windows: So many held-out windows are measured, or all there are if they are fewer: every
            k-th one, with k = held out / this, rounded down. So there may be almost twice as many.
        checkpoint_every: Updates between checkpoints.
        keep_last: Newest checkpoints that are kept,
        keep_best: and the best others: by the score of the last rollouts, or without these by action error
            (so many of each, if a run has had both),
        keep_every: and those of updates that are a multiple of this, for curves over the training.
        rollout_every: Updates between rollouts in the task's environment; 0 for never.
        rollout_steps: Step counts that are rolled out; those that the objective cannot take are left out.
        rollout_episodes: Episodes of each.
        rollout_seed: Environment seed of the first; not the one of the final evaluation.

    Raises:
        InputError: A setting is not of its type or in its bounds.
    """

    max_steps: Count = 7_000
    batch_size: Count = 128
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: Positive = 1e-3
    matrix_rate: Positive = 2.0
    encoder_rate: Positive = 1.0
    warmup_steps: Index | None = None
    cooldown: Annotated[float, Gt(0), Lt(1)] | None = None
    betas: tuple[Part, Part] = (0.95, 0.999)
    weight_decay: NotNegative = 1e-6
    max_grad_norm: Annotated[float, Gt(0), AllowInfNan()] = 1.0
    ema_power: NotNegative = 0.75
    ema_max_decay: Part = 0.9999
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    compile: bool = False
    cuda_graph: bool = True
    find_unused_parameters: bool = False
    threads: Count | Literal["auto"] = "auto"
    log_every: Count = 50
    validate_every: Interval = 1000
    validation_steps: Sequence[Count] = (1, 4, 16)
    validation_windows: Count = 512
    checkpoint_every: Count = 250
    keep_last: Count = 5
    keep_best: Index = 1
    keep_every: Index | None = None
    rollout_every: Interval = 0
    rollout_steps: Sequence[Count] = (1,)
    rollout_episodes: Count = 20
    rollout_seed: Index = 50_000

    def __post_init__(self) -> None:
        check_fields(self, "trainer.")

    @property
    def warmup(self) -> int:
        """Updates of the warm-up: a fixed number would be a third of a run of a quarter of the length."""
        return min(500, self.max_steps // 14) if self.warmup_steps is None else self.warmup_steps


@dataclass(frozen=True)
class DataConfig:
    """Which demonstrations are trained on and where they are kept, see `DemonstrationDataset`."""

    val_fraction: Part = 0.02
    max_train_episodes: Count | None = None
    memory_limit_mb: NotNegative = 1024.0
    cache: str | None = None
    pad_short_episodes: bool = False
    only: str | None = None
    per_task: str | None = None


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases.

    Attributes:
        mode: ``log.jsonl`` is written in any.
        project: There.
        name: Of the run; that of its folder if None.
    """

    mode: Literal["disabled", "offline", "online"]
    project: str = "shortcut_policy"
    name: str | None = None


@dataclass(frozen=True)
class PolicyTask:
    """Demonstrations of a task, and where it can be tried.

    Attributes:
        name: Of the task; checkpoints of another cannot be begun from.
        source: Of the episodes.
        obs: Name -> field that the policy observes.
        action: The field that it learns.
        horizon: Steps of a window.
        n_obs_steps: Steps of it that are observed.
        n_action_steps: Steps of it that are executed.
        env: Environment to roll out in; None if there is none.
    """

    name: str
    source: Spec
    obs: Annotated[Mapping[str, Any], Words("a mapping of names to fields, one observation at least")]
    action: Spec
    horizon: Count
    n_obs_steps: Count
    n_action_steps: Count
    env: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "task.")
        if not self.obs:
            raise InputError(
                f"task.obs={self.obs} must be a mapping of names to fields, one observation at least"
            )
        if self.env and "_target_" not in self.env:
            raise InputError(
                f"task.env={dict(self.env)} must be a mapping with what makes it, "
                "{_target_: gymnasium.make, id: ...}, or null"
            )
        for name, field in self.obs.items():
            if not isinstance(field, Mapping) or "_target_" not in field:
                raise InputError(f"task.obs.{name}={field} must be {SPEC.text}")

    @property
    def sizes(self) -> dict[str, int]:
        """``horizon``, ``n_obs_steps`` and ``n_action_steps``."""
        return {name: getattr(self, name) for name in SIZES}


@dataclass(frozen=True)
class ImageTask:
    """Images to learn from.

    Attributes:
        name: Of the task.
        source: Of the images.
        flip: Whether every other training image is mirrored, left to right.
        env: None; images have no environment.
    """

    name: str
    source: Spec
    flip: bool = False
    env: None = None


@dataclass(frozen=True)
class TrainingConfig:
    """What a training is made from, ``configs/train.yaml``. See `parse_training`.

    Attributes:
        objective: How to learn,
        backbone: with which network,
        encoder: told what it is conditioned on by this: specifications, see `build`.
        trainer: The loop.
        task: What is learned.
        wandb: Its record elsewhere.
        precondition: Of a skip round the network, see `Preconditioned`; None for none.
        obs_noise: Standard deviation of noise on normalised observations while training; None for none.
        obs_clamp: Largest size of a number of the normalised observations, see `Policy`; None for any.
        prefix_steps: The most actions that the policy takes as given, see `Policy`; 0 for none.
        name: Of the method in tables; the objective's if None.
        output: Run folder; ``runs/<task>_<method>_<backbone>_seed<n>`` if None.
        init_from: Checkpoint whose weights training begins from, see `initialise`.
        encoder_weights: File of pretrained weights for the networks of the cameras, see
            `encoders.weights.load_weights`; random ones if None.
        teacher: Checkpoint of a flow, in place of the first phase of an objective that distils one.
        resume: Go on with the run in the output folder, if it holds one.
        seed: Of the weights, the order of the data and all noise.
        cpu: Leave a GPU alone.
        data: Of demonstrations; None for images, which their source holds out.
        trust: Modules whose classes the checkpoints that it begins from may name, see `load_policy`.
    """

    objective: Spec
    backbone: Spec
    encoder: Spec
    trainer: TrainerConfig
    task: PolicyTask | ImageTask
    wandb: WandbConfig
    precondition: Any = None
    obs_noise: Annotated[float, Gt(0), Words("above 0, a standard deviation, or null for none")] | None = None
    obs_clamp: Annotated[float, Ge(1), Words("at least 1, in normalised units")] | None = None
    prefix_steps: Index = 0
    name: str | None = None
    output: str | None = None
    init_from: str | None = None
    encoder_weights: str | None = None
    teacher: str | None = None
    resume: bool = False
    seed: Seed = 0
    cpu: bool = False
    data: DataConfig | None = None
    trust: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        self._check_task()
        if self.init_from is not None and self.teacher is not None:
            raise InputError(
                f"init_from={self.init_from} and teacher={self.teacher} exclude each other: the student "
                "begins from the teacher's weights; drop one"
            )
        if self.encoder_weights is not None and (self.init_from or self.teacher):
            raise InputError(
                f"encoder_weights={self.encoder_weights}: the checkpoint that the training begins from has "
                "an encoder already; drop one"
            )
        if self.objective.get("first_phase") == 0 and self.teacher is None:
            raise InputError(
                "objective.first_phase=0 trains no teacher: give one as teacher=<checkpoint>, or a share "
                "above 0"
            )

    def _check_task(self) -> None:
        if isinstance(self.task, ImageTask):
            if self.obs_noise is not None:
                raise InputError(f"obs_noise={self.obs_noise} is for policies: images have no observations")
            if self.prefix_steps:
                raise InputError(f"prefix_steps={self.prefix_steps} is for policies: images have no actions")
            return
        if self.data is None:
            raise InputError("data=None must be a mapping; its settings are val_fraction and others")
        images = [name for name, field in self.task.obs.items() if field.get("normalize") == "image"]
        if images and str(self.encoder["_target_"]).endswith(".LowDimEncoder"):
            raise InputError(
                f"task.obs.{images[0]} is an image, whose pixels encoder=lowdim would put end to end: give "
                "encoder=image_light, or another one for cameras"
            )

    def document(self) -> dict[str, Any]:
        """All settings as YAML and JSON hold them, the record of a run."""
        return {name: _plain(value) for name, value in asdict(self).items()}


def parse_training(values: Mapping[str, Any]) -> TrainingConfig:
    """A training's settings from plain values, all of them checked that can be without the data.

    Raises:
        InputError: A setting is not known, is missing, or is not what it can be.
    """
    task, trainer = values.get("task", {}), values.get("trainer")
    if not isinstance(task, Mapping):
        raise InputError(f"task={task} must be a mapping, such as those in {CONFIG_DIR / 'task'}")
    typed = dict(values)
    if task:
        kind: type[PolicyTask | ImageTask] = PolicyTask if {"obs", "action"} & task.keys() else ImageTask
        typed["task"] = parse(kind, task, "task", prefix="task.")
    if isinstance(trainer, Mapping):  # configurations used to name the class
        typed["trainer"] = {key: value for key, value in trainer.items() if key != "_target_"}
    return parse(TrainingConfig, typed, "the configuration", elsewhere=flatten(values))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
