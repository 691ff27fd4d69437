"""Environments with one peculiarity each."""

import sys
from pathlib import Path
from typing import ClassVar

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import TimeLimit

from shortcut_policy.benchmark.task_table import OF_TASKS, task_table
from shortcut_policy.errors import InputError, Stopped
from shortcut_policy.paths import check_film
from shortcut_policy.policy import Policy
from shortcut_policy.rollout import episode as episodes
from shortcut_policy.rollout import recorder
from shortcut_policy.rollout.action_reach import ActionReach
from shortcut_policy.rollout.episode import ActionChunkEpisode
from shortcut_policy.rollout.evaluate import made_by, summarise
from shortcut_policy.rollout.latency import measure_latency
from shortcut_policy.rollout.observed import Observed
from shortcut_policy.rollout.play import rollout, try_environment
from shortcut_policy.rollout.recorder import EpisodeRecorder

LENGTH = 12


class Plain(gymnasium.Env):
    """Follows its actions; ends after `LENGTH` steps."""

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 5}
    observation_space: spaces.Space = spaces.Dict(
        keypoint=spaces.Box(0, 512, (9, 2), np.float32), agent_pos=spaces.Box(0, 512, (2,), np.float32)
    )
    action_space: spaces.Space = spaces.Box(0, 512, (2,), np.float32)
    max_steps: int | None = LENGTH

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.t = seed, 0
        self.place = self.np_random.uniform(100, 400, 2).astype(np.float32)
        return self.obs(), {}

    def obs(self):
        return {"keypoint": np.tile(self.place, (9, 1)), "agent_pos": self.place.copy()}

    def step(self, action):
        self.place += np.float32(0.1) * (np.asarray(action, np.float32) - self.place)
        self.t += 1
        over = self.max_steps is not None and self.t >= self.max_steps
        return self.obs(), 0.5, False, over, {"is_success": False}

    def render(self):
        return np.full((32, 48, 3), 20 * self.t, np.uint8)


class More(Plain):
    """Further observations that no array is made of."""

    observation_space = spaces.Dict(
        {
            **Plain.observation_space.spaces,
            "cameras": spaces.Dict(top=spaces.Box(0, 255, (4, 4, 3), np.uint8)),
            "stage": spaces.Discrete(3),
            "instruction": spaces.Text(20),
        }
    )

    def obs(self):
        more = {"cameras": {"top": np.zeros((4, 4, 3), np.uint8)}, "stage": 1, "instruction": "push"}
        return {**super().obs(), **more}


class Flat(Plain):
    """Wants its actions as a column."""

    action_space = spaces.Box(0, 512, (2, 1), np.float32)

    def step(self, action):
        assert action.shape == (2, 1)
        return super().step(action[:, 0])


class Reused(Plain):
    """Writes each observation into the same arrays."""

    def obs(self):
        found = super().obs()
        if not hasattr(self, "kept"):
            self.kept = found
        for name, value in found.items():
            self.kept[name][:] = value
        return self.kept


class NoOptions(Plain):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class Diverges(Plain):
    """In the episodes of odd seeds."""

    def step(self, action):
        if self.seed % 2 and self.t == 5:
            raise RuntimeError("the block left the table")
        return super().step(action)


class Batched(Plain):
    """Gives all that is a number as an array of one number, as simulators of many robots do."""

    def step(self, action):
        obs, *numbers, info = super().step(action)
        reward, terminated, truncated = (np.array([number]) for number in numbers)
        return obs, reward, terminated, truncated, {name: np.array([is_so]) for name, is_so in info.items()}


