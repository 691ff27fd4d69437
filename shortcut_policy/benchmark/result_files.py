"""Results that outlive the folders of the runs that they come from.

``<publish>/cells/<method>.jsonl`` holds all that tables, tests and figures need of a method, a few kilobytes
an evaluated checkpoint: small enough for version control. Its lines are records of two kinds, "run" (a
training seed: what was trained, and its losses) and "cell" (one of its checkpoints at one step count: the
summary of the evaluation, and seed, score and success of every start). Commands are left out: their paths do
not travel.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shortcut_policy.benchmark.table import Cell
from shortcut_policy.benchmark.text_table import ResultRows
from shortcut_policy.errors import InputError
from shortcut_policy.paths import write_atomic
from shortcut_policy.provenance import code_hash, library_versions, own_code, short_hash
from shortcut_policy.rollout.evaluate import EvaluationProtocol
from shortcut_policy.settings import flatten
from shortcut_policy.training.comparison import FREE_TO_CHANGE, first_difference
from shortcut_policy.trust import check_trust, trusted_modules

#: Keys that the specification of a policy takes from the task that it is trained on.
SHARED = {"obs", "action", "horizon", "n_obs_steps", "n_action_steps"}
#: File of the rows of a table.
RESULTS = "results.json"
#: Kind of record ("train", "validation") -> (updates, losses).
Losses = Mapping[str, tuple[Sequence[int], Sequence[float]]]


@dataclass(frozen=True)
class RunResults:
    """What the benchmark knows of one training seed, evaluated here or read from published results.

    Attributes:
        number: The training seed, or the place in the method's ``runs``.
        spec: Specification of the policy, see `Policy.from_spec`.
        training: The training configuration, without what belongs to a machine; None if unknown.
        checkpoints: Names of all checkpoints of the run, newest last.
        losses: Of the training.
        cells: (checkpoint, steps) -> evaluation.
    """

    number: int
    spec: dict[str, Any]
    training: dict[str, Any] | None
    checkpoints: Sequence[str]
    losses: Losses
    cells: Mapping[tuple[str, int], Cell]

    @property
    def metadata(self) -> dict[str, Any]:
        """Of the policy of the newest evaluated checkpoint."""
        newest = max(self.cells, key=lambda cell: self.checkpoints.index(cell[0]))
        metadata: dict[str, Any] = self.cells[newest].summary["policy"]
        return metadata


def slug(name: str) -> str:
    """A method's name as part of file names."""
    return name.replace(" ", "_")


def published_file(folder: Path, name: str) -> Path:
    """Where the results of a method are in a folder of published results."""
    return folder / "cells" / f"{slug(name)}.jsonl"


def write_published(path: Path, runs: Sequence[RunResults]) -> None:
    """Write the results of a method's training seeds."""
    lines = [json.dumps(record, default=str) for run in runs for record in _records(run)]
    write_atomic(path, "\n".join(lines) + "\n")


def read_published(path: Path, trust: str | Sequence[str] | None = ()) -> list[RunResults]:
    """The training seeds in a file of `write_published`, fit to build their policies from.

    Raises:
        InputError: there is no such file, it is damaged, or it names code that is neither ours nor of the
            modules ``trust``.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        runs = [record for record in records if record["kind"] == "run"]
        check_trust(path, {"spec": [run["spec"] for run in runs]}, trusted_modules(trust))
        cells: dict[int, dict[tuple[str, int], Cell]] = {run["run"]: {} for run in runs}
        for record in records:
            if record["kind"] == "cell":
                scores, successes = (np.array(record[name], dtype=float) for name in ("score", "success"))
                cell = Cell(record["summary"], scores, successes, record.get("tasks", ()))
                cells[record["run"]][record["checkpoint"], record["steps"]] = cell
        return [
            RunResults(
                number=run["run"],
                **{name: run[name] for name in ("spec", "training", "checkpoints", "losses")},
                cells=cells[run["run"]],
            )
            for run in runs
        ]
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"the published results {path} cannot be read ({type(error).__name__}: {error}); name a folder "
            "that 'publish' has written, or restore the file"
        ) from error


def write_rows(folder: Path, rows: ResultRows) -> None:
    """Write ``results.json``: the rows of the table, see `table.make_row`.

    Where there are several tasks, they are its ``table``, and its ``rows`` have one task each, or their mean:
    ``method``, ``steps``, ``task``, ``success``, ``success_ci`` and the method of it, ``episodes`` of a seed,
    ``seeds``, ``latency_ms_p50``.
    """
    of_tasks = [one for row in rows if row.get("tasks") for one in _rows_of_tasks(row)]
    document = {"rows": of_tasks, "table": rows} if of_tasks else rows
    write_atomic(folder / RESULTS, json.dumps(document, indent=2) + "\n")


def _rows_of_tasks(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    own = {"method": row["name"], "steps": row["steps"]}
    shared = {key: row[key] for key in ("seeds", "latency_ms_p50")}
    mean = {key: row[key] for key in ("episodes", "success", "success_ci", "success_ci_method")}
    for name, task in {**row["tasks"], "mean": mean}.items():
        yield {**own, "task": name, **task, **shared}


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of the table that a benchmark has written into ``folder``, see `table.make_row`.

    Raises:
        InputError: there are none.
    """
    return _read_json(folder / RESULTS, ("name", "steps"))


