"""Command line entry points: Hydra reads the configuration, a package does the work.

Every script in ``scripts/`` and every console command of the wheel is one function of this file. A mistake in
the input ends in one sentence on stderr and exit status 2, never in a traceback. In a sweep it ends its job
alone: the others run, and the exit status says afterwards that one failed.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from shortcut_policy.errors import Stopped, first_line, plain_sentence
from shortcut_policy.paths import CONFIG_DIR


def command(
    config_name: str, configs: Path = CONFIG_DIR
) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Turn ``task(config)`` into a command that Hydra configures from ``<configs>/<config_name>.yaml``."""

    def decorate(task: Callable[[DictConfig], None]) -> Callable[[], None]:
        failed: list[str] = []
        begun: list[bool] = []

        @wraps(task)
        def guarded(config: DictConfig) -> None:
            # A configuration may name classes in modules where the command is given. They come last: whatever
            # they are called, they take the place of no library's.
            sys.path.append(os.getcwd())
            begun.append(True)
            try:
                task(config)
            except Stopped:
                raise
            except (Exception, SystemExit) as error:
                sentence = _exit_sentence(error) if isinstance(error, SystemExit) else plain_sentence(error)
                if sentence is None:
                    raise
                job = _sweep_job()
                _end_bars()
                if job is None:
                    print(f"error: {sentence}", file=sys.stderr)
                    # It is the last word: what is left half made, such as a renderer without OpenGL,
                    # would fail once more when it is freed.
                    sys.unraisablehook = lambda unraisable: None
                    sys.exit(2)
                print(f"error in {job}: {sentence}", file=sys.stderr)
                failed.append(job)

        configured = hydra.main(version_base=None, config_path=str(configs), config_name=config_name)(guarded)

        @wraps(task)
        def run() -> None:
            failed.clear()
            begun.clear()
            # Hydra would print its own errors in many lines, and end with another status.
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")
            try:
                configured()
            except KeyboardInterrupt:
                # What is whole stays, and nothing else has a name, see docs/reliability.md.
                _end_bars()
                print(
                    "interrupted: what was written whole stays, and the same command goes on (a training "
                    "with resume=true)",
                    file=sys.stderr,
                )
                raise Stopped(128 + signal.SIGINT) from None
            except (HydraException, OmegaConfBaseException) as error:
                print(f"error: {_hydra_sentence(error)}", file=sys.stderr)
                sys.exit(2)
            except yaml.YAMLError as error:
                if begun:
                    raise
                print(f"error: {_yaml_sentence(error)}", file=sys.stderr)
                sys.exit(2)
            except OSError as error:  # of the folders that Hydra makes
                if (sentence := plain_sentence(error)) is None:
                    raise
                print(f"error: {sentence}", file=sys.stderr)
                sys.exit(2)
            except (AssertionError, AttributeError, TypeError, ValueError) as error:
                # Hydra's own of overrides that it did not think of, such as +trainer=null.
                if begun:
                    raise
                print(f"error: the settings cannot be composed ({first_line(error)})", file=sys.stderr)
                sys.exit(2)
            if failed:
                print(f"error: {len(failed)} of the sweep's jobs failed, see above", file=sys.stderr)
                sys.exit(2)

        return run

    return decorate


def _exit_sentence(error: SystemExit) -> str:
    """Where code that is not ours, such as an environment's, ended the program."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"{place.filename}, line {place.lineno}, called sys.exit({error.code!r}) in the middle of this "
        "command: let it raise an error that says what is wrong"
    )


def _end_bars() -> None:
    """Let progress bars that an error has cut short end their lines: the sentence has one of its own."""
    tqdm = getattr(sys.modules.get("tqdm"), "tqdm", None)
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def _hydra_sentence(error: Exception) -> str:
    """What Hydra could not compose, without its advice, which leads astray here, and its search path."""
    kept = []
    for line in (line.strip() for line in str(error).splitlines()):
        if line.startswith(("Config search path", "full_key", "object_type")):
            break
        if line and not line.startswith("To append"):
            kept.append(line)
    text = " ".join(kept).partition(" See https://hydra.cc")[0]
    if isinstance(error, OverrideParseException):
        reason = text.removeprefix(f"Error parsing override '{error.override}' ")
        if reason.startswith("LexerNoViableAltException"):  # and then the setting once more
            reason = "a character that cannot stand there"
        return (
            f"{error.override} cannot be read ({reason}): settings are given as key=value, and a value with "
            "=, ~, spaces or brackets of its own in quotes within quotes, \"key='a=b c'\""
        )
    if text.startswith("Could not override"):
        text = f"{text.rstrip('.')}: there is no such setting; --cfg job shows all that there are"
    return text


def _yaml_sentence(error: yaml.YAMLError) -> str:
    """The file and line of what is no YAML."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None:
        return f"a configuration is no YAML ({first_line(error)}): correct it"
    found = str(problem).replace("\t", "\\t")
    return f"{mark.name} is no YAML in line {mark.line + 1}, column {mark.column + 1} ({found}): correct it"