class Tensors(Plain):
    """The same as tensors, which have a gradient where the simulator is differentiable."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        reward = torch.tensor([reward], requires_grad=True)
        obs = {name: torch.tensor(value, requires_grad=True) for name, value in obs.items()}
        return obs, reward, torch.tensor(terminated), torch.tensor([truncated]), info


class SeesNothing(Diverges):
    """Says by NaN alone that it has diverged, as a simulator of contacts does."""

    def step(self, action):
        obs, *rest = Plain.step(self, action)
        if self.seed % 2 and self.t >= 5:
            obs["keypoint"][0, 0] = np.nan
        return obs, *rest


class NotANumber(Diverges):
    def step(self, action):
        try:
            return super().step(action)
        except RuntimeError:
            return self.obs(), float("nan"), False, False, {"is_success": True}


@pytest.mark.parametrize("kind", [More, Flat, Reused, NoOptions, Batched, Tensors])
def test_what_differs_from_others_in_form_plays_as_they_do(tiny_policy: Policy, kind: type[Plain]):
    expected = rollout(tiny_policy, Plain, range(3), seed=1)
    try_environment(tiny_policy, kind, steps=1)
    assert rollout(tiny_policy, kind, range(3), seed=1) == expected


@pytest.mark.parametrize("kind", [Diverges, NotANumber])
def test_a_simulator_that_fails_loses_that_episode(tiny_policy: Policy, kind: type[Plain], capsys):
    expected = rollout(tiny_policy, Plain, range(4), seed=1)
    found = rollout(tiny_policy, kind, range(4), seed=1, num_envs=2)
    assert found[::2] == expected[::2]
    assert all(one.error and not one.success and one.length == 5 for one in found[1::2])
    summary = summarise(found)
    assert summary["failed"] == 2 and summary["episodes"] == 4
    assert '"error": "' in found[1].to_json() and "error" not in found[0].to_json()
    assert "failed in 2 of 4 episodes, the first with seed 1 after 5 steps: " in capsys.readouterr().err
    with pytest.raises(InputError, match="failed in all 2 episodes, the first with seed 1 after 5 steps"):
        rollout(tiny_policy, kind, [1, 3])


def test_an_observation_that_is_not_finite_loses_that_episode(tiny_policy: Policy, capsys):
    """It would end the rollout, and take the other episodes along."""
    expected = rollout(tiny_policy, Plain, range(4), seed=1)
    found = rollout(tiny_policy, SeesNothing, range(4), seed=1, num_envs=2)
    assert found[::2] == expected[::2]
    why = "ValueError: observation 'keypoint' holds NaN or infinity"
    assert [one.error for one in found[1::2]] == 2 * [why]
    assert not any(one.success for one in found[1::2]) and summarise(found)["failed"] == 2

    class Ends(SeesNothing):
        def step(self, action):
            obs, reward, _, truncated, info = super().step(action)
            return obs, reward, bool(np.isnan(obs["keypoint"]).any()), truncated, info

    # One that sees it itself and ends the episode has ended it.
    assert [(one.length, one.error) for one in rollout(tiny_policy, Ends, [1])] == [(5, "")]
    # Of what the policy does not look at nothing depends.
    space = spaces.Dict({**Plain.observation_space.spaces, "depth": spaces.Box(0, 9, (2,), np.float32)})
    blind = {"observation_space": space, "obs": lambda self: {**Plain.obs(self), "depth": [np.nan, 1.0]}}
    assert rollout(tiny_policy, type("Blind", (Plain,), blind), range(4), seed=1) == expected

    class Never(Plain):
        def obs(self):
            return {**super().obs(), "agent_pos": np.full(2, np.inf, np.float32)}

    with pytest.raises(InputError, match=r"cannot be reset with seed=0: .*'agent_pos' holds NaN or infinity"):
        rollout(tiny_policy, Never, range(2))


def test_a_reset_that_fails_later_is_an_episode_that_fails(tiny_policy: Policy):
    class Stuck(Plain):
        def reset(self, *, seed=None, options=None):
            if seed == 1:
                raise RuntimeError("no place for the block")
            return super().reset(seed=seed, options=options)

    found = rollout(tiny_policy, Stuck, range(3), num_envs=1)
    assert [one.error for one in found] == ["", "RuntimeError: no place for the block", ""]
    assert (found[1].length, found[1].score, found[1].success) == (0, 0.0, False)
    with pytest.raises(InputError, match="cannot be reset with seed=1: RuntimeError: no place for the block"):
        rollout(tiny_policy, Stuck, [1, 2])


def test_an_environment_that_ends_the_program_is_one_that_fails(tiny_policy: Policy):
    class Leaves(Plain):
        def reset(self, *, seed=None, options=None):
            if seed == 1:
                sys.exit(3)
            return super().reset(seed=seed, options=options)

        def step(self, action):
            if self.seed == 2 and self.t == 5:
                sys.exit("no licence")
            return super().step(action)

        def close(self):
            sys.exit()

    found = rollout(tiny_policy, Leaves, range(3), num_envs=1)
    reasons = ["", "ExitError: it called sys.exit(3)", "ExitError: it called sys.exit('no licence')"]
    assert [one.error for one in found] == reasons

    class Ends(Plain):
        def step(self, action):
            raise Stopped(143)  # a signal, which came in the middle of it

    with pytest.raises(Stopped):
        rollout(tiny_policy, Ends, range(2))
    with pytest.raises(InputError, match=r"cannot be made: ExitError: it called sys.exit\(2\)"):
        made_by({"_target_": f"{__name__}.leave"})()


def leave() -> None:
    """In place of an environment."""
    sys.exit(2)


@pytest.mark.parametrize("seeds", [[1], [0, 1]])
def test_what_an_environment_says_to_its_user_ends_the_rollout_in_its_own_words(tiny_policy, seeds):
    class Asks(Plain):
        def reset(self, *, seed=None, options=None):
            if seed == 1:
                raise InputError("give the task its scene")
            return super().reset(seed=seed, options=options)

    with pytest.raises(InputError, match=r"^give the task its scene$"):
        rollout(tiny_policy, Asks, seeds, num_envs=1)


def test_what_fails_at_once_is_told_before_the_rollout(tiny_policy: Policy):
    class Broken(Plain):
        def step(self, action):
            raise RuntimeError("no licence")

    with pytest.raises(InputError, match="failed in its first step: RuntimeError: no licence"):
        try_environment(tiny_policy, Broken, steps=1)


def test_an_environment_that_fails_to_close_costs_no_results(tiny_policy: Policy, capsys):
    class Leaks(Plain):
        def close(self):
            raise AttributeError("'NoneType' object has no attribute 'eglDestroyContext'")

    try_environment(tiny_policy, Leaks, steps=1)
    assert rollout(tiny_policy, Leaks, range(2), seed=1) == rollout(tiny_policy, Plain, range(2), seed=1)
    assert "failed to close: AttributeError: 'NoneType' object has no attribute" in capsys.readouterr().err


def test_an_episode_without_end_is_cut(tiny_policy: Policy, monkeypatch, capsys):
    class Endless(Plain):
        max_steps = None

    monkeypatch.setattr(episodes, "MOST_STEPS", 20)
    assert [one.length for one in rollout(tiny_policy, Endless, range(2))] == [20, 20]
    assert "was cut after 20 steps, because nothing says when it ends" in capsys.readouterr().err
    # One that is registered with a length ends by itself.
    limited = gymnasium.wrappers.TimeLimit(Endless(), 30)
    limited.unwrapped.spec = gymnasium.envs.registration.EnvSpec("Endless-v0", max_episode_steps=30)
    assert [one.length for one in rollout(tiny_policy, lambda: limited, [0])] == [30]


@pytest.mark.parametrize("ends", ["fails", "is cut"])
def test_a_film_of_an_episode_that_does_not_end_by_itself_is_whole(
    tiny_policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str
):
    class First(Plain):
        max_steps = None

        def step(self, action):
            if ends == "fails" and self.seed == 0 and self.t == 5:
                raise RuntimeError("diverged")
            obs, reward, terminated, _, info = super().step(action)
            return obs, reward, terminated, self.seed > 0 and self.t >= LENGTH, info

        def render(self):
            return np.full((32, 48, 3), 128, np.uint8)

    monkeypatch.setattr(episodes, "MOST_STEPS", 20)
    # One environment for all of them: the next episode must not get into the film of the one before.
    found = rollout(tiny_policy, lambda: EpisodeRecorder(First(), tmp_path, [0, 2], []), range(3), num_envs=1)
    lengths = [5 if ends == "fails" else 20, LENGTH, LENGTH]
    assert [one.length for one in found] == lengths
    assert sorted(path.name for path in tmp_path.iterdir()) == ["episode_0.mp4", "episode_2.mp4"]
    for seed in (0, 2):
        frames = [frame for frame in imageio.get_reader(tmp_path / f"episode_{seed}.mp4")]
        assert len(frames) == lengths[seed] + 1


@pytest.mark.parametrize("success", [None, "yes", np.array([True, False]), float("nan")])
def test_success_that_says_nothing_is_refused(success: object):
    class Vague(Plain):
        def step(self, action):
            return *super().step(action)[:4], {"is_success": success}

    one = ActionChunkEpisode(Vague(), 1, 2)
    one.reset(seed=0)
    with pytest.raises(InputError, match="in its info, which must be true or false"):
        one.step(np.zeros((1, 2), np.float32))


@pytest.mark.parametrize("success", [np.array([True]), np.bool_(True), 1, 1.0])
def test_success_may_be_a_number(success: object):
    assert episodes.read_success(Plain(), {"is_success": success}) is True


@pytest.mark.parametrize("now", [None, "False", np.array([True, False]), float("nan")])
def test_words_on_success_and_on_the_end_that_say_nothing_are_refused(now: object):
    """Texts and NaN passed for true; an array ended the rollout in a traceback."""

    def played(**said: object):
        class Vague(Plain):
            def step(self, action):
                obs, reward, terminated, truncated, info = super().step(action)
                terminated, truncated = said.get("terminated", terminated), said.get("truncated", truncated)
                return obs, reward, terminated, truncated, {**info, **said}

        one = ActionChunkEpisode(Vague(), 1, 2)
        one.reset(seed=0)
        return one.step(np.zeros((3, 2), np.float32))[-1]

    with pytest.raises(InputError, match=r"reports success_now=.* in its info, which must be true or false"):
        played(success_now=now)
    for word in ("terminated", "truncated"):
        if now is None:  # what has been left out of a return
            assert not played(**{word: now})["finished"]
        else:
            with pytest.raises(InputError, match=f"reports {word}=.*, which must be true or false"):
                played(**{word: now})
    assert played(success_now=np.array([True]))["success_now"] == 1


class OldStep(Plain):
    def step(self, action):
        obs, reward, _, over, info = super().step(action)
        return obs, reward, over, info


class OldReset(Plain):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


@pytest.mark.parametrize(
    "kind, said",
    [(OldStep, r"step\(\) of .* gives 4 values in place of"), (OldReset, r"reset\(\) of .* gives a dict in")],
)
def test_environments_of_the_old_gym_are_told(tiny_policy: Policy, kind: type[Plain], said: str):
    with pytest.raises(InputError, match=f"{said}.*wrap it"):
        try_environment(tiny_policy, kind, steps=1)


def test_info_that_is_no_dictionary_is_told(tiny_policy: Policy):
    class Silent(Plain):
        def step(self, action):
            return *super().step(action)[:4], None

    with pytest.raises(InputError, match="must hold is_success after every step, and holds no names: None"):
        try_environment(tiny_policy, Silent, steps=1)


@pytest.mark.parametrize("limit", [float("inf"), "long", -1, float("nan"), lambda: 12])
def test_what_says_no_number_of_steps_is_no_limit(limit: object):
    env = Plain()
    env.max_steps = limit
    assert episodes.longest_episode(env) is None
    env.max_steps = np.int64(7)
    assert episodes.longest_episode(env) == 7


@pytest.mark.parametrize("kind, inside", [(np.int64, [-3, 600]), (np.uint8, [0, 255])])
def test_actions_of_whole_numbers_have_the_type_of_their_space(kind: type, inside: list[int]):
    """Or the space says that it does not contain them; bytes would turn over."""

    class Whole(Plain):
        action_space = spaces.Box(0, 255, (2,), kind)

        def step(self, action):
            self.given = action
            return super().step(action)

    env = Whole()
    one = ActionChunkEpisode(env, 1, 1)
    one.reset(seed=0)
    one.step(np.array([[-3.2, 600.4]], np.float32))
    assert env.given.dtype == kind and env.given.tolist() == inside
    one.step(np.array([[1.6, 2.4]], np.float32))
    assert env.action_space.contains(env.given) and env.given.tolist() == [2, 2]


class OfOldGym:
    action_space, observation_space = Plain.action_space, Plain.observation_space


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda: SyncVectorEnv([Plain, Plain]), r"is 2 environments side by side: name one environment"),
        (lambda: None, r"the environment is a NoneType \(None\), and must be a gymnasium.Env"),
        (OfOldGym, r"the environment is a OfOldGym .* wrap one of the old Gym, as the package shimmy does"),
    ],
)
def test_what_is_no_environment_or_several_is_told(tiny_policy: Policy, make, said: str):
    for play in (lambda: try_environment(tiny_policy, make, 1), lambda: rollout(tiny_policy, make, [0])):
        with pytest.raises(InputError, match=said):
            play()


def test_actions_that_are_no_box_are_refused(tiny_policy: Policy):
    class Choices(Plain):
        action_space = spaces.MultiDiscrete([3, 3])

    with pytest.raises(InputError, match=r"takes actions MultiDiscrete.*, and a policy gives numbers"):
        try_environment(tiny_policy, Choices, steps=1)


def film(kind: type[Plain], folder: Path) -> list[np.ndarray]:
    filmed = EpisodeRecorder(kind(), folder, [0], [])
    filmed.reset(seed=0)
    while not filmed.step(np.zeros(2, np.float32))[3]:
        pass
    return [frame for frame in imageio.get_reader(folder / "episode_0.mp4")]


class Floats(Plain):
    def render(self):
        return np.full((32, 48, 3), 0.5, np.float32)


class Lists(Plain):
    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def render(self):
        return [np.full((32, 48, 4), 128, np.uint8)]


class Odd(Plain):
    def render(self):
        return np.full((31, 47, 3), 128, np.uint8)


class Growing(Plain):
    def render(self):
        return np.full((32 + self.t, 48 - self.t, 3), 128, np.uint8)


@pytest.mark.parametrize("kind", [Floats, Lists, Odd, Growing])
def test_frames_are_made_fit_for_a_film(tmp_path: Path, kind: type[Plain]):
    frames = film(kind, tmp_path)
    assert len(frames) == LENGTH + 1
    assert all(frame.shape == (32, 48, 3) for frame in frames)
    assert all(abs(frame[:16, :16].mean() - 128) < 6 for frame in frames)


def test_a_film_without_its_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As ffmpeg leaves one on a full disk, of which imageio says nothing."""

    class Cut:
        def __init__(self, path: Path, fps: float) -> None:
            self.path, self.whole = path, open_video(path, fps)
            self.append_data = self.whole.append_data

        def close(self) -> None:
            self.whole.close()
            self.path.write_bytes(self.path.read_bytes()[:-100])

    open_video = recorder.open_video
    film(Odd, tmp_path / "whole")
    check_film(tmp_path / "whole" / "episode_0.mp4")
    monkeypatch.setattr(recorder, "open_video", Cut)
    with pytest.raises(InputError, match=r"films and paths cannot be written.*not written to its end"):
        film(Odd, tmp_path / "cut")
    assert not list((tmp_path / "cut").iterdir())


