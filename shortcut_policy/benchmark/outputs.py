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
from shortcut_policy.benchmark.result_files import Losses, RunResults, published_file, slug, write_published
from shortcut_policy.benchmark.table import is_graded, results_table, row_label
from shortcut_policy.benchmark.text_table import ResultRows, count_of, write_into
from shortcut_policy.paths import atomic_path, write_atomic
from shortcut_policy.rollout.evaluate import EvaluationProtocol
from shortcut_policy.rollout.recorder import tile_videos


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
    for suffix in ("png", "svg"):
        plots.plot_steps(rows, output / f"steps.{suffix}")
        plots.plot_latency(rows, output / f"latency.{suffix}")
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


def write_results(
    rows: ResultRows,
    compute: ResultRows,
    curves: ResultRows,
    pictures: Sequence[Picture],
    config: BenchmarkConfig,
) -> None:
    """Write rows, tables and report, and put the tables into the README."""
    output = config.output
    for name, records in {"results": rows, "compute": compute, "curves": curves}.items():
        if records:
            write_atomic(output / f"{name}.json", json.dumps(records, indent=2) + "\n")
    tables = {"Results": results_table(rows), "Training compute": compute_table(compute)}
    texts = [table.markdown() for table in tables.values()]
    for name, text in zip(("results", "compute"), texts, strict=True):
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
        tables=tables,
        pictures=pictures,
        settings=settings,
    )
    if config.readme:
        for marker, text in zip((config.marker, config.compute_marker), texts, strict=True):
            if marker:
                write_into(config.readme, marker, text)


def publish(output: Path, folder: Path, results: Mapping[str, Sequence[RunResults]]) -> None:
    """Put what is worth keeping under version control into ``folder``: rows, tables, figures, evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [
        output / f"{name}.{kind}" for name in ("results", "compute", "curves") for kind in ("json", "md")
    ]
    for file in (*texts, *sorted(output.glob("*.png"))):
        if file.is_file():
            with atomic_path(folder / file.name) as temporary:
                shutil.copyfile(file, temporary)
    for name, runs in results.items():
        write_published(published_file(folder, name), runs)
