"""What is said of a training that cannot go on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor

from shortcut_policy.checkpoint import list_checkpoints
from shortcut_policy.errors import InputError, TrainingError

#: Windows that an error names, at most.
REPORTED = 8


def not_finite(step: int, losses: Tensor, rows: Tensor, output: Path) -> TrainingError:
    """The error about an update whose loss or gradient is not finite.

    Args:
        step: The update.
        losses: Of its rows, (B,).
        rows: Their numbers among the training windows, (B,).
        output: Run folder.
    """
    bad = rows[~losses.detach().isfinite().cpu()].tolist()
    if bad:
        listed = ", ".join(map(str, bad[:REPORTED]))
        more = f" and {len(bad) - REPORTED} more" if len(bad) > REPORTED else ""
        where = f"the loss of training windows {listed}{more}"
        advice = "check those rows of the data, or "
    else:
        where, advice = "the gradient (all losses are finite)", ""
    saved = list_checkpoints(output)
    last = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved yet"
    return TrainingError(f"update {step}: {where} is not finite; {last}; {advice}lower trainer.learning_rate")


@contextmanager
def saving(save: Callable[[], None], leave: Callable[[], None], step: int) -> Iterator[None]:
    """Save before anything that rollouts raise ends the training: a simulator's failure must not cost it.

    Args:
        save: Saves the state of the training.
        leave: Ends it as one that was interrupted: a second Ctrl-C acts at once, in the middle of an
            environment, and some environments raise KeyboardInterrupt by themselves, for a key of theirs.
        step: Its update.

    Raises:
        TrainingError: In place of a sentence about the environment: with what to do.
    """
    try:
        yield
    except BaseException as error:
        save()
        if isinstance(error, KeyboardInterrupt):
            leave()
        if isinstance(error, InputError):
            raise TrainingError(
                f"rollouts after update {step}: {error}; the training is saved: correct that and go on with "
                "resume=true, or without rollouts with trainer.rollout_every=0 too"
            ) from error
        raise
