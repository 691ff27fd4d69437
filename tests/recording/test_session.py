"""Episodes of a person, and their corrections of a policy, without a page."""

import sys
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from shortcut_policy.commands import teleop
from shortcut_policy.data import EpisodeWriter, ZarrSource
from shortcut_policy.data.env_args import EnvArgs
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError
from shortcut_policy.recording.controls import Control, control_of
from shortcut_policy.recording.player import PolicyPlayer
from shortcut_policy.recording.rows import PlainRows, RobomimicRows
from shortcut_policy.recording.session import FIRST_SEED, Session, check_continues, row_of
from tests.rollout.test_odd_environments import Batched, More


class Seen(More):
    """What its simulator calls its state is not what a robot sees under that name."""

    observation_space = spaces.Dict(state=spaces.Box(0, 9, (1,), np.float32))

    def reset(self, *, seed=None, options=None):
        return {"state": np.ones(1, np.float32)}, {"state": np.full(1, 7.0)}


POINTS = [[0.25 + 0.02 * step, 0.5] for step in range(12)]
POINTER = Control("pointer", np.zeros(2), np.full(2, 512.0))


def play(session, points=POINTS, held=False) -> None:
    for point in points:
        session.step(point, held)


def stored(path):
    source = ZarrSource(path)
    rows = int(source.episode_ends[-1])
    return {key: source.read(key, 0, rows) for key in source.keys}, source.episode_ends.tolist()


def test_an_episode_holds_what_was_seen_and_done(make_session, store):
    session = make_session()
    session.step(POINTS[0], False)
    assert session.status["step"] == 0, "nothing moves before the start"
    session.begin()
    play(session)
    session.finish()
    arrays, ends = stored(store)
    assert ends == [12]
    np.testing.assert_allclose(arrays["action"], 512 * np.array(POINTS), rtol=1e-6)
    env = gymnasium.make("shortcut_envs:shortcut_policy/PushTKeypoints-v0")
    obs, info = env.reset(seed=FIRST_SEED)
    for row, action in enumerate(arrays["action"]):
        np.testing.assert_array_equal(arrays["agent_pos"][row], obs["agent_pos"])
        np.testing.assert_array_equal(arrays["keypoint"][row], obs["keypoint"])
        np.testing.assert_array_equal(arrays["state"][row], info["state"].astype(np.float32))
        obs, _, _, _, info = env.step(action)


def test_what_is_discarded_or_undone_is_not_stored(make_session, store):
    session = make_session()
    for end in (session.finish, session.discard, session.finish):
        session.begin()
        play(session)
        start = session._next
        end()
        assert session._next == start + (end != session.discard), "a discarded start comes again"
    assert (session.status["episodes"], session.status["steps"]) == (2, 24)
    session.begin()
    play(session, POINTS[:3])
    session.undo()
    assert session.running and session.status["step"] == 3
    assert (session.status["episodes"], session.status["steps"]) == (1, 12)
    session.undo()
    session.undo()
    assert session.status["note"] == "the store holds no episode"
    session.skip()
    assert session._next == FIRST_SEED + 3 and not session.running


def test_a_later_session_goes_on_after_what_a_killed_one_stored(make_session, store):
    first = make_session()
    first.begin()
    play(first)
    first.finish()
    first.begin()
    play(first, POINTS[:5])
    assert stored(store)[1] == [12], "whole episodes are there before anything is closed"
    first._writer._lock.release()  # as the end of a process does
    second = make_session()
    assert second._next == FIRST_SEED + 1
    second.begin()
    play(second)
    second.finish()
    assert stored(store)[1] == [12, 24]


def test_episodes_too_short_to_learn_from_are_dropped(make_session):
    session = make_session(least=8)
    session.begin()
    play(session, POINTS[:7])
    session.finish()
    assert session.status["episodes"] == 0
    assert "7 steps are too short" in session.status["note"]


def test_the_longest_episode_waits_for_a_decision(make_session):
    session = make_session(max_steps=5)
    session.begin()
    play(session)
    assert session.status["phase"] == "over" and session.status["step"] == 5
    session.finish()
    assert session.status["episodes"] == 1 and session.status["phase"] == "ready"


