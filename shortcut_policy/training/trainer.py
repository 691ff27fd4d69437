"""The training loop."""

import copy
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from shortcut_policy.checkpoint import (
    checkpoint_step,
    list_checkpoints,
    load_training_state,
    read_metadata,
    save_checkpoint,
)
from shortcut_policy.errors import Stopped
from shortcut_policy.model import Model
from shortcut_policy.objectives import Draws
from shortcut_policy.objectives.base import loss_phase, teacher_phase
from shortcut_policy.paths import written_out
from shortcut_policy.training.averaging import averaging
from shortcut_policy.training.batches import BatchStream, LearnedFrom, seeded_generator
from shortcut_policy.training.config import TrainerConfig, WandbConfig
from shortcut_policy.training.cuda_graph import Compute, CudaGraph
from shortcut_policy.training.failure import not_finite, saving
from shortcut_policy.training.keeping import remove_others, selected_by_error, selected_by_score, tidy
from shortcut_policy.training.log import RunLog
from shortcut_policy.training.optimizers import make_optimizers
from shortcut_policy.training.parts import prepare
from shortcut_policy.training.precision import computes_bf16
from shortcut_policy.training.prefetch import Prefetch
from shortcut_policy.training.processes import any_process, compiling, make_accelerator, means, reaching_all
from shortcut_policy.training.record import check_going_on, progress_bar, recorded, run_document
from shortcut_policy.training.run_folder import check_output, only_training
from shortcut_policy.training.schedules import make_schedule, phase_starts, present_rate, set_rate
from shortcut_policy.training.signals import StopSignals
from shortcut_policy.training.threads import Threads
from shortcut_policy.training.validation import validate

#: Keys that keep the random streams of the different uses of one seed apart.
NOISE, ORDER, VALIDATION = range(3)

Rollouts = Callable[[Model, int], dict[str, float]]
Pictures = Callable[[Model, int], Path]  # given the model and the step: a file of what it samples