@pytest.mark.parametrize("frame", [None, [], np.zeros((32, 48)), "picture"])
def test_what_is_no_picture_is_told(tmp_path: Path, frame: object):
    class Blind(Plain):
        def render(self):
            return frame

    with pytest.raises(InputError, match=r"films need pictures \(H, W, 3\): let render\(\)"):
        film(Blind, tmp_path)


def test_timing_a_policy_shows_it_nothing_strange(tiny_policy: Policy, capsys):
    numbers = tiny_policy.normalizer.state_dict()  # data about 250, so that zeros would be far away
    scale = torch.full_like(numbers["agent_pos_scale"], 0.1)
    tiny_policy.normalizer.load_state_dict({**numbers, "agent_pos_scale": scale})
    measure_latency(tiny_policy, steps=1, repeats=2)
    assert capsys.readouterr().err == ""


class TwoTasks(Plain):
    """Plays one of two tasks by the seed; the second is solved, and at its end no more."""

    def reset(self, *, seed=None, options=None):
        observation, _ = super().reset(seed=seed)
        return observation, {"task": ("lift", "push")[seed % 2]}

    def step(self, action):
        observation, reward, terminated, truncated, _ = super().step(action)
        now = bool(self.seed % 2) and self.t == 3
        return observation, reward, terminated, truncated, {"is_success": now, "success_now": now}


