"""What a training writes down of itself: the configuration and the log of its run folder, and warnings."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from shortcut_policy.data.totals import changed
from shortcut_policy.errors import InputError
from shortcut_policy.model import Model
from shortcut_policy.training.batches import LearnedFrom
from shortcut_policy.training.config import TrainerConfig, WandbConfig
from shortcut_policy.training.log import RunLog
from shortcut_policy.training.run_folder import TOTALS, write_config


def run_document(model: Model, dataset: LearnedFrom, config: TrainerConfig, seed: int) -> dict[str, Any]:
    """The ``config.yaml`` of a run that was begun in Python: all that decides its weights.

    Args:
        model: Of which specification and task are told.
        dataset: Of which path and size are told.
        config: Settings of the loop.
        seed: Of the training.
    """
    task = {**model.metadata["task"], "obs": list(model.spec.get("obs", ()))}
    return {
        "policy": model.spec,
        "trainer": {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()},
        "task": task | {"source": {"path": str(dataset.source.path)}},
        "data": dataset.size,
        "seed": seed,
    }


@contextmanager
def recorded(
    output: Path, step: int, config: TrainerConfig, document: Mapping[str, Any], wandb: WandbConfig | None
) -> Iterator[RunLog]:
    """Write the configuration of a run and keep its log open.

    Args:
        output: Run folder.
        step: Update that the run goes on from, 0 for a new one.
        config: Settings of the loop, of which a warm-up that never ends is told.
        document: The whole configuration.
        wandb: Record at Weights & Biases; none if None.
    """
    write_config(output, document)
    if config.warmup >= config.max_steps:
        print(
            f"the learning rate rises for trainer.warmup_steps={config.warmup} updates, and the "
            f"training ends at trainer.max_steps={config.max_steps}, before its peak: for more than a try, "
            "warm up for a tenth of the updates or less",
            file=sys.stderr,
        )
    log = RunLog(output, step, wandb or WandbConfig("disabled"), document)
    try:
        yield log
    finally:
        log.close()


def check_going_on(output: Path, known: Mapping[str, Any], model: Model, now: int, step: int) -> str | None:
    """How a run goes on that is to have another length than it began with.

    Args:
        output: Run folder.
        known: What its newest checkpoint says of itself.
        model: That is to go on, with the metadata of a new training of these data.
        now: Updates that it is to have.
        step: Updates that it has done.

    Returns:
        A sentence; None if it is as long.

    Raises:
        InputError: Its data hold other numbers now; or its updates are divided into phases with a teacher,
            which would have ended elsewhere.
    """
    before, found = known.get("max_steps", now), model.metadata.get(TOTALS)
    if found is not None and (other := changed(known.get(TOTALS, {}), found)) is not None:
        raise InputError(
            f"{output} was trained with other numbers of '{other}' than {model.metadata.get('dataset')} "
            "holds now: a run goes on with its own data, restore them, give another output, or begin one "
            "from its policy with init_from"
        )
    if before == now:
        return None
    if any(point > 0 for point in model.objective.teacher_phases):
        raise InputError(
            f"{output} was trained with trainer.max_steps={before}, not {now}, and its objective divides the "
            "updates into phases with a teacher, which would have ended elsewhere: give another output, or "
            "begin one from its policy with init_from"
        )
    return (
        f"trainer.max_steps is {now} and was {before}: from update {step} on, the learning rate follows the "
        f"cosine of a training of {now} updates"
    )


def progress_bar(output: Path, step: int, max_steps: int, shown: bool) -> tqdm:
    """A bar that counts updates, with rate and time left."""
    return tqdm(
        total=max_steps,
        initial=step,
        desc=output.name,
        unit="update",
        disable=not shown,
        mininterval=1.0,
        dynamic_ncols=True,
    )