@pytest.mark.parametrize("given", [[0.5], [0.5, float("nan")], "ab", {"x": 1}, [True, False], 3])
def test_what_is_no_control_is_refused_and_moves_nothing(given, make_session):
    session = make_session()
    session.begin()
    with pytest.raises(InputError, match="expected 2 finite numbers"):
        session.step(given, True)
    assert session.status["step"] == 0


def test_controls_stay_in_the_box():
    np.testing.assert_array_equal(POINTER.action([1.5, -3]), np.array([512, 0], np.float32))
    arm = Control("arm", -np.ones(7), np.ones(7))
    np.testing.assert_array_equal(arm.action([2, 0, 0, 0, 0, 0, -1]), [1, 0, 0, 0, 0, 0, -1])


def test_actions_that_no_hand_moves_are_refused():
    env = gymnasium.Env()
    env.action_space = spaces.Box(-np.inf, np.inf, (10,))
    with pytest.raises(InputError, match=r"no way to move actions of Box\(-inf, inf, \(10,\)"):
        control_of(env)


def test_without_takeover_the_policy_plays_as_by_itself(tiny_policy, make_session):
    session = make_session(player=PolicyPlayer(tiny_policy, steps=2, seed=3), keep="episodes")
    session.begin()
    for _ in range(20):
        session.step([0.5, 0.5], False)
    played = np.stack([row["action"] for row in session._kept])
    tiny_policy.reset(2, seed=3, episode=FIRST_SEED)
    env = gymnasium.make("shortcut_envs:shortcut_policy/PushTKeypoints-v0")
    obs, _ = env.reset(seed=FIRST_SEED)
    for action in played:
        np.testing.assert_array_equal(action, tiny_policy.select_action(obs))
        obs, *_ = env.step(action)
    session.finish()
    assert session.status["episodes"] == 0 and "nothing was corrected" in session.status["note"]


def correct(session) -> None:
    """Ten steps of the policy, twelve of a person, five of the policy."""
    session.begin()
    play(session, POINTS[:10])
    play(session, held=True)
    assert session.status["human"]
    play(session, POINTS[:5])


def test_corrections_alone_are_episodes(tiny_policy, make_session, store):
    session = make_session(player=PolicyPlayer(tiny_policy))
    correct(session)
    assert session.running and session.status["episodes"] == 1, "stored when the person lets go"
    arrays, ends = stored(store)
    assert ends == [12] and "intervention" not in arrays
    np.testing.assert_allclose(arrays["action"], 512 * np.array(POINTS), rtol=1e-6)


def test_the_end_of_an_episode_tells_of_the_corrections_that_are_stored(tiny_policy, make_session):
    session = make_session(player=PolicyPlayer(tiny_policy))
    correct(session)
    session.finish()
    assert session.status["note"] == "its corrections are stored (1)"
    session.begin()
    play(session)
    session.finish()
    assert session.status["note"] == "nothing was corrected, so nothing was stored"


def test_an_observation_called_state_is_not_replaced(make_session):
    env = Seen()
    obs, info = env.reset(seed=0)
    assert PlainRows(env).before(obs, info)["state"].tolist() == [1.0]


def test_whole_episodes_have_marks(tiny_policy, make_session, store):
    session = make_session(player=PolicyPlayer(tiny_policy), keep="episodes")
    correct(session)
    session.finish()
    arrays, ends = stored(store)
    assert ends == [27] and arrays["intervention"].dtype == np.uint8
    assert arrays["intervention"].tolist() == [0] * 10 + [1] * 12 + [0] * 5
    np.testing.assert_allclose(arrays["action"][10:22], 512 * np.array(POINTS), rtol=1e-6)


def test_a_policy_that_gets_control_back_begins_a_chunk_with_what_it_saw(tiny_policy):
    player = PolicyPlayer(tiny_policy)
    player.reset(0)
    seen = [{"keypoint": np.full((9, 2), 10.0 * step), "agent_pos": np.full(2, 10.0)} for step in range(4)]
    planned = []
    plan = player._planner.plan
    player._planner.plan = lambda history, prefix: planned.append(history) or plan(history, prefix)
    for number, obs in enumerate(seen):
        player.observe(obs)
        if number != 2:
            player.action()
        else:
            player.interrupt()
    assert [history["keypoint"][:, 0, 0].tolist() for history in planned] == [[0, 0], [20, 30]]