def test_an_environment_of_several_tasks_is_told_task_by_task(tiny_policy: Policy):
    found = rollout(tiny_policy, TwoTasks, range(5), num_envs=2)
    assert [one.task for one in found] == ["lift", "push", "lift", "push", "lift"]
    assert '"task": "push", "success_at_end": false' in found[1].to_json()
    summary = summarise(found)
    assert summary["success"] == 0.4 and summary["success_over_tasks"] == 0.5
    assert summary["success_at_end"] == 0.0
    told = {
        name: (task["episodes"], task["success"], task["success_at_end"])
        for name, task in summary["tasks"].items()
    }
    assert told == {"lift": (3, 0.0, 0.0), "push": (2, 1.0, 0.0)}
    plain = rollout(tiny_policy, Plain, range(2))
    assert "tasks" not in summarise(plain) and "success_at_end" not in summarise(plain)
    assert "task" not in plain[0].to_json() and plain[0].success_at_end is None


def test_the_table_of_tasks_has_a_line_for_each(tiny_policy: Policy):
    summary = summarise(rollout(tiny_policy, TwoTasks, range(5), num_envs=2))
    row = {"name": "mine", "steps": 1, **{key: summary[key] for key in OF_TASKS}}
    table = task_table([row, {"name": "of one task", "steps": 1}])
    assert table is not None and list(table.header) == ["task", "mine, 1 step"]
    assert [line[0] for line in table.lines] == ["lift", "push", "mean over tasks"]
    assert table.lines[1][1].startswith("100% [") and table.lines[1][1].endswith("] / 0%")
    assert table.lines[-1][1] == "50.0%" and "on 2-3 starts" in table.caption
    assert task_table([{"name": "of one task", "steps": 1}]) is None


