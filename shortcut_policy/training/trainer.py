"""The training loop."""

import copy
import math
import signal
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from shortcut_policy.checkpoint import (
    checkpoint_step,
    list_checkpoints,
    load_training_state,
    read_description,
    remove_folder,
    save_checkpoint,
)
from shortcut_policy.errors import InputError, TrainingError
from shortcut_policy.model import Model
from shortcut_policy.objectives import Draws
from shortcut_policy.objectives.base import loss_phase, teacher_phase
from shortcut_policy.training.batches import BatchStream, seeded_generator
from shortcut_policy.training.config import TrainerConfig
from shortcut_policy.training.cuda_graph import Captured, Compute
from shortcut_policy.training.log import RunLog
from shortcut_policy.training.optimizers import make_optimizers
from shortcut_policy.training.threads import Threads
from shortcut_policy.training.validation import validate

#: Keys that keep the random streams of the different uses of one seed apart.
NOISE, ORDER, VALIDATION = range(3)
#: Windows that an error names, at most.
REPORTED = 8

Weights = tuple[Tensor, ...] | list[Tensor]
Rollouts = Callable[[Model, int], dict[str, float]]
#: Given the model and the step, draws what it samples into a file.
Pictures = Callable[[Model, int], Path]


class Dataset(Protocol):
    """What the trainer sees of demonstrations, or of images.

    Attributes:
        train: A row for each example to train on; their first axis is all that the trainer knows of them.
        val: The same for those held out; may be empty.
    """

    train: Tensor
    val: Tensor

    @property
    def in_memory(self) -> bool:
        """Whether `batch` gathers on the device alone, without waiting for anything."""
        ...

    def batch(self, rows: Tensor, /) -> Mapping[str, Any]:
        """The arguments of the model's ``forward`` for rows of ``train`` or ``val``."""
        ...

    def to(self, device: torch.device, /) -> "Dataset":
        """Move everything to where batches are to be made; returns self."""
        ...


