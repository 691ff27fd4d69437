"""Roll a policy out from explicit starts: results are a function of the policy and the seeds alone."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from tqdm import tqdm

from shortcut_policy.adaptive import Steps
from shortcut_policy.data.in_order import usable_cores
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.action_reach import ActionReach
from shortcut_policy.rollout.chunk_batches import Acted, ChunkActor, check_environment
from shortcut_policy.rollout.chunk_joins import Plan
from shortcut_policy.rollout.delays import DelayedPlay, Execution
from shortcut_policy.rollout.episode import UNSAID, ActionChunkEpisode, EpisodeResult
from shortcut_policy.rollout.motion import Motion


def rollout(
    policy: Policy,
    make_env: Callable[[], gymnasium.Env],
    episode_seeds: Sequence[int],
    steps: Steps = 1,
    *,
    seed: int = 0,
    num_envs: int = 50,
    batch_size: int = 50,
    guidance: float | None = None,
    execution: Execution | None = None,
    asynchronous: bool | None = None,
    on_episode: Callable[[EpisodeResult], None] | None = None,
    progress: str | None = None,
) -> list[EpisodeResult]:
    """Play one episode from each of ``episode_seeds`` and return the results in that order.

    The results are the same bits for every ``num_envs``: an environment is a function of its reset seed and
    its actions, the noise of a chunk is a function of (``seed``, episode seed, chunk index), and
    `ChunkActor` keeps the arithmetic of an episode apart from its neighbours. ``batch_size`` belongs to the
    definition of a result, ``num_envs`` does not. Two policies rolled out with the same seeds meet the same
    starts and the same noise, which makes their comparison a paired one.

    Args:
        policy: Its observations are looked up by name in the environment's.
        make_env: Makes one environment with `gymnasium.spaces.Dict` observations and ``is_success`` in
            ``info``.
        episode_seeds: Each resets one episode.
        steps: Sampling steps of the policy, see `Policy.act`.
        seed: Of the sampling noise.
        num_envs: Episodes played side by side.
        batch_size: Rows of an inference batch.
        guidance: See `Policy.act`.
        execution: Simulated delays, and how chunks are joined; without delay, one after the other, if None.
        asynchronous: One process an environment, worth it where a step takes much longer than a message. None
            is for the environment to say: if its ``metadata`` hold ``slow``, there are as many processes as
            cores, or ``num_envs`` if that is less.
        on_episode: Called with each result as soon as its episode is over.
        progress: Show a progress bar with this title.

    Raises:
        InputError: there is no start, the objective does not sample with ``steps``, the environment or the
            delays do not fit the policy, or the environment fails in every episode.
    """
    execution = execution or Execution()
    execution.check(policy)
    if not len(episode_seeds):
        raise InputError("episode_seeds is empty: give the seed of one start at least")
    actor = ChunkActor(policy, episode_seeds, steps, seed, batch_size, guidance)

    def make_episode() -> gymnasium.Env:
        return ActionChunkEpisode(make_env(), policy.n_obs_steps, policy.n_action_steps, policy.obs_shapes)

    made: list[gymnasium.Env] = []
    if asynchronous is None:
        made.append(make_episode())
        asynchronous = bool(made[0].metadata.get("slow"))
        if asynchronous:
            made.pop().close()
            num_envs = min(num_envs, usable_cores())
    makers = [make_episode] * min(num_envs, len(episode_seeds))
    if made:
        makers[0] = made.pop
    envs: VectorEnv
    if asynchronous:
        # A fork would inherit this process's threads and OpenGL, and hang where it draws.
        envs = AsyncVectorEnv(makers, context="forkserver", autoreset_mode=AutoresetMode.DISABLED)
    else:
        envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED)
    results: list[EpisodeResult] = []
    try:
        check_environment(policy, envs.single_observation_space, envs.single_action_space)
        reach = ActionReach(envs.single_action_space)
        longest = envs.get_attr("max_steps")[0]
        _say_short(policy, longest)
        with _ProgressBar(progress, len(episode_seeds), longest) as bar:
            for first in range(0, len(episode_seeds), num_envs):
                seeds = [int(s) for s in episode_seeds[first : first + num_envs]]
                play = DelayedPlay(execution, policy, seeds, seed)
                results += _play_group(
                    envs, actor, play, first, seeds, bar, reach, on_episode or (lambda _: None)
                )
    finally:
        envs.close()
    reach.say()
    _say_failed(results)
    return results


def try_environment(
    policy: Policy, make_env: Callable[[], gymnasium.Env], steps: Steps, guidance: float | None = None
) -> None:
    """Find out in seconds whether `rollout` would refuse or fail: make an environment and play one action.

    It is the policy's own: the environment may be a robot.

    Raises:
        InputError: it cannot be made, does not fit the policy or does not say what `rollout` has to know.
    """
    episode = ActionChunkEpisode(make_env(), policy.n_obs_steps, policy.n_action_steps, policy.obs_shapes)
    try:
        check_environment(policy, episode.observation_space, episode.action_space)
        stacked, _ = episode.reset(seed=0)
        obs = {name: np.asarray(stacked[name])[None] for name in policy.obs_shapes}
        actions = policy.act(obs, steps, torch.Generator().manual_seed(0), guidance=guidance)
        info = episode.step(actions[0, :1].cpu().numpy())[-1]
        if info["error"]:
            raise InputError(f"{episode.unwrapped} failed in its first step: {info['error']}")
    finally:
        episode.close()


def _say_short(policy: Policy, longest: int | None) -> None:
    """On stderr, that most of what was demonstrated takes longer than an episode of the environment."""
    shown = policy.metadata.get("episode_steps")
    if longest is not None and isinstance(shown, int | float) and shown > longest:
        print(
            f"episodes of the environment end after {longest} steps, and half of the demonstrations took "
            f"{shown:g} or more: what takes so long cannot succeed; give the environment more steps",
            file=sys.stderr,
        )


def _say_failed(results: Sequence[EpisodeResult]) -> None:
    """On stderr, how many episodes their environment ended by an error.

    Raises:
        InputError: All of them.
    """
    failed = [result for result in results if result.error]
    if not failed:
        return
    first = f"the first with seed {failed[0].seed} after {failed[0].length} steps: {failed[0].error}"
    if len(failed) == len(results):
        raise InputError(f"the environment failed in all {len(results)} episodes, {first}")
    print(
        f"the environment failed in {len(failed)} of {len(results)} episodes, {first}; they count without "
        "success",
        file=sys.stderr,
    )


def _play_group(
    envs: VectorEnv,
    actor: ChunkActor,
    play: DelayedPlay,
    first: int,
    seeds: list[int],
    bar: "_ProgressBar",
    reach: ActionReach,
    on_episode: Callable[[EpisodeResult], None],
) -> list[EpisodeResult]:
    """Play the episodes ``first``, ``first`` + 1, ..., one an environment; the last group may be smaller."""
    idle = envs.num_envs - len(seeds)
    used = np.arange(envs.num_envs) < len(seeds)
    # Gymnasium's base class is annotated for one seed; its vector environments document a list.
    reset_seeds: Any = seeds + [None] * idle
    obs, _ = envs.reset(seed=reset_seeds, options={"reset_mask": used})
    chunks = [_Chunks() for _ in seeds]
    results: dict[int, EpisodeResult] = {}
    running = np.arange(len(seeds))
    chunk = 0
    while running.size:
        seen = {k: v[running] for k, v in obs.items()}
        acted = actor(seen, first + running, chunk, play.prefix(running))
        plan, begins = play.next(running, acted.actions, chunk)
        reach.see(plan.actions)
        actions = np.zeros((envs.num_envs, *plan.actions.shape[1:]), np.float32)
        actions[running] = plan.actions
        obs, _, _, _, info = envs.step(actions)
        chunk += 1
        for row, slot in enumerate(running):
            chunks[slot].add(acted, plan, int(begins[row]), row)
        finished = info["finished"][running]
        for slot in running[finished]:
            results[slot] = EpisodeResult(
                seed=seeds[slot],
                total_reward=float(info["total_reward"][slot]),
                score=float(info["score"][slot]),
                success=bool(info["success"][slot]),
                length=int(info["length"][slot]),
                chunks=chunk,
                network_evaluations=tuple(chunks[slot].evaluations),
                gaps=tuple(chunks[slot].gaps),
                latencies_ms=tuple(chunks[slot].milliseconds),
                motion=chunks[slot].motion(int(info["length"][slot])),
                error=str(info["error"][slot]),
                task=str(info["task"][slot]),
                success_at_end=None
                if info["success_now"][slot] == UNSAID
                else bool(info["success_now"][slot]),
            )
            on_episode(results[slot])
        bar.show(info["length"][used], info["score"][used], info["finished"][used])
        running = running[~finished]
    bar.close_group(info["score"][used])
    return [results[slot] for slot in range(len(seeds))]


@dataclass
class _Chunks:
    """What the chunks of one episode took, and what was played of them."""

    milliseconds: list[float] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    borders: list[int] = field(default_factory=list)
    planned: int = 0

    def add(self, acted: Acted, plan: Plan, begin: int, row: int) -> None:
        self.milliseconds.append(float(acted.milliseconds[row]))
        self.evaluations.append(int(acted.evaluations[row]))
        if acted.gaps is not None:
            self.gaps.append(float(acted.gaps[row]))
        self.plans.append(Plan(*(part[row] for part in plan)))
        self.borders.append(self.planned + begin)
        self.planned += len(self.plans[-1].votes)

    def motion(self, length: int) -> Motion:
        """Of the first ``length`` actions, those before the end of the episode."""
        actions, votes = (np.concatenate(parts)[:length] for parts in zip(*self.plans, strict=True))
        return Motion.of(actions, np.array(self.borders), held=int((votes == 0).sum()))


class _ProgressBar:
    """Counts environment steps, with rate, time left and running score.

    The steps that an early end saved count as done, so the bar always ends full.
    """

    def __init__(self, title: str | None, episodes: int, max_steps: int | None) -> None:
        self._max_steps, self._scores, self._group_steps = max_steps, np.empty(0), 0
        self._bar = tqdm(
            total=max_steps and episodes * max_steps,
            desc=title,
            unit=" steps",
            disable=title is None,
            dynamic_ncols=True,
            mininterval=0.2 if sys.stderr.isatty() else 15.0,
        )

    def show(self, lengths: np.ndarray, scores: np.ndarray, finished: np.ndarray) -> None:
        steps = int((np.where(finished, self._max_steps, lengths) if self._max_steps else lengths).sum())
        self._bar.set_postfix(score=f"{np.concatenate([self._scores, scores]).mean():.3f}", refresh=False)
        self._bar.update(steps - self._group_steps)
        self._group_steps = steps

    def close_group(self, scores: np.ndarray) -> None:
        self._scores, self._group_steps = np.concatenate([self._scores, scores]), 0

    def __enter__(self) -> "_ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