def test_other_rows_are_refused_before_anybody_plays(store):
    with EpisodeWriter(store) as writer:
        writer.add_episode({"action": np.zeros((3, 2), np.float32)})
    there = {"action": ((2,), np.dtype(np.float32))}
    check_continues(str(store), {"action": np.zeros(2, np.float32)}, there)
    for row, message in (
        ({"action": np.zeros(2)}, "'action' is float32 of shape .2. per step, and here it would be float64"),
        ({"action": np.zeros(2, np.float32), "state": np.zeros(5)}, "'state' is missing"),
    ):
        with pytest.raises(InputError, match=message):
            check_continues(str(store), row, there)


ENV_ARGS = {"env_name": "Lift", "env_version": "1.5.1", "env_kwargs": {"robots": "Panda", "control_freq": 20}}


class Arm(gymnasium.Env):
    """What a session needs of an environment of robosuite's."""

    metadata = {"render_fps": 20}  # noqa: RUF012
    observation_space = spaces.Dict({"object": spaces.Box(-1, 1, (3,))})
    action_space = spaces.Box(-1, 1, (7,), np.float32)
    args = EnvArgs("Lift", "1.5.1", ENV_ARGS["env_kwargs"])

    def __init__(self, keys=("object",)):
        self._keys = keys

    def stored_observation(self):
        return {key: np.zeros(3) for key in self._keys}

    def reset(self, *, seed=None, options=None):
        return {"object": np.zeros(3, np.float32)}, {"states": np.zeros(9), "is_success": False}

    def render(self):
        return np.zeros((8, 8, 3), np.uint8)


def session_in(env, output, monkeypatch):
    """What the command makes before it serves its page."""
    monkeypatch.setattr("shortcut_policy.commands.teleop.make_env", lambda _: env)
    task = SimpleNamespace(name="lift", horizon=4, n_obs_steps=1, n_action_steps=1)
    settings = SimpleNamespace(output=str(output), task=task, seed=0, keep="corrections")
    return teleop.make_session(settings, None)


@pytest.mark.parametrize("finished", [True, False])
def test_a_robomimic_file_is_continued_with_the_same_rows_and_environment_alone(
    tmp_path, monkeypatch, finished
):
    path = tmp_path / "mine.hdf5"
    env = Arm()
    attributes = RobomimicRows(env).attributes("lift", {})
    rows = {"states": (9,), "obs/object": (3,), "actions": (7,), "rewards": ()}
    episode = {key: np.zeros((4, *shape)) for key, shape in rows.items()} | {"dones": np.zeros(4, np.int64)}
    writer = RobomimicWriter(path, attributes)
    writer.add_episode(episode)
    if finished:
        writer.close()
    writer._lock.release()
    before = sorted(file.name for file in tmp_path.rglob("*"))

    def begin(env):
        return session_in(env, path, monkeypatch)

    slower = Arm()
    slower.args = EnvArgs("Lift", "1.5.1", {"robots": "Panda", "control_freq": 10})
    for other, sentence in (
        (
            Arm(("object", "force")),
            "'obs/force' is missing, and here it would be float64 of shape .3. per step",
        ),
        (slower, "was recorded with env_args.env_kwargs.control_freq=20, not 10; choose another output"),
    ):
        with pytest.raises(InputError, match=sentence):
            begin(other)
    assert sorted(file.name for file in tmp_path.rglob("*")) == before
    _, writer = begin(env)
    assert writer.n_episodes == 1
    writer.close()