class Trainer:
    """Fits a model to its data: warm-up and cosine, clipping, averaged weights, checkpoints.

    The state after n updates is a function of the configuration and the seed: order and noise are drawn from
    (seed, step), so a run that was stopped, however, goes on exactly as if it had not been, on a device of
    the same kind (a GPU and a CPU draw other noise) and with as many threads (`TrainerConfig.threads`).

    An objective may divide a run into phases (`Objective.teacher_phases`). Each is a training of its own, as
    in progressive distillation (Salimans and Ho 2022): the averaged model so far becomes the frozen teacher,
    and the student goes on from its weights with a new optimizer state, average, warm-up and cosine.

    Args:
        model: Is trained in place, and has the averaged weights after `fit`. Its normaliser is fitted to the
            data, unless something has, and its metadata are filled; what is in them stays (see `prepare`).
        dataset: Its data.
        config: Settings of the loop.
        output: Run folder; it may hold a run only to ``resume`` it.
        seed: Of the order of the data and all noise.
        rollouts: Evaluates the averaged model in its environment every ``config.rollout_every`` updates:
            given the model and the step, returns named scores, the first of which selects the best
            checkpoint.
        cpu: Do not use a GPU.
        pictures: Called with the averaged model at every validation.
        resume: Go on with the run in the run folder, if it holds one.

    Raises:
        InputError: The model has no specification, or does not fit the data.

    Example:
        >>> policy = Policy.build({"state": Field("state", shape=(4,))}, Field("action", shape=(2,)))
        >>> trainer = Trainer(policy, dataset, TrainerConfig(max_steps=2000), output="runs/reach")
        >>> policy = trainer.fit()  # and load_policy("runs/reach") from then on
    """

    def __init__(
        self,
        model: Model,
        dataset: LearnedFrom,
        config: TrainerConfig,
        output: str | Path,
        seed: int = 0,
        rollouts: Rollouts | None = None,
        cpu: bool = False,
        pictures: Pictures | None = None,
        resume: bool = False,
    ) -> None:
        self.config, self.output, self.seed, self.resuming = config, written_out(output), seed, resume
        prepare(model, dataset, config, seed, cpu)
        self.rollouts, self.pictures = rollouts, pictures
        self.accelerator = make_accelerator(cpu, config)
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        self.device = self.accelerator.device
        self.bf16 = computes_bf16(config.precision, self.device)
        self.dataset: LearnedFrom = dataset
        dataset.to(self.device)
        order = seeded_generator("cpu", seed, ORDER).initial_seed()
        self.stream = BatchStream(len(dataset.train), config.batch_size, order, rank, world)
        self.prefetch = Prefetch(dataset, self.stream, config.max_steps)
        self.phase = 0
        self.phase_starts = [0, *phase_starts(model.objective.teacher_phases, config.max_steps)]
        self.teacher: Model | None = None
        self.model = model.to(self.device).train()
        self.ema = AveragedModel(self.model, multi_avg_fn=averaging(config)).eval()
        # Nothing here draws from the global generator, but a network with dropout does.
        torch.manual_seed(seed)
        self.step, self.seconds = 0, 0.0
        self.selection: dict[str, Any] = {}
        self.since_log: list[dict[str, Tensor]] = []
        if self.device.type == "cuda" and self.bf16:
            # The optimizer's matrices, which stay float32: 19 bits of them suffice where bfloat16 does.
            torch.set_float32_matmul_precision("high")
        if config.compile:
            self.model.backbone.compile()
            self.ema_model.backbone.compile()
        self.wrapped, *self.optimizers = self.accelerator.prepare(
            self.model, *make_optimizers(self.model, config)
        )
        alone = self.device.type == "cuda" and world == 1
        self.captures = alone and config.cuda_graph and dataset.in_memory and model.objective.capturable
        self.captured: tuple[int, CudaGraph] | None = None
        self.recorded_on = self.device if self.captures else None
        self.schedules = self._phase_schedules()

    @property
    def ema_model(self) -> Model:
        """The model with averaged weights: the one that is evaluated and saved."""
        return cast(Model, self.ema.module)

    def resume(self) -> None:
        """Go on from the newest checkpoint of the run folder, if there is one.

        A larger ``max_steps`` than the run began with makes it a longer one: learning rate and progress are
        from there on those of a training that was to be so long from its beginning. So the rate, which had
        fallen towards 0, rises at once to where the longer cosine is, and the same settings give the same
        bits, interrupted or not.

        Raises:
            InputError: The data have changed, or the training state is lost or damaged; or the run cannot be
                lengthened, because its phases with a teacher would have ended elsewhere.
        """
        checkpoints = list_checkpoints(self.output)
        if not checkpoints:
            return
        if self.accelerator.is_main_process:
            tidy(self.output, self.config)
        known = read_metadata(checkpoints[-1])
        now, step = self.config.max_steps, checkpoint_step(checkpoints[-1])
        change = check_going_on(self.output, known, self.model, now, step)
        if change is not None and self.accelerator.is_main_process:
            print(change, file=sys.stderr)
        # A policy that was loaded to go on did not begin from itself.
        for model in (self.model, self.ema_model):
            model.metadata = known | {k: v for k, v in model.metadata.items() if k != "init_from"}
        state = load_training_state(checkpoints[-1], self.device)
        self.model.load_state_dict(state["policy"])
        self.ema.load_state_dict(state["ema"])
        self.phase = state["phase"]
        if state["teacher"] is not None:
            self.teacher = self._frozen_copy()
            self.teacher.load_state_dict(state["teacher"])
        self.schedules = self._phase_schedules()
        parts, states = [*self.optimizers, *self.schedules], state["optimizers"] + state["schedules"]
        for part, own in zip(parts, states, strict=True):
            part.load_state_dict(own)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            set_rate(optimizer, present_rate(schedule), self.recorded_on)
        torch.set_rng_state(state["torch_rng"].cpu())
        if self.device.type == "cuda" and state.get("cuda_rng") is not None:  # not in older states
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.device)
        self.step, self.seconds, self.selection = state["step"], state["seconds"], state["selection"]
        self.since_log = state["since_log"]

    def fit(self, document: Mapping[str, Any] | None = None, wandb: WandbConfig | None = None) -> Model:
        """Train up to ``max_steps``; the run folder gets ``config.yaml``, ``log.jsonl`` and checkpoints.

        Args:
            document: The whole configuration of the training, for ``config.yaml``; made of model, data and
                settings if None.
            wandb: Record at Weights & Biases; none if None.

        Returns:
            The model with averaged weights, as the last checkpoint holds it, ready to act.

        Raises:
            InputError: The run folder holds a run that is not to be resumed, or was trained otherwise, or
                another process trains there.
            TrainingError: A loss or gradient is not finite; or SystemExit after SIGINT or SIGTERM, once the
                state is saved.
        """
        if document is None:
            document = run_document(self.model, self.dataset, self.config, self.seed)
        check_output(self.output, document, self.resuming or self.step > 0)
        main = self.accelerator.is_main_process
        with only_training(self.output) if main else nullcontext():
            self.resume()
            record = recorded(self.output, self.step, self.config, document, wandb)
            with record if main else nullcontext() as log:
                self._train(log)
        self.model.load_state_dict(self.ema_model.state_dict())
        self.model.eval().metadata |= self.ema_model.metadata
        return self.ema_model

    def _train(self, log: RunLog | None) -> None:
        """The loop; ``log`` is of the main process, and None in the others."""
        config, main = self.config, self.accelerator.is_main_process
        progress = progress_bar(self.output, self.step, config.max_steps, main)
        with progress, StopSignals() as signals, closing(Threads(config.threads, self.device)) as threads:
            started, base_seconds = time.perf_counter(), self.seconds
            while self.step < config.max_steps:
                with threads:
                    self.since_log.append(self._update())
                self.step += 1
                self.seconds = base_seconds + time.perf_counter() - started
                progress.update()
                if self._due(config.log_every):
                    values = self._since_log()
                    self.since_log.clear()
                    progress.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                    self._write(log, "train", values)
                if self._due(config.validate_every) and len(self.dataset.val):
                    self._validate(log)
                if self._due(config.validate_every) and self.pictures is not None:
                    self._draw(log)
                if self._due(config.rollout_every) and self.rollouts is not None:
                    self._roll_out(log)
                stop = any_process(self.accelerator, signals.received is not None)
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
            raise not_finite(self.step, losses, rows, self.output)
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
            self.captured = phase, CudaGraph(compute, rows, self.device)
        return self.captured[1]

    def _optimize(self, progress: float, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Loss, clipped gradients and new weights; returns the losses (B,) and scalars to log."""
        batch = self.prefetch.batch(self.step, rows)
        draws = Draws(generator, self.accelerator.process_index, self.accelerator.num_processes)
        # Not left to accelerate, which allows one precision in a process. bf16 needs no gradient scaling.
        mixed = torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)
        with mixed, compiling(), reaching_all(self.model):
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

    def _phase_schedules(self) -> list[LambdaLR]:
        """Warm-up and decay over the current phase, each as long as its share of the run."""
        config = self.config
        start, end = [*self.phase_starts, config.max_steps][self.phase : self.phase + 2]
        warmup = round(config.warmup * (end - start) / config.max_steps)
        return [
            make_schedule(optimizer, warmup, end - start, self.recorded_on, config.cooldown)
            for optimizer in self.optimizers
        ]

    def _validate(self, log: RunLog | None) -> None:
        generator = seeded_generator(self.device, self.seed, VALIDATION)
        if self.accelerator.is_main_process:
            rows = self.dataset.val[:: max(1, len(self.dataset.val) // self.config.validation_windows)]
            steps = self.config.validation_steps
            progress = (self.step - 1) / self.config.max_steps  # of the last update: its loss, its teacher
            # Sizes not worth compiling for. A decorator would import the compiler, seconds, in all commands.
            with torch.compiler.set_stance("force_eager"):
                values = validate(
                    self.ema_model, self.dataset.batch(rows), steps, generator, progress, self.teacher
                )
            if self.rollouts is None or not self.config.rollout_every:
                self.selection = selected_by_error(values)
            self._write(log, "validation", values)

    def _draw(self, log: RunLog | None) -> None:
        if self.accelerator.is_main_process and self.pictures is not None:
            with torch.compiler.set_stance("force_eager"):
                picture = self.pictures(self.ema_model, self.step)
            if log is not None:
                log.picture("samples", self.step, picture)

    def _roll_out(self, log: RunLog | None) -> None:
        if self.accelerator.is_main_process and self.rollouts is not None:
            with saving(self._save, partial(self._leave, signal.SIGINT), self.step):
                values = self.rollouts(self.ema_model, self.step)
            self.selection = selected_by_score(values)
            self._write(log, "rollout", values)

    def _save(self) -> None:
        """Save a checkpoint and remove those that are neither among the newest nor the best nor regular."""
        if not self.accelerator.is_main_process:
            return
        model = self.ema_model
        # JSON has no word for the score of a training that went wrong.
        selection = self.selection if math.isfinite(self.selection.get("score", math.nan)) else {}
        done = {"train_steps": self.step, "train_seconds": round(self.seconds, 1)}
        model.metadata |= {**done, "selection": selection}
        state = {
            "policy": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "phase": self.phase,
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "step": self.step,
            "seconds": self.seconds,
            "selection": self.selection,
            "since_log": self.since_log,
        }
        save_checkpoint(model, self.output, self.step, state)
        remove_others(self.output, self.config)

    def _leave(self, received: int | None) -> None:
        self.accelerator.end_training()
        if self.accelerator.is_main_process:
            print(
                f"stopped at update {self.step} and saved; go on with resume=true output={self.output}",
                flush=True,
            )
        raise Stopped(128 + (received or signal.SIGTERM))

    def _due(self, every: int) -> bool:
        return every > 0 and (self.step % every == 0 or self.step == self.config.max_steps)

    def _since_log(self) -> dict[str, float]:
        return means(self.accelerator, self.since_log) | {
            "learning_rate": float(self.schedules[0].get_last_lr()[0]),
            "seconds": round(self.seconds, 2),
        }

    def _write(self, log: RunLog | None, kind: str, values: Mapping[str, Any]) -> None:
        if log is not None:
            log.write(kind, self.step, values)
