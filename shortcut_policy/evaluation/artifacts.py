"""What a benchmark leaves behind: figures, films, tables, the report, and what is published."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from shortcut_policy.evaluation import plots
from shortcut_policy.evaluation.evaluate import Protocol
from shortcut_policy.evaluation.published import Losses, RunResults, published_file, slug, write_published
from shortcut_policy.evaluation.recorder import tile_videos
from shortcut_policy.evaluation.report import Picture, write_report
from shortcut_policy.evaluation.table import Rows, count_of, markdown, row_label, write_into
from shortcut_policy.paths import atomic_path, write_atomic


def draw_figures(rows: Rows, losses: Mapping[str, Losses], output: Path) -> list[Picture]:
    """Draw the figures, as PNG for documents and as SVG for the report."""
    logged = {name: curves for name, curves in losses.items() if curves}
    for suffix in ("png", "svg"):
        plots.plot_steps(rows, output / f"steps.{suffix}")
        plots.plot_latency(rows, output / f"latency.{suffix}")
        if logged:
            plots.plot_losses(logged, output / f"losses.{suffix}")
    pictures = [
        Picture(
            output / "steps.svg",
            "Score (mean over starts of the best coverage, as a fraction of 95%) and strict success "
            "(coverage above 95%) against network evaluations. Bands are 95% intervals.",
        ),
        Picture(
            output / "latency.svg",
            "Score against the time to infer one action chunk; numbers are sampling steps.",
        ),
    ]
    if logged:
        text = "Losses during training. The methods regress different targets: compare shapes, not heights."
        pictures.append(Picture(output / "losses.svg", text))
    return pictures


def tile_films(
    folder: Path, name: str, steps: int, rules: Protocol, videos: int, output: Path
) -> list[Picture]:
    """The films of one evaluated ``folder`` as one, and the paths in it."""
    film = output / f"{slug(name)}_{slug(count_of(steps, 'step'))}.mp4"
    seeds = rules.episode_seeds[:videos]
    tile_videos([folder / f"episode_{seed}.mp4" for seed in seeds], film)
    what = f"{row_label(name, steps)}, from the first {len(seeds)} starts"
    return [
        Picture(film, f"Rollouts: {what}, in real time."),
        Picture(folder / "paths.png", f"Paths of agent and block: {what}."),
    ]


def write_results(rows: Rows, pictures: Sequence[Picture], config: DictConfig) -> None:
    """Write rows, table and report, and put the table into the README."""
    output = Path(config.output)
    write_atomic(output / "results.json", json.dumps(rows, indent=2) + "\n")
    write_atomic(output / "results.md", markdown(rows))
    settings = {
        "Command": rows[0]["command"],
        "Commit": rows[0]["commit"],
        "Configuration": OmegaConf.to_yaml(config, resolve=True),
    }
    write_report(output / "report.html", title=config.title, rows=rows, pictures=pictures, settings=settings)
    if config.readme:
        write_into(Path(config.readme), config.marker, markdown(rows))


def publish(output: Path, folder: Path, results: Mapping[str, Sequence[RunResults]]) -> None:
    """Put what is worth keeping under version control into ``folder``: rows, table, figures, evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (output / "results.json", output / "results.md", *sorted(output.glob("*.png"))):
        with atomic_path(folder / file.name) as temporary:
            shutil.copyfile(file, temporary)
    for name, runs in results.items():
        write_published(published_file(folder, name), runs)
