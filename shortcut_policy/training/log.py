"""The log of a run: JSON lines on disk, always, and Weights & Biases if asked."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shortcut_policy.errors import InputError, reading
from shortcut_policy.paths import named, write_atomic
from shortcut_policy.training.config import WandbConfig


class RunLog:
    """Append records to ``log.jsonl``; a resumed run drops what was logged after the step it goes on from.

    Args:
        folder: Run folder.
        resumed_step: Step that the run goes on from, 0 for a new one.
        wandb: Its record there.
        config: The run's whole configuration, for Weights & Biases.
    """

    def __init__(
        self, folder: Path, resumed_step: int, wandb: WandbConfig, config: Mapping[str, Any]
    ) -> None:
        self.path = folder / "log.jsonl"
        if self.path.exists():
            kept = [record for record in read_log(folder) if record["step"] <= resumed_step]
            write_atomic(self.path, "".join(f"{json.dumps(record)}\n" for record in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._wandb = None
        if wandb.mode != "disabled":
            self._wandb = _start_record(folder, resumed_step > 0, wandb, config)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Add a record of ``kind`` (train, validation, rollout); written through at once."""
        with named(self.path):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()
        if self._wandb is not None:
            self._wandb.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def picture(self, name: str, step: int, path: Path) -> None:
        """Show a picture, which is a file of the run already, to Weights & Biases."""
        if self._wandb is not None:
            import wandb

            self._wandb.log({name: wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """End the record."""
        with named(self.path):  # what could not be written is tried once more
            self._file.close()
        if self._wandb is not None:
            self._wandb.finish()


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's ``log.jsonl``, oldest first; none if it has no log.

    Raises:
        InputError: A line of it is damaged.
    """
    path, records = folder / "log.jsonl", []
    # A process that was killed while it wrote leaves a last line without its end.
    with reading(path):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = text.split("\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["step"], record["kind"]
        except (RecursionError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"line {number} of {path} is no record of a training ({type(error).__name__}: {error}): "
                "remove the line"
            ) from error
        records.append(record)
    return records


def _start_record(folder: Path, resumed: bool, wandb_config: WandbConfig, config: Mapping[str, Any]) -> Any:
    """The run's own record at Weights & Biases, with which a resumed run goes on."""
    import wandb

    # Folders of one name elsewhere have theirs, and so had an earlier run in this one that saved nothing.
    identity = folder / "wandb_id"
    known = identity.read_text() if resumed and identity.exists() else None
    settings = {**asdict(wandb_config), "name": wandb_config.name or folder.name, "id": known}
    try:
        record = wandb.init(dir=str(folder), config=dict(config), resume="allow", **settings)
    except (wandb.Error, ValueError) as error:  # the latter of a setting that is not of its type
        raise InputError(
            f"Weights & Biases cannot record {folder} ({' '.join(str(error).split())}); correct the settings "
            "below wandb, log in with `wandb login`, or give wandb.mode=offline or disabled"
        ) from error
    write_atomic(identity, record.id)
    return record