class Odd(More):
    """Says no rate, draws floats, observes more than numbers, and fails in its sixth step."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def render(self):
        return [np.full((8, 12, 3), 0.5, np.float32)]

    def step(self, action):
        if self.t == 5:
            raise RuntimeError("the block left the table")
        return super().step(action)


def test_an_environment_with_peculiarities_is_recorded(store):
    env = Odd()
    with EpisodeWriter(store) as writer:
        session = Session(env, writer, control_of(env), PlainRows(env))
        assert session.rate == 10
        assert session.picture().dtype == np.uint8 and session.picture().mean() == 127
        session.begin()
        play(session)
        status = session.status
        assert (status["phase"], status["step"]) == ("over", 5)
        assert "the environment failed (RuntimeError: the block left the table): keep" in status["note"]
        session.finish()
    arrays, ends = stored(store)
    assert ends == [5] and arrays.keys() == {"agent_pos", "keypoint", "stage", "action"}
    assert len(np.unique(arrays["agent_pos"], axis=0)) == 5 and (arrays["stage"] == 1).all()


def test_an_environment_that_gives_arrays_of_one_number_is_recorded(store):
    env = Batched()
    with EpisodeWriter(store) as writer:
        session = Session(env, writer, control_of(env), PlainRows(env))
        session.begin()
        play(session, POINTS[:3])
        assert (session.status["step"], session.status["score"]) == (3, 0.5)
        session.finish()
    assert stored(store)[1] == [3]


def test_what_is_stored_is_the_action_before_the_environment_changed_it(store):
    class Scales(More):
        def step(self, action):
            action *= 0.5
            return super().step(action)

    env = Scales()
    with EpisodeWriter(store) as writer:
        session = Session(env, writer, control_of(env), PlainRows(env))
        session.begin()
        play(session)
        session.finish()
    np.testing.assert_allclose(stored(store)[0]["action"], 512 * np.array(POINTS), rtol=1e-6)


def test_masked_observations_are_not_stored_as_what_lies_under_the_mask():
    env = More()
    obs, info = env.reset(seed=0)
    with pytest.raises(InputError, match="'agent_pos' has numbers that are masked"):
        PlainRows(env).before({**obs, "agent_pos": np.ma.masked_greater(obs["agent_pos"], 0)}, info)


def test_an_episode_may_be_kept_before_its_first_step(store):
    env = More()
    with EpisodeWriter(store) as writer:
        session = Session(env, writer, control_of(env), PlainRows(env))
        session.begin()
        session.finish()
    assert "0 steps are too short" in session.status["note"]


def test_what_shows_nothing_or_names_nothing_is_told_before_anybody_plays(store, monkeypatch):
    class Blind(More):
        def render(self):
            return None

    class Headless(More):
        def render(self):
            raise RuntimeError("no display")

    class Unnamed(More):
        observation_space = spaces.Box(-1, 1, (3,))

    for env, sentence in (
        (Blind(), "renders None, and the page needs pictures"),
        (Headless(), r"cannot be drawn \(RuntimeError: no display\)"),
        (Unnamed(), "must have a dictionary of observations"),
    ):
        with pytest.raises(InputError, match=sentence):
            session_in(env, store, monkeypatch)
    assert not store.exists()


@pytest.mark.parametrize("name", ["action", "intervention"])
def test_an_observation_called_as_something_else_that_is_stored_is_told(name):
    class Named(More):
        observation_space = spaces.Dict(
            {**More.observation_space.spaces, name: spaces.Box(0, 512, (2,), np.float32)}
        )

        def obs(self):
            return {**super().obs(), name: np.zeros(2, np.float32)}

    with pytest.raises(InputError, match=f"has an observation called '{name}', and in the store the {name}s"):
        row_of(Named(), PlainRows(Named()), marked=True)
    if name == "intervention":
        assert name in row_of(Named(), PlainRows(Named()), marked=False)[0], "nothing else is called so"


def test_an_environment_that_ends_the_program_is_one_that_fails(store):
    class Leaves(More):
        def step(self, action):
            if self.t == 5:
                sys.exit("no licence")
            return super().step(action)

    env = Leaves()
    with EpisodeWriter(store) as writer:
        session = Session(env, writer, control_of(env), PlainRows(env))
        session.begin()
        play(session)
        assert "failed (ExitError: it called sys.exit('no licence')): keep" in session.status["note"]
        session.finish()
    assert stored(store)[1] == [5]


def test_the_first_start_that_cannot_be_is_one_sentence():
    class Never(More):
        def reset(self, *, seed=None, options=None):
            raise RuntimeError("no place for the block")

    with pytest.raises(InputError, match=r"cannot be reset with seed=\d+ \(RuntimeError: no place for"):
        row_of(Never(), PlainRows(Never()), marked=False)


def test_an_environment_that_cannot_be_reset_ends_in_a_sentence(store):
    class Once(More):
        def reset(self, *, seed=None, options=None):
            if seed > FIRST_SEED:
                raise RuntimeError("no place for the block")
            return super().reset(seed=seed)

    env = Once()
    with EpisodeWriter(store) as writer:
        session = Session(env, writer, control_of(env), PlainRows(env))
        session.begin()
        play(session)
        with pytest.raises(InputError, match=r"cannot be reset with seed=\d+ \(RuntimeError: no place for"):
            session.finish()
    assert stored(store)[1] == [12]
