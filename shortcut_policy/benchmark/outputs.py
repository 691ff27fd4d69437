"""What a benchmark leaves behind: figures, films, tables, the report, and what is published."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from shortcut_policy.benchmark import plots
from shortcut_policy.benchmark.compute import compute_table
from shortcut_policy.benchmark.config import BenchmarkConfig
from shortcut_policy.benchmark.report import Picture, write_report
from shortcut_policy.benchmark.result_files import (
    Losses,
    RunResults,
    published_file,
    slug,
    write_published,
    write_rows,
)
from shortcut_policy.benchmark.table import is_graded, results_table, row_label
from shortcut_policy.benchmark.task_table import task_pair, task_table
from shortcut_policy.benchmark.text_table import ResultRows, TextTable, count_of, write_into
from shortcut_policy.paths import atomic_path, write_atomic
from shortcut_policy.rollout.evaluate import EvaluationProtocol
from shortcut_policy.rollout.recorder import tile_videos

#: Name of a table's file -> what stands above it in the report.
HEADLINES = {"results": "Results", "tasks": "Tasks", "compute": "Training compute"}


def draw_figures(
    rows: ResultRows, curves: ResultRows, losses: Mapping[str, Losses], output: Path
) -> list[Picture]:
    """Draw the figures, as PNG for documents and as SVG for the report.

    Args:
        rows: Of the results.
        curves: See `curve_rows`; none for no such figure.
        losses: Method -> losses of its first training seed.
        output: Folder.
    """
    logged = {name: curves for name, curves in losses.items() if curves}
    pair = task_pair(rows)
    for suffix in ("png", "svg"):
        plots.plot_steps(rows, output / f"steps.{suffix}")
        plots.plot_latency(rows, output / f"latency.{suffix}")
        if pair:
            plots.plot_tasks(*pair, rows, output / f"tasks.{suffix}")
        if curves:
            plots.plot_compute(curves, output / f"compute.{suffix}")
        if logged:
            plots.plot_losses(logged, output / f"losses.{suffix}")
    graded = is_graded(rows)
    measures = (
        "Score (mean over starts of the best coverage, as a fraction of 95%) and strict success "
        "(coverage above 95%)"
        if graded
        else "Success"
    )
    pictures = [
        Picture(output / "steps.svg", f"{measures} against network evaluations. Bands are 95% intervals."),
        Picture(
            output / "latency.svg",
            f"{'Score' if graded else 'Success'} against the time to infer one action chunk; numbers are "
            "sampling steps.",
        ),
    ]
    if pair:
        one, other = (row_label(row["name"], row["steps"]) for row in pair)
        text = (
            f"Each point is a task: success of {one} against that of {other}; points that would cover each "
            "other lie side by side. Beside it the mean over tasks against the time to infer one action "
            "chunk, with 95% intervals; numbers are sampling steps."
        )
        pictures.append(Picture(output / "tasks.svg", text))
    if curves:
        text = (
            "Score against the floating-point operations spent on training, from checkpoints along the way. "
            "The learning rate falls to zero only at the end: points before it are no shorter trainings."
        )
        pictures.append(Picture(output / "compute.svg", text))
    if logged:
        text = "Losses during training. The methods regress different targets: compare shapes, not heights."
        pictures.append(Picture(output / "losses.svg", text))
    return pictures


def tile_films(
    folder: Path, name: str, steps: int, rules: EvaluationProtocol, videos: int, output: Path
) -> list[Picture]:
    """The films of one evaluated ``folder`` as one, and the paths in it, if the environment has any."""
    film = output / f"{slug(name)}_{slug(count_of(steps, 'step'))}.mp4"
    seeds = rules.episode_seeds[:videos]
    tile_videos([folder / f"episode_{seed}.mp4" for seed in seeds], film)
    what = f"{row_label(name, steps)}, from the first {len(seeds)} starts"
    pictures = [
        Picture(film, f"Rollouts: {what}, in real time."),
        Picture(folder / "paths.png", f"Paths of agent and block: {what}."),
    ]
    return [picture for picture in pictures if picture.path.is_file()]


def tables_of(rows: ResultRows, compute: ResultRows) -> dict[str, TextTable]:
    """The tables that there are, by the names of their files."""
    tables = {
        "results": results_table(rows),
        "tasks": task_table(rows),
        "compute": compute_table(compute) if compute else None,
    }
    return {name: table for name, table in tables.items() if table is not None}


def write_results(
    rows: ResultRows,
    compute: ResultRows,
    curves: ResultRows,
    pictures: Sequence[Picture],
    config: BenchmarkConfig,
) -> None:
    """Write rows, tables and report, and put the tables into the README."""
    output = config.output
    write_rows(output, rows)
    for name, records in {"compute": compute, "curves": curves}.items():
        if records:
            write_atomic(output / f"{name}.json", json.dumps(records, indent=2) + "\n")
    tables = tables_of(rows, compute)
    texts = {name: table.markdown() for name, table in tables.items()}
    for name, text in texts.items():
        write_atomic(output / f"{name}.md", text)
    settings = {
        "Command": rows[0]["command"],
        "Commit": rows[0]["commit"],
        "Configuration": yaml.safe_dump(json.loads(json.dumps(asdict(config), default=str)), sort_keys=False),
    }
    write_report(
        output / "report.html",
        title=config.title,
        rows=rows,
        tables={HEADLINES[name]: table for name, table in tables.items()},
        pictures=pictures,
        settings=settings,
    )
    if config.readme:
        for name, marker in {"results": config.marker, "compute": config.compute_marker}.items():
            if marker and name in texts:
                write_into(config.readme, marker, texts[name])


def publish(output: Path, folder: Path, results: Mapping[str, Sequence[RunResults]]) -> None:
    """Put what is worth keeping under version control into ``folder``: rows, tables, figures, evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ("results", "tasks", "compute", "curves")
    texts = [output / f"{name}.{kind}" for name in names for kind in ("json", "md")]
    for file in (*texts, *sorted(output.glob("*.png"))):
        if file.is_file():
            with atomic_path(folder / file.name) as temporary:
                shutil.copyfile(file, temporary)
    for name, runs in results.items():
        write_published(published_file(folder, name), runs)