class Narrow(Plain):
    """Its observations do not fit into the type that its space declares."""

    observation_space = spaces.Dict(
        keypoint=spaces.Box(0, 255, (9, 2), np.uint8), agent_pos=spaces.Box(0, 512, (2,), np.float32)
    )
    largest = 300

    def obs(self):
        return {"keypoint": np.full((9, 2), self.largest, np.uint16), "agent_pos": self.place.copy()}


def test_an_observation_that_its_space_cannot_hold_is_refused(tiny_policy: Policy):
    """It is stacked in the type of the space, and 300 would become 44."""
    with pytest.raises(
        InputError, match=r"'keypoint' of <Narrow.* holds 300 to 300, and its space is of uint8"
    ):
        rollout(tiny_policy, Narrow, [0], steps=1)
    episode = ActionChunkEpisode(type("Wide", (Narrow,), {"largest": 255})(), 2, 4)
    assert (episode.reset(seed=0)[0]["keypoint"] == 255).all()


def test_an_observation_of_another_shape_than_its_space_is_told(tiny_policy: Policy):
    class OfMany(Plain):
        def obs(self):
            return {name: value[None] for name, value in super().obs().items()}

    with pytest.raises(InputError, match=r"'agent_pos' has shape \[1, 2\], and its space \[2\]: correct"):
        rollout(tiny_policy, OfMany, [0])


