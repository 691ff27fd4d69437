"""What can be set about evaluations in an environment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shortcut_policy.adaptive import Auto
from shortcut_policy.paths import written_out
from shortcut_policy.rollout.chunk_joins import Executor, Joining
from shortcut_policy.rollout.delays import Execution
from shortcut_policy.rollout.evaluate import EvaluationProtocol, RolloutOptions
from shortcut_policy.settings import Count, Index, NotNegative, listed


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings that all commands share which roll policies out.

    Attributes:
        episodes: See `EvaluationProtocol`,
        seed: as well,
        noise_seed: as well,
        batch_size: as well,
        env: as well; None for an environment as the task has it.
        num_envs: See `RolloutOptions`,
        asynchronous: as well,
        overwrite: as well.
        device: Where the policy computes.
        output: Folder of all that is written.
        trust: Modules whose classes a checkpoint may name, see `load_policy`.
    """

    episodes: Count = 50
    seed: Index = 100_000
    noise_seed: Index = 0
    batch_size: Count = 50
    env: Mapping[str, Any] | None = None
    num_envs: Count = 50
    asynchronous: bool | None = None
    overwrite: bool = False
    device: str = "cpu"
    output: Path = field(default=Path("outputs"))
    trust: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", written_out(self.output))

    @property
    def protocol(self) -> EvaluationProtocol:
        """What decides the numbers."""
        env = {str(key): value for key, value in (self.env or {}).items()}
        return EvaluationProtocol(self.episodes, self.seed, self.noise_seed, self.batch_size, env)

    @property
    def options(self) -> RolloutOptions:
        """What does not, without films and figures."""
        return RolloutOptions(self.num_envs, self.asynchronous, overwrite=self.overwrite)


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(EvaluationConfig):
    """Settings of a rollout of checkpoints; ``configs/rollout.yaml`` describes them.

    Attributes:
        checkpoint: A checkpoint folder or run folder, or several.
        steps: Step counts, "auto" among them.
        tolerance: Of "auto", see `Auto`.
        guidance: See `Policy.act`.
        executor: See `Joining`,
        fade: as well,
        decay: as well.
        delay: See `Execution`,
        sensor_delay: as well,
        jitter: as well,
        every: as well.
        videos: See `RolloutOptions`,
        plot: as well.
    """

    checkpoint: str | Sequence[str]
    steps: Count | Literal["auto"] | Sequence[Count | Literal["auto"]] = (1,)
    tolerance: NotNegative = Auto.tolerance
    guidance: float | None = None
    executor: Executor = "switch"
    fade: Index = 1
    decay: NotNegative = 0.01
    delay: Index = 0
    sensor_delay: Index = 0
    jitter: Index = 0
    every: Count | None = None
    videos: Index = 0
    plot: bool = True

    @property
    def checkpoints(self) -> list[str]:
        """Their paths, one at least."""
        return listed("checkpoint", self.checkpoint)

    @property
    def step_counts(self) -> list[int | Auto]:
        """Step counts, one at least."""
        counts = listed("steps", self.steps)
        return [Auto(self.tolerance) if steps == "auto" else steps for steps in counts]

    @property
    def execution(self) -> Execution:
        """Delays, and how chunks are joined."""
        joining = Joining(self.executor, self.fade, self.decay)
        return Execution(joining, self.delay, self.sensor_delay, self.jitter, self.every)

    @property
    def options(self) -> RolloutOptions:
        """What does not decide the numbers, films and figures among it."""
        return RolloutOptions(self.num_envs, self.asynchronous, self.videos, self.plot, self.overwrite)