def _sweep_job() -> str | None:
    """The overrides of a job in a sweep whose other jobs run in this process after it; None elsewhere."""
    settings = HydraConfig.get()
    if settings.mode != RunMode.MULTIRUN or not settings.launcher._target_.endswith(".BasicLauncher"):
        return None
    return " ".join(settings.overrides.task)


@command("train")
def train(config: DictConfig) -> None:
    """Train a policy: ``scripts/train.py task=pusht objective=shortcut``."""
    from shortcut_policy.commands.train import run

    run(config)


@command("rollout")
def rollout(config: DictConfig) -> None:
    """Roll a checkpoint out in its simulator: ``scripts/rollout.py checkpoint=... steps=[1,4]``."""
    from shortcut_policy.commands.rollout import run

    run(config)


@command("convert")
def convert(config: DictConfig) -> None:
    """Between formats of demonstrations: ``scripts/convert.py input=low_dim_v15.hdf5 output=lift.zarr``."""
    from shortcut_policy.commands.convert import run

    run(config)


@command("import_mcap")
def import_mcap(config: DictConfig) -> None:
    """Recordings of a robot as demonstrations: ``scripts/import_mcap.py input=... recording=robot.yaml``."""
    from shortcut_policy.commands.import_mcap import run

    run(config)


@command("download")
def download(config: DictConfig) -> None:
    """Fetch published demonstrations: ``scripts/download.py dataset=lift_ph``."""
    from shortcut_policy.commands.download import run

    run(config)


@command("encode_latents")
def encode_latents(config: DictConfig) -> None:
    """Latents of images: ``scripts/encode_latents.py source.path=images.zip vae=... output=latents.zarr``."""
    from shortcut_policy.commands.images import encode

    encode(config)


@command("benchmark")
def benchmark(config: DictConfig) -> None:
    """Compare checkpoints or training configurations in one table: ``scripts/benchmark.py``."""
    from shortcut_policy.commands.benchmark import run

    run(config)


@command("benchmark_images")
def benchmark_images(config: DictConfig) -> None:
    """Compare methods of making images: ``scripts/benchmark_images.py --config-name benchmark_digits``."""
    from shortcut_policy.commands.images import benchmark

    benchmark(config)


@command("collect")
def collect(config: DictConfig) -> None:
    """Record demonstrations with a scripted expert: ``scripts/collect.py expert=pusht episodes=200``."""
    from shortcut_policy.commands.collect import run

    run(config)


@command("teleop")
def teleop(config: DictConfig) -> None:
    """Record a person in a page of the browser: ``scripts/teleop.py task=pusht output=mine.zarr``."""
    from shortcut_policy.commands.teleop import run

    run(config)


@command("render")
def render(config: DictConfig) -> None:
    """Draw images of demonstrations of states: ``scripts/render.py task=pusht output=pusht_images.zarr``."""
    from shortcut_policy.commands.render import run

    run(config)


@command("export")
def export(config: DictConfig) -> None:
    """Write a policy as a graph of another runtime: ``scripts/export.py checkpoint=... output=...``."""
    from shortcut_policy.commands.export import run

    run(config)


@command("serve")
def serve(config: DictConfig) -> None:
    """Serve a policy over the network: ``scripts/serve.py checkpoint=... port=8000``."""
    from shortcut_policy.commands.serve import run

    run(config)


@command("view")
def view(config: DictConfig) -> None:
    """Show what a demonstration store holds: ``scripts/view.py store=...``."""
    from shortcut_policy.commands.view import run

    run(config)


@command("sample")
def sample(config: DictConfig) -> None:
    """Sample a model of images: ``scripts/sample.py checkpoint=... steps=[1,4,128] n=40``."""
    from shortcut_policy.commands.images import sample

    sample(config)