class Trainer:
    """Fits a model to its data: warm-up and cosine, clipping, averaged weights, checkpoints.

    The state after n updates is a function of the configuration and the seed: order and noise are drawn from
    (seed, step), so a run that was stopped, however, goes on exactly as if it had not been
    (on a device of the same kind: a GPU and a CPU draw other noise; and with the same number of threads, on
    which the rounding of sums depends: `TrainerConfig.threads`).

    An objective may divide a run into phases (`Objective.teacher_phases`). Each is a training of its own, as
    in progressive distillation (Salimans and Ho 2022): the averaged model so far becomes the frozen teacher,
    and the student goes on from its weights with a new optimizer state, average, warm-up and cosine.

    Args:
        model: With a fitted normaliser.
        dataset: Its data.
        config: Settings of the loop.
        output: Run folder.
        seed: Of the order of the data and all noise.
        rollouts: Evaluates the averaged model in its environment every ``config.rollout_every`` updates:
            given the model and the step, returns named scores, the first of which selects the best
            checkpoint.
        cpu: Do not use a GPU.
        pictures: Called with the averaged model at every validation.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        config: TrainerConfig,
        output: Path,
        seed: int,
        rollouts: Rollouts | None = None,
        cpu: bool = False,
        pictures: Pictures | None = None,
    ) -> None:
        self.config, self.output, self.seed = config, output, seed
        self.rollouts, self.pictures = rollouts, pictures
        # Without a GPU accelerate would take the processes of torchrun for as many trainings.
        self.accelerator = Accelerator(cpu=cpu or not torch.accelerator.is_available())
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        if config.batch_size % world:
            raise InputError(
                f"trainer.batch_size={config.batch_size} is shared by {world} processes and must be a "
                "multiple of that"
            )
        self.device = self.accelerator.device
        self.dataset = dataset.to(self.device)
        self.stream = BatchStream(len(dataset.train), config.batch_size, _mix(seed, ORDER), rank, world)
        self.phase = 0
        self.phase_starts = [0, *_phase_starts(model.objective.teacher_phases, config.max_steps)]
        self.teacher: Model | None = None
        self.model = model.to(self.device)
        self.ema = AveragedModel(self.model, multi_avg_fn=self._average).eval()
        # Nothing here draws from the global generator, but a network with dropout does.
        torch.manual_seed(seed)
        self.step, self.seconds = 0, 0.0
        self.selection: dict[str, float] = {}
        self.since_log: list[dict[str, Tensor]] = []
        if self.device.type == "cuda" and config.computes_bf16:
            # The optimizer's matrices, which stay float32: 19 bits of them suffice where bfloat16 does.
            torch.set_float32_matmul_precision("high")
        if config.compile:
            self.model.backbone.compile()
            self.ema_model.backbone.compile()
        self.wrapped, *self.optimizers = self.accelerator.prepare(
            self.model, *make_optimizers(self.model, config)
        )
        self.captures = (
            config.cuda_graph
            and self.device.type == "cuda"
            and world == 1
            and dataset.in_memory
            and model.objective.capturable
        )
        self.captured: tuple[int, Captured] | None = None
        self.schedules = self._phase_schedules()

    @property
    def ema_model(self) -> Model:
        """The model with averaged weights: the one that is evaluated and saved."""
        return cast(Model, self.ema.module)

    def resume(self) -> None:
        """Go on from the newest checkpoint of the run folder, if there is one."""
        checkpoints = list_checkpoints(self.output)
        if not checkpoints:
            return
        state = load_training_state(checkpoints[-1], self.device)
        self.model.load_state_dict(state["policy"])
        self.ema.load_state_dict(state["ema"])
        self.phase = state["phase"]
        if state["teacher"] is not None:
            self.teacher = self._frozen_copy()
            self.teacher.load_state_dict(state["teacher"])
        self.schedules = self._phase_schedules()
        for parts, states in (
            (self.optimizers, state["optimizers"]),
            (self.schedules, state["schedules"]),
        ):
            for part, own in zip(parts, states, strict=True):
                part.load_state_dict(own)
        for optimizer in self.optimizers:
            self._set_rates(optimizer, float(optimizer.param_groups[0]["lr"]))
        torch.set_rng_state(state["torch_rng"].cpu())
        self.step, self.seconds, self.selection = state["step"], state["seconds"], state["selection"]
        self.since_log = state["since_log"]

    def fit(self, log: RunLog | None) -> None:
        """Train up to ``max_steps``.

        Args:
            log: Of the main process; None in the others.

        Raises:
            TrainingError: A loss or gradient is not finite; or SystemExit after SIGINT or SIGTERM, once the
                state is saved.
        """
        config, main = self.config, self.accelerator.is_main_process
        progress = tqdm(
            total=config.max_steps,
            initial=self.step,
            desc=self.output.name,
            unit="update",
            disable=not main,
            mininterval=1.0,
            dynamic_ncols=True,
        )
        threads = Threads(config.threads, self.device)
        with progress, _StopSignals() as signals, closing(threads):
            started, base_seconds = time.perf_counter(), self.seconds
            while self.step < config.max_steps:
                with threads:
                    self.since_log.append(self._update())
                self.step += 1
                self.seconds = base_seconds + time.perf_counter() - started
                progress.update()
                if self._due(config.log_every):
                    values = self._reduce(self.since_log)
                    self.since_log.clear()
                    progress.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                    self._write(log, "train", values)
                if self._due(config.validate_every) and len(self.dataset.val):
                    self._validate(log)
                if self._due(config.validate_every) and self.pictures is not None:
                    self._draw(log)
                if self._due(config.rollout_every) and self.rollouts is not None:
                    self._roll_out(log)
                stop = self._any(signals.received is not None)
                if stop or self._due(config.checkpoint_every):
                    self._save()
                if stop:
                    self._leave(signals.received)

    def _update(self) -> dict[str, Tensor]:
        """One step of the optimizer; returns detached metrics."""
        progress = self.step / self.config.max_steps
        if teacher_phase(self.model.objective, progress) > self.phase:
            self._next_phase()
        rows = self.stream.rows(self.step)
        generator = seeded_generator(self.device, self.seed, NOISE, self.step)
        metrics = self._computation(progress, rows)(rows, generator)
        losses = metrics.pop("losses")
        if not math.isfinite(metrics["grad_norm"].item()):
            self._report_non_finite(losses, rows)
        for schedule in self.schedules:
            schedule.step()
        self.ema.update_parameters(self.model)
        return metrics

    def _computation(self, progress: float, rows: Tensor) -> Compute:
        """`_optimize` at this point of the training: as one launch, where that is possible."""
        compute = partial(self._optimize, progress)
        if not self.captures:
            return compute
        phase = loss_phase(self.model.objective, progress)
        if self.captured is None or self.captured[0] != phase:
            self.captured = None  # frees its memory first
            self.captured = phase, Captured(compute, rows, self.device)
        return self.captured[1]

    def _optimize(self, progress: float, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Loss, clipped gradients and new weights; returns the losses (B,) and scalars to log."""
        batch = self.dataset.batch(self.dataset.train[rows.to(self.device)])
        draws = Draws(generator, self.accelerator.process_index, self.accelerator.num_processes)
        # Not left to accelerate, which allows one precision in a process. bf16 needs no gradient scaling.
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.computes_bf16):
            losses, metrics = self.wrapped(
                **batch, ema=self.ema_model, draws=draws, progress=progress, teacher=self.teacher
            )
        loss = losses.mean()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        return {
            "losses": losses.detach(),
            "loss": loss.detach(),
            "grad_norm": norm.detach(),
            **metrics,
        }

    def _next_phase(self) -> None:
        """Freeze the averaged model as the teacher, and begin a new training from its weights."""
        self.phase += 1
        self.teacher = self._frozen_copy()
        self.model.load_state_dict(self.ema_model.state_dict())
        self.ema.n_averaged.zero_()
        for optimizer in self.optimizers:
            optimizer.state.clear()
        self.schedules = self._phase_schedules()

    def _frozen_copy(self) -> Model:
        teacher = copy.deepcopy(self.ema_model).requires_grad_(False).eval()
        if self.config.compile:
            teacher.backbone.compile()
        return teacher

    def _phase_schedules(self) -> list[LRScheduler]:
        """Warm-up and cosine over the current phase, each as long as its share of the run."""
        from diffusers.optimization import get_scheduler  # seconds, which only training needs

        config = self.config
        start, end = [*self.phase_starts, config.max_steps][self.phase : self.phase + 2]
        for optimizer in self.optimizers:
            self._set_rates(optimizer, optimizer.defaults["lr"])
        return [
            get_scheduler(
                "cosine",
                optimizer,
                num_warmup_steps=round(config.warmup_steps * (end - start) / config.max_steps),
                num_training_steps=end - start,
            )
            for optimizer in self.optimizers
        ]

    def _set_rates(self, optimizer: Optimizer, rate: float) -> None:
        """Set the learning rate: a number, but for a CUDA graph, which would keep it, a tensor."""
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(rate, device=self.device) if self.captures else rate
            if "capturable" in group:
                group["capturable"] = self.captures

    def _average(self, averaged: Weights, current: Weights, count: Tensor | int) -> None:
        decay = min(1 - (1 + int(count)) ** -self.config.ema_power, self.config.ema_max_decay)
        torch._foreach_lerp_(averaged, current, 1 - decay)

    def _report_non_finite(self, losses: Tensor, rows: Tensor) -> None:
        bad = rows[~losses.detach().isfinite().cpu()].tolist()
        if bad:
            listed = ", ".join(map(str, bad[:REPORTED]))
            more = f" and {len(bad) - REPORTED} more" if len(bad) > REPORTED else ""
            where = f"the loss of training windows {listed}{more}"
            advice = "check those rows of the data, or "
        else:
            where, advice = "the gradient (all losses are finite)", ""
        saved = list_checkpoints(self.output)
        last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"
        raise TrainingError(
            f"update {self.step}: {where} is not finite; {last}; {advice}lower trainer.learning_rate"
        )

    @torch.compiler.set_stance("force_eager")  # batches of other sizes are not worth compiling for
    def _validate(self, log: RunLog | None) -> None:
        generator = seeded_generator(self.device, self.seed, VALIDATION)
        if self.accelerator.is_main_process:
            rows = self.dataset.val[:: max(1, len(self.dataset.val) // self.config.validation_windows)]
            steps = self.config.validation_steps
            progress = (self.step - 1) / self.config.max_steps  # of the last update: its loss, its teacher
            values = validate(
                self.ema_model, self.dataset.batch(rows), steps, generator, progress, self.teacher
            )
            if self.rollouts is None or not self.config.rollout_every:
                errors = [value for name, value in values.items() if name.startswith("action_error")]
                self.selection = {"score": -(errors[0] if errors else values["loss"])}
            self._write(log, "validation", values)

    @torch.compiler.set_stance("force_eager")
    def _draw(self, log: RunLog | None) -> None:
        if self.accelerator.is_main_process and self.pictures is not None:
            picture = self.pictures(self.ema_model, self.step)
            if log is not None:
                log.picture("samples", self.step, picture)

    def _roll_out(self, log: RunLog | None) -> None:
        if self.accelerator.is_main_process and self.rollouts is not None:
            try:
                values = self.rollouts(self.ema_model, self.step)
            except Exception:  # a simulator's failure must not cost the training
                self._save()
                raise
            self.selection = {"score": next(iter(values.values()))}
            self._write(log, "rollout", values)

    def _save(self) -> None:
        """Save a checkpoint and remove those that are neither among the newest nor the best nor regular."""
        if not self.accelerator.is_main_process:
            return
        model = self.ema_model
        model.metadata |= {"train_steps": self.step, "train_seconds": round(self.seconds, 1)}
        model.metadata |= {"selection": self.selection}
        state = {
            "policy": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "phase": self.phase,
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "torch_rng": torch.get_rng_state(),
            "step": self.step,
            "seconds": self.seconds,
            "selection": self.selection,
            "since_log": self.since_log,
        }
        save_checkpoint(model, self.output, self.step, state)
        older = list_checkpoints(self.output)[: -self.config.keep_last]
        best = sorted(older, key=_selection_score, reverse=True)[: self.config.keep_best]
        every = self.config.keep_every
        regular = [folder for folder in older if every and checkpoint_step(folder) % every == 0]
        for folder in set(older) - set(best) - set(regular):
            remove_folder(folder)

    def _leave(self, received: int | None) -> None:
        self.accelerator.end_training()
        if self.accelerator.is_main_process:
            print(
                f"stopped at update {self.step} and saved; go on with resume=true output={self.output}",
                flush=True,
            )
        raise SystemExit(128 + (received or signal.SIGTERM))

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.max_steps)

    def _any(self, flag: bool) -> bool:
        """Whether the flag is up in any process: all of them must leave the loop at the same step."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.device)).item())

    def _reduce(self, records: list[dict[str, Tensor]]) -> dict[str, float]:
        """Means over the updates, in all processes, that have a value: some rows are not in every batch."""
        own = list(dict.fromkeys(name for record in records for name in record))
        names = list(dict.fromkeys(gather_object(own)))
        none = torch.zeros((), device=self.device)
        found = [[record[name].float() for record in records if name in record] for name in names]
        sums = torch.stack([sum(values, none) for values in found])
        counts = torch.tensor([float(len(values)) for values in found], device=self.device)
        sums, counts = self.accelerator.reduce(torch.stack([sums, counts]), reduction="sum")
        values = dict(zip(names, (sums / counts).tolist(), strict=True))
        return values | {
            "learning_rate": float(self.schedules[0].get_last_lr()[0]),
            "seconds": round(self.seconds, 2),
        }

    def _write(self, log: RunLog | None, kind: str, values: Mapping[str, Any]) -> None:
        if log is not None:
            log.write(kind, self.step, values)


class _StopSignals:
    """Remembers SIGINT or SIGTERM until the loop can save; a second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "_StopSignals":
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._previous[number])


def _mix(seed: int, purpose: int) -> int:
    return seeded_generator("cpu", seed, purpose).initial_seed()


def _phase_starts(points: Sequence[float], max_steps: int) -> list[int]:
    """First update of each phase, the first one whose progress is not below the phase's point."""
    starts = [bisect_left(range(max_steps), point, key=lambda step: step / max_steps) for point in points]
    if any(start >= end for start, end in pairwise([*starts, max_steps])):
        raise InputError(
            f"trainer.max_steps={max_steps} is too few for the {len(points)} phases with a teacher of this "
            "objective: each needs an update; raise it"
        )
    return starts


def _selection_score(folder: Path) -> float:
    return read_description(folder)["metadata"].get("selection", {}).get("score", -math.inf)