def test_floats_that_their_space_would_round_are_refused(tiny_policy: Policy):
    half = spaces.Dict({**Plain.observation_space.spaces, "agent_pos": spaces.Box(0, 512, (2,), np.float16)})
    with pytest.raises(InputError, match=r"'agent_pos' of .* holds float32, and its space is of float16"):
        rollout(tiny_policy, type("Half", (Plain,), {"observation_space": half}), [0])


class Masked(Plain):
    """One of its sensors says by a mask that it sees nothing."""

    def obs(self):
        return {"keypoint": np.ma.masked_greater(np.tile(self.place, (9, 1)), 0), "agent_pos": self.place}


def test_masked_observations_are_refused(tiny_policy: Policy):
    with pytest.raises(InputError, match="observation 'keypoint' has numbers that are masked"):
        rollout(tiny_policy, Masked, [0], steps=1)


class Whole(Plain):
    """Takes whole numbers."""

    action_space = spaces.Box(0, 512, (2,), np.int64)
    given: ClassVar[list[np.ndarray]] = []

    def step(self, action):
        self.given.append(action.copy())
        return super().step(np.asarray(action, np.int64))


def test_an_environment_of_whole_numbers_gets_the_nearest_ones():
    """It would cut off what follows them."""
    episode = ActionChunkEpisode(Whole(), 2, 4)
    episode.reset(seed=0)
    episode.step(np.array([[0.7, 99.2], [3.0, 1.9]], np.float32))
    assert np.array(Whole.given).tolist() == [[1, 99], [3, 2]]


