"""Evaluate one policy at one step count, and keep what came out in a folder."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

import gymnasium
import numpy as np
import torch

from shortcut_policy.adaptive import Auto, check_steps
from shortcut_policy.build import build
from shortcut_policy.errors import InputError, exits_are_errors
from shortcut_policy.fingerprint import fingerprint
from shortcut_policy.locks import writer_lock
from shortcut_policy.paths import named, write_atomic
from shortcut_policy.policy import Policy
from shortcut_policy.provenance import command_line, commit
from shortcut_policy.rollout.delays import Execution
from shortcut_policy.rollout.episode import EpisodeResult, close_environment
from shortcut_policy.rollout.latency import Latency, measure_latency, summarise_calls
from shortcut_policy.rollout.motion import mean_motion
from shortcut_policy.rollout.path_figure import plot_paths
from shortcut_policy.rollout.play import rollout, try_environment
from shortcut_policy.rollout.recorder import EpisodeRecorder
from shortcut_policy.rollout.sight import Sight
from shortcut_policy.rollout.statistics import bootstrap_interval, wilson_interval
from shortcut_policy.settings import Count, Index, check_fields, flatten
from shortcut_policy.training.comparison import first_difference

PATHS_SHOWN = 8


@dataclass(frozen=True)
class EvaluationProtocol:
    """How policies are evaluated; with a policy and a step count it decides every number but the wall-clock.

    Attributes:
        episodes: Starts.
        seed: Environment seed of the first start; the others follow it.
        noise_seed: Of the sampling noise.
        batch_size: Rows of an inference batch (see `rollout`).
        env: Keys laid over the environment of the policy's task.
    """

    episodes: Count = 50
    seed: Index = 100000
    noise_seed: Index = 0
    batch_size: Count = 50
    env: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def episode_seeds(self) -> range:
        """Environment seeds of all starts."""
        return range(self.seed, self.seed + self.episodes)


@dataclass(frozen=True)
class RolloutOptions:
    """How an evaluation runs; none of it changes a score.

    Attributes:
        num_envs: Episodes played side by side.
        asynchronous: One process an environment; if None, for those that say that they are slow.
        videos: Film the first so many episodes.
        plot: Draw the paths of the first episodes, if the environment says that it has ``paths``.
        overwrite: Evaluate again what is finished.
        latency: Time the policy after the episodes, see `measure_latency`.
    """

    num_envs: Count = 50
    asynchronous: bool | None = None
    videos: Index = 0
    plot: bool = False
    overwrite: bool = False
    latency: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


def check(
    policy: Policy,
    counts: Sequence[int | Auto],
    protocol: EvaluationProtocol,
    guidance: float | None = None,
    execution: Execution | None = None,
) -> None:
    """Find out in seconds whether `evaluate` would refuse at one of these step counts, one at least.

    Raises:
        InputError: the objective does not sample with one of them or with ``guidance``, or the environment
            or the delays do not fit the policy.
    """
    if execution is not None:
        execution.check(policy)
    for steps in counts:
        check_steps(policy.objective, steps)
    policy.objective.sampling_cond(torch.zeros(1, 1), guidance)
    try_environment(policy, environment_maker(policy, protocol.env), counts[0], guidance)


def evaluate(
    policy: Policy,
    steps: int | Auto,
    folder: Path,
    protocol: EvaluationProtocol,
    options: RolloutOptions,
    title: str = "rollout",
    guidance: float | None = None,
    execution: Execution | None = None,
) -> dict[str, Any]:
    """Roll ``policy`` out and write ``summary.json``, ``episodes.jsonl``, films and a figure into ``folder``.

    A folder is *finished* when its ``summary.json``, which is written last, was made with the same settings:
    fingerprint of the policy, its environment, code and libraries, steps, guidance, delays, protocol and kind
    of device. A finished folder is read, not computed again, unless it lacks films, the figure or the latency
    asked for now, or ``options.overwrite`` is set. Both are said: that it is reused, or what has changed.

    Returns:
        The summary.
    """
    if options.plot and not _has_paths(policy, protocol):
        options = replace(options, plot=False)
    device = policy.device.type
    parts = fingerprint(policy, environment_spec(policy, protocol.env))
    settings = {**parts, "steps": steps, "device": device, **asdict(protocol)}
    if isinstance(steps, Auto):
        settings |= {"steps": steps.max_steps, "tolerance": steps.tolerance}
    if guidance is not None:
        settings |= {"guidance": guidance}
    if execution not in (None, Execution()):
        settings |= {"execution": asdict(execution)}
    with writer_lock(folder):
        found = _finished(folder, settings, protocol, options)
        return found or _play(policy, steps, folder, protocol, options, title, guidance, execution, settings)


def _play(
    policy: Policy,
    steps: int | Auto,
    folder: Path,
    protocol: EvaluationProtocol,
    options: RolloutOptions,
    title: str,
    guidance: float | None,
    execution: Execution | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Roll out and write what `evaluate` says; the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    # Films and paths of an earlier evaluation would pass for those of this one.
    for pattern in ("summary.json", "episode_*.mp4", "episode_*.npz", "paths.png"):
        for file in folder.glob(pattern):
            file.unlink()
    seeds = protocol.episode_seeds
    make_env = environment_maker(policy, protocol.env)
    if options.videos or options.plot:
        make_env = _recorded(policy, protocol, options, folder)
    start = time.perf_counter()
    part = folder / "episodes.part.jsonl"
    part.write_text("")

    def keep(result: EpisodeResult) -> None:
        with named(part), part.open("a", encoding="utf-8") as lines:
            print(result.to_json(), file=lines)

    results = rollout(
        policy,
        make_env,
        seeds,
        steps,
        seed=protocol.noise_seed,
        num_envs=options.num_envs,
        batch_size=protocol.batch_size,
        guidance=guidance,
        execution=execution,
        asynchronous=options.asynchronous,
        on_episode=keep,
        progress=title,
    )
    seconds = time.perf_counter() - start
    write_atomic(folder / "episodes.jsonl", "".join(f"{result.to_json()}\n" for result in results))
    part.unlink()
    if options.plot:
        plot_paths([folder / f"episode_{seed}.npz" for seed in seeds[:PATHS_SHOWN]], folder / "paths.png")
    summary = {
        "settings": settings,
        **summarise(results),
        "latency": asdict(_latency(policy, steps, protocol)) if options.latency else None,
        "seconds": round(seconds, 2),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": command_line(),
        "policy": policy.metadata,
    }
    write_atomic(folder / "summary.json", json.dumps(summary, indent=2, default=str) + "\n")
    return summary


def summarise(results: list[EpisodeResult]) -> dict[str, Any]:
    """Means, 95% intervals (bootstrap over starts, Wilson for the rate), latency of the rollout's batches.

    Of an environment of several tasks ``tasks`` has the same of each, and ``success_over_tasks`` is the mean
    of their rates, which weighs them alike however many starts each had.
    """
    scores = np.array([result.score for result in results])
    successes = sum(result.success for result in results)
    p50, p95 = np.percentile(np.concatenate([result.latencies_ms for result in results]), [50, 95])
    return {
        "episodes": len(results),
        "failed": sum(bool(result.error) for result in results),
        "score": float(scores.mean()),
        "score_ci": bootstrap_interval(scores),
        "success": successes / len(results),
        "success_ci": wilson_interval(successes, len(results)),
        "return": float(np.mean([result.total_reward for result in results])),
        "length": float(np.mean([result.length for result in results])),
        "network_evaluations": round(mean(chain(*(result.network_evaluations for result in results))), 2),
        **mean_motion(result.motion for result in results),
        "batch_latency_ms_p50": round(float(p50), 3),
        "batch_latency_ms_p95": round(float(p95), 3),
        **_success_at_end(results),
        **_by_task(results),
    }


def _success_at_end(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Share of episodes that ended in success, where the environment tells it from success at some step."""
    ends = [result.success_at_end for result in results if result.success_at_end is not None]
    return {"success_at_end": sum(ends) / len(results)} if ends else {}


