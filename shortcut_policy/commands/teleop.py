"""The command that records a person: ``scripts/teleop.py task=pusht output=mine.zarr``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from omegaconf import DictConfig

from shortcut_policy.adaptive import say_untaught
from shortcut_policy.build import build
from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.ending import ending
from shortcut_policy.data.collect import attributes_of_store, check_same, writer_of
from shortcut_policy.data.robomimic_files import HDF5_SUFFIXES
from shortcut_policy.data.robomimic_writer import RobomimicWriter, recorded_arrays
from shortcut_policy.data.source import expand
from shortcut_policy.data.writer import EpisodeWriter
from shortcut_policy.data.zarr_source import ZarrSource
from shortcut_policy.errors import InputError, exits_are_errors
from shortcut_policy.policy import Policy, load_policy
from shortcut_policy.recording.controls import control_of
from shortcut_policy.recording.player import PolicyPlayer
from shortcut_policy.recording.rows import PlainRows, RobomimicRows, Rows, is_robomimic
from shortcut_policy.recording.server import PageSettings, RecordingServer
from shortcut_policy.recording.session import Keep, Session, check_continues, page_picture, row_of
from shortcut_policy.rollout.chunk_batches import check_environment
from shortcut_policy.rollout.episode import ActionChunkEpisode
from shortcut_policy.rollout.observed import check_kind
from shortcut_policy.settings import Count, Index, Seed
from shortcut_policy.training.config import PolicyTask


@dataclass(frozen=True, kw_only=True)
class TeleopSettings(PageSettings):
    """``configs/teleop.yaml``.

    Attributes:
        task: Whose environment is played.
        output: The store; one of a person's is continued.
        seed: Of the starts, see `Session`,
        keep: as well.
        size: Side of the pictures in pixels; the environment's own if None.
        checkpoint: Of the policy that plays; the person plays all the time if None.
        steps: Its sampling steps.
        noise_seed: Of its noise.
        device: Where it computes.
        trust: See `load_policy`.
    """

    task: PolicyTask
    output: str
    seed: Index = 0
    keep: Keep = "corrections"
    size: Count | None = None
    checkpoint: str | None = None
    steps: Count = 1
    noise_seed: Seed = 0
    device: str = "cpu"
    trust: str | Sequence[str] | None = None


def run(config: DictConfig) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        InputError: A setting is wrong, the environment cannot be played by hand or by the policy, or the
            store cannot be continued with it.
    """
    settings = read(config, TeleopSettings)
    policy = None
    if settings.checkpoint is not None:
        policy = load_policy(settings.checkpoint, settings.device, settings.trust)
        say_untaught(policy.objective, policy.metadata, settings.steps)
    made: list[EpisodeWriter | RobomimicWriter] = []

    def make() -> Session:
        session, writer = make_session(settings, policy)
        made.append(writer)
        return session

    server = RecordingServer(make, f"{settings.task.name}, into {settings.output}", settings)
    try:
        server.start()
        # Around the closing, too: a second Ctrl-C must not keep the last episodes out of the file.
        with ending() as ended:
            print(f"record at {server.url}", flush=True)
            print("Ctrl-C ends it; what has been stored stays", flush=True)
            # By the second, because a signal that another thread gets does not wake this one.
            while not (ended.wait(1.0) or server.ended.done()):
                pass
            server.stop()
            _close(made)
        server.ended.result()
    finally:
        server.stop()
        _close(made)


def _close(made: list[EpisodeWriter | RobomimicWriter]) -> None:
    """Complete what was written, once."""
    while made:
        writer = made.pop()
        writer.close()
        print(f"{writer.path}: {writer.n_episodes} episodes, {writer.n_steps} steps")


def make_session(
    settings: TeleopSettings, policy: Policy | None
) -> tuple[Session, EpisodeWriter | RobomimicWriter]:
    """The environment, the store and what plays, checked against each other before anybody plays.

    Raises:
        InputError: See `run`.
    """
    env = make_env(settings)
    control = control_of(env)
    rows: Rows = RobomimicRows(env) if is_robomimic(env) else PlainRows(env)
    player = None
    if policy is not None:
        episode = ActionChunkEpisode(env, policy.n_obs_steps, policy.n_action_steps)
        check_environment(policy, episode.observation_space, episode.action_space)
        player = PolicyPlayer(policy, settings.steps, settings.noise_seed)
    row, info = row_of(env, rows, marked=player is not None and settings.keep == "episodes")
    page_picture(env)
    attributes = rows.attributes(settings.task.name, info)
    check_same(settings.output, attributes)
    if (there := recorded(settings.output)) is not None:
        check_continues(settings.output, row, there)
    writer = writer_of(settings.output, attributes)
    try:
        options: dict[str, Any] = {"seed": settings.seed, "player": player, "keep": settings.keep}
        return Session(env, writer, control, rows, least=shortest(settings.task), **options), writer
    except BaseException:
        writer.close()
        raise


def make_env(settings: TeleopSettings) -> gymnasium.Env:
    """The environment of the task, with pictures.

    Raises:
        InputError: The task has none, or it cannot be made.
    """
    if not settings.task.env:
        raise InputError(
            f"task '{settings.task.name}' has no environment to record in: give it an env, or take another"
        )
    size = {} if settings.size is None else {"render_size": settings.size}
    try:
        with exits_are_errors():
            env: gymnasium.Env = build({**settings.task.env, "render_mode": "rgb_array", **size})
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(f"the environment {dict(settings.task.env)} cannot be made: {error}") from error
    except InputError:
        raise
    except Exception as error:  # of whatever kind: it is the simulator's
        found = f"{type(error).__name__}: {error}"
        raise InputError(f"the environment {dict(settings.task.env)} cannot be made: {found}") from error
    check_kind(env)
    return env


def shortest(task: PolicyTask) -> int:
    """Steps of the shortest episode that has a window, see `create_windows`."""
    return max(1, task.horizon - task.n_obs_steps - task.n_action_steps + 2)


def recorded(output: str) -> dict[str, tuple[tuple[int, ...], np.dtype]] | None:
    """Key -> shape and type of a step, of what is to be continued; None if it holds no episode yet."""
    path = expand(output)
    if path.suffix in HDF5_SUFFIXES:
        return recorded_arrays(path)
    if attributes_of_store(path) is None:
        return None
    source = ZarrSource(path)
    return {key: (source.shapes[key], source.dtypes[key]) for key in source.keys}