class Small(Plain):
    """Clips its actions to a space of other units than the demonstrations', in silence."""

    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def step(self, action):
        return super().step(np.clip(action, -1, 1))


def test_actions_outside_of_the_action_space_are_told(tiny_policy: Policy, capsys):
    rollout(tiny_policy, Plain, range(2))
    assert "action space" not in capsys.readouterr().err
    rollout(tiny_policy, Small, range(2))
    said = capsys.readouterr().err
    assert said.count("and the action space of the environment from -1 to 1, to which it may clip them") == 1
    assert "in their units?" in said


@pytest.mark.parametrize(("beyond", "said"), [(1.09, False), (1.29, True)])
@pytest.mark.parametrize("many", [False, True])
def test_a_few_actions_may_overshoot_the_action_space(beyond, said, many, capsys):
    reach = ActionReach(spaces.Box(-1, 1, (4, 2), np.float32))
    played = np.zeros((50, 4, 2))
    played[: 3 if many else 2, 0, 1] = beyond  # of 200
    reach.see(played[:25])
    reach.see(played[25:])
    reach.say()
    assert bool(capsys.readouterr().err) == (said and many)


def test_floats_in_a_space_of_bytes_are_named(tiny_policy: Policy):
    class Bytes(Plain):
        observation_space = spaces.Dict(
            keypoint=spaces.Box(0, 255, (9, 2), np.uint8), agent_pos=spaces.Box(0, 512, (2,), np.float32)
        )

    with pytest.raises(InputError, match=r"'keypoint' .* holds float32, and its space is of uint8, whole"):
        rollout(tiny_policy, Bytes, range(2))


def test_episodes_that_end_before_demonstrations_do_are_told(tiny_policy: Policy, capsys):
    class Limited(Plain):
        max_steps = None
        spec = EnvSpec("Limited-v0", max_episode_steps=LENGTH)

    for steps, told in ((LENGTH, 0), (LENGTH + 1, 1)):
        tiny_policy.metadata["episode_steps"] = float(steps)
        for kind in (Plain, Limited):
            rollout(tiny_policy, lambda kind=kind: TimeLimit(kind(), LENGTH), range(1))
            said = capsys.readouterr().err
            assert said.count("end after 12 steps, and half of the demonstrations took 13 or more") == told


class Pixels(gymnasium.Env):
    """Pictures as lists, in a space of bytes."""

    observation_space = gymnasium.spaces.Dict({"picture": gymnasium.spaces.Box(0, 255, (2, 2, 3), np.uint8)})
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    brightest = 255

    def reset(self, *, seed=None, options=None):
        return {"picture": [[[0, 1, 2], [3, 4, 5]], [[6, 7, 8], [9, 10, self.brightest]]]}, {}


def test_whole_numbers_have_the_type_of_their_space_if_it_holds_them():
    """Or else they cannot be stacked with those of other environments."""
    env = Observed(Pixels())
    picture = env.reset()[0]["picture"]
    assert picture.dtype == np.uint8 and picture.max() == 255
    env.unwrapped.brightest = 256
    with pytest.raises(InputError, match="holds 0 to 256, and its space is of uint8, from 0 to 255"):
        env.reset()