def read_compute(folder: Path) -> list[dict[str, Any]]:
    """The rows of training compute in ``folder``, see `compute.compute_rows`; none if it has no such file.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / "compute.json"
    return _read_json(path, ("name", "phases")) if path.is_file() else []


def _read_json(path: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        rows = rows["table"] if isinstance(rows, dict) else rows
        if not (isinstance(rows, list) and rows and all(key in row for row in rows for key in keys)):
            raise ValueError("it is no list, an empty one, or one of other things")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path} holds no rows of a benchmark ({type(error).__name__}: {error}); name a folder that "
            "scripts/benchmark.py has written, its output or its publish"
        ) from error
    return rows


def check_protocol(run: RunResults, path: Path, rules: EvaluationProtocol) -> None:
    """Refuse results that other rules made.

    Raises:
        InputError: they were evaluated under another protocol.
    """
    expected = json.loads(json.dumps(asdict(rules), default=str))
    for cell in run.cells.values():
        for key, value in expected.items():
            found = cell.summary["settings"].get(key)
            if found != value:
                raise InputError(
                    f"{path} was evaluated with {key}={found}, not {value}: methods can only be compared "
                    f"under one protocol, give {key}={found} or evaluate it again"
                )


def check_specification(run: RunResults, path: Path) -> None:
    """Refuse results whose policy is described as another one than was trained and evaluated.

    Raises:
        InputError: the specification is not that of the training, or not the one that was evaluated.
    """
    task = (run.training or {}).get("task", {})
    for key in SHARED & task.keys() & run.spec.keys():
        if run.spec[key] != task[key]:
            raise InputError(
                f"{path}, seed {run.number}, has a policy of {key}={run.spec[key]} from a training with "
                f"{key}={task[key]}: restore the file, or evaluate the checkpoint itself"
            )
    for (checkpoint, steps), cell in run.cells.items():
        if cell.summary["settings"].get("specification") not in (None, short_hash(run.spec)):
            raise InputError(
                f"{path}, seed {run.number}, describes another policy than was evaluated ({checkpoint}, "
                f"{steps} steps): restore the file, or evaluate the checkpoint itself"
            )


def origin(run: RunResults) -> str:
    """Where published results come from, and what of it differs here: code and versions of libraries."""
    trained = run.metadata.get("commit", "unknown")
    summaries = [cell.summary for cell in run.cells.values()]
    made = {f"{one.get('commit', 'unknown')}{_on(one.get('date'))}" for one in summaries}
    differences = sorted({difference for one in summaries for difference in _differences(one["settings"])})
    return (
        f"trained at commit {trained}; evaluated at commit {', '.join(sorted(made))}, "
        f"{'; '.join(differences) or 'by this code and these versions'}"
    )


def check_cells(run: RunResults, path: Path, wanted: Sequence[tuple[str, int]]) -> None:
    """Refuse results with gaps.

    Raises:
        InputError: a wanted (checkpoint, steps) was not evaluated.
    """
    for checkpoint, steps in wanted:
        if (checkpoint, steps) not in run.cells:
            known = sorted(number for name, number in run.cells if name == checkpoint)
            raise InputError(
                f"{path} holds no evaluation of {checkpoint}, seed {run.number}, at steps={steps}, only at "
                f"{known or 'other checkpoints'}: ask for those, or evaluate the checkpoint itself"
            )


def check_training(run: RunResults, path: Path, training: Mapping[str, Any]) -> None:
    """Refuse results of another training than the one asked for.

    Args:
        run: The results.
        path: Where they were read.
        training: As `portable_training` gives it.

    Raises:
        InputError: a setting differs.
    """
    published = flatten(portable_training(run.training or {}))
    if difference := first_difference(published, flatten(training)):
        key, old, new = difference
        raise InputError(
            f"{path}, seed {run.number}, was trained with {key}={old}, not {new}: remove the file to train "
            f"anew, or replace the entry's overrides by 'published: {path.parents[1]}' to show it as it is"
        )


def portable_training(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training configuration without what belongs to a machine or a moment, to compare and to publish."""
    machine = {"task": ("source", "env"), "trainer": ("_target_", "precision", "compile", "cuda_graph")}
    kept = {key: value for key, value in config.items() if key not in FREE_TO_CHANGE}
    for part in machine.keys() & kept.keys():
        kept[part] = {key: value for key, value in kept[part].items() if key not in machine[part]}
    return kept


def _differences(settings: Mapping[str, Any]) -> Iterator[str]:
    """What made an evaluation and is different here."""
    if "code" not in settings:
        yield "by an earlier version of this library, which noted neither code nor versions"
        return
    if settings["code"] != own_code():
        yield "by other code of this library than here"
    for name, code in settings["modules"].items():
        if code_hash(name) != code:
            yield f"by other code of {name} than here"
    here = library_versions()
    for name, version in settings["versions"].items():
        if here.get(name) != version:
            yield f"{name} {version} (here {here.get(name, 'not installed')})"


def _on(date: str | None) -> str:
    return "" if date is None else f" on {date}"


def _records(run: RunResults) -> Iterator[dict[str, Any]]:
    described = {name: getattr(run, name) for name in ("spec", "training", "checkpoints", "losses")}
    yield {"kind": "run", "run": run.number, **described}
    for (checkpoint, steps), cell in sorted(run.cells.items()):
        policy = {key: value for key, value in cell.summary["policy"].items() if key != "command"}
        summary = {key: value for key, value in cell.summary.items() if key != "command"}
        first = summary["settings"]["seed"]
        yield {
            "kind": "cell",
            "run": run.number,
            "checkpoint": checkpoint,
            "steps": steps,
            "summary": {**summary, "policy": policy},
            "seed": list(range(first, first + len(cell.scores))),
            "score": cell.scores.tolist(),
            "success": [int(success) for success in cell.successes],
            **({"tasks": list(cell.tasks)} if any(cell.tasks) else {}),
        }