def _by_task(results: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Starts and success of each task by its name, and the mean over tasks; nothing if there is one."""
    names = sorted({result.task for result in results})
    if len(names) < 2:
        return {}
    tasks: dict[str, dict[str, Any]] = {}
    for name in names:
        own = [result for result in results if result.task == name]
        successes = sum(result.success for result in own)
        tasks[name] = {
            "episodes": len(own),
            "success": successes / len(own),
            "success_ci": wilson_interval(successes, len(own)),
            "score": mean(result.score for result in own),
            **_success_at_end(own),
        }
    return {"success_over_tasks": mean(task["success"] for task in tasks.values()), "tasks": tasks}


def _latency(policy: Policy, steps: int | Auto, protocol: EvaluationProtocol) -> Latency:
    """Of automatic steps, which depend on what is seen, while one robot plays the first start."""
    if isinstance(steps, int):
        return measure_latency(policy, steps)
    make_env = environment_maker(policy, protocol.env)
    (result,) = rollout(policy, make_env, protocol.episode_seeds[:1], steps, num_envs=1, batch_size=1)
    return summarise_calls(result.latencies_ms, policy.device)


def environment_spec(policy: Policy, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Specification of the environment of the policy's task, with ``overrides`` laid over it."""
    if "_target_" in overrides and not policy.metadata.get("task"):
        return dict(overrides)
    return {**(task_of(policy).get("env") or {}), **overrides}


def task_of(policy: Policy) -> Mapping[str, Any]:
    """What the policy's metadata say of its task: ``name`` and ``env``.

    Raises:
        InputError: They do not say.
    """
    task = policy.metadata.get("task")
    if not isinstance(task, Mapping) or "name" not in task:
        raise InputError(
            f"the policy's metadata say task={task}, and not which task it was trained on: save it with a "
            'task, {"name": ..., "env": {"_target_": "gymnasium.make", "id": ...}}, or take another'
        )
    return task


def environment_maker(policy: Policy, overrides: dict[str, Any], **extra: Any) -> Callable[[], gymnasium.Env]:
    """Makes the environment of the policy's task, from the ``_target_`` in its metadata.

    Raises:
        InputError: the task has no environment; when it is called, this one cannot be made.
    """
    spec = {**environment_spec(policy, overrides), **extra}
    if "_target_" not in spec:
        raise InputError(
            f"task '{task_of(policy)['name']}' has no environment to roll out in: name one with "
            "+env._target_=gymnasium.make +env.id=<module>:<name>"
        )
    return made_by(spec)


def made_by(spec: Mapping[str, Any]) -> Callable[[], gymnasium.Env]:
    """Makes an environment by its specification.

    Raises:
        InputError: When it is called, it cannot be made.
    """

    def make() -> gymnasium.Env:
        try:
            with exits_are_errors():
                env: gymnasium.Env = build(spec)
        except (gymnasium.error.Error, ImportError) as error:
            raise InputError(f"the environment {spec} cannot be made: {error}") from error
        except InputError:
            raise
        except Exception as error:  # of whatever kind: it is the simulator's
            found = f"{type(error).__name__}: {error}"
            raise InputError(f"the environment {spec} cannot be made: {found}") from error
        return env

    return make


def _has_paths(policy: Policy, protocol: EvaluationProtocol) -> bool:
    """Whether the task is one of the plane, whose paths can be drawn over a picture."""
    env = environment_maker(policy, protocol.env)()
    has_paths = bool(env.metadata.get("paths"))
    close_environment(env)
    return has_paths


def _recorded(
    policy: Policy, protocol: EvaluationProtocol, options: RolloutOptions, folder: Path
) -> Callable[[], gymnasium.Env]:
    make_env = environment_maker(policy, protocol.env, render_mode="rgb_array")
    seeds = protocol.episode_seeds
    paths = seeds[:PATHS_SHOWN] if options.plot else ()
    sight = Sight(policy) if policy.cameras else None
    return lambda: EpisodeRecorder(make_env(), folder, seeds[: options.videos], paths, sight)


def _finished(
    folder: Path, settings: dict[str, Any], protocol: EvaluationProtocol, options: RolloutOptions
) -> dict[str, Any] | None:
    path = folder / "summary.json"
    expected = [folder / f"episode_{seed}.mp4" for seed in protocol.episode_seeds[: options.videos]]
    expected += [folder / "paths.png"] if options.plot else []
    expected.append(folder / "episodes.jsonl")
    if options.overwrite or not path.is_file() or not all(file.is_file() for file in expected):
        return None
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        made_with = flatten(summary["settings"])
    except (ValueError, KeyError, TypeError) as error:
        print(f"evaluated again: {folder} (its summary.json is damaged: {type(error).__name__}: {error})")
        return None
    difference = first_difference(made_with, flatten(json.loads(json.dumps(settings, default=str))))
    if difference is None and options.latency and summary.get("latency") is None:
        difference = "its latency", "not measured", "wanted"
    if difference is None:
        print(f"reused: {folder}")
        return summary
    key, was, wanted = difference
    print(f"evaluated again: {folder} ({key} was {was}, is {wanted})")
    return None
