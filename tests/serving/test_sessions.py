"""What a session makes of requests."""

import numpy as np
import pytest

from shortcut_policy.errors import InputError
from shortcut_policy.serving.protocol import Options
from shortcut_policy.serving.sessions import Noise, Session
from tests.serving.conftest import history, observation


@pytest.fixture
def session(tiny_policy):
    return Session(tiny_policy, steps=1, largest_steps=8, seed=5)


def test_one_step_fills_the_history_and_a_history_is_taken_as_it_is(session):
    one = session.ask(observation(0), Options())
    assert all(np.array_equal(value, [observation(0)[name]] * 2) for name, value in one.obs.items())
    whole = session.ask(history(3), Options())
    assert all(np.array_equal(value, history(3)[name]) for name, value in whole.obs.items())


def test_consecutive_steps_make_a_history_until_the_episode_ends(session):
    session.ask(observation(0), Options(consecutive=True))
    second = session.ask(observation(1), Options(consecutive=True)).obs["agent_pos"]
    assert np.array_equal(second, [observation(0)["agent_pos"], observation(1)["agent_pos"]])
    for options in (Options(consecutive=True, reset=True), Options(consecutive=True, episode=9), Options()):
        other = session.ask(observation(2), options).obs["agent_pos"]
        assert np.array_equal(other, [observation(2)["agent_pos"]] * 2)


def test_noise_counts_chunks_and_episodes_unless_the_client_does(session):
    asked = [
        (Options(), Noise(5, 0, 0)),
        (Options(), Noise(5, 0, 1)),
        (Options(reset=True), Noise(5, 1, 0)),
        (Options(seed=2), Noise(2, 1, 1)),
        (Options(episode=7), Noise(5, 7, 0)),
        (Options(episode=7), Noise(5, 7, 1)),
        (Options(episode=8, chunk=4), Noise(5, 8, 4)),
        (Options(), Noise(5, 8, 5)),
    ]
    assert [session.ask(observation(0), options).noise for options, _ in asked] == [n for _, n in asked]


def test_the_first_reset_begins_the_first_episode(session):
    assert session.ask(observation(0), Options(reset=True)).noise == Noise(5, 0, 0)


@pytest.mark.parametrize(
    ("obs", "options", "sentence"),
    [
        ({"keypoint": np.zeros((9, 2))}, Options(), "agent_pos is missing"),
        ({**observation(0), "agent_pos": np.zeros(3)}, Options(), "'agent_pos' has shape [3], expected [2]"),
        ({**observation(0), "agent_pos": np.zeros((3, 2))}, Options(), "or [2, 2], the last 2 steps"),
        ({**observation(0), "agent_pos": np.zeros((2, 2))}, Options(), "one or the other"),
        ({**observation(0), "agent_pos": np.array([1, np.nan])}, Options(), "'agent_pos' holds NaN"),
        ({**observation(0), "agent_pos": np.array([1, 1e300])}, Options(), "'agent_pos' holds NaN or inf"),
        ({**observation(0), "agent_pos": ["a", "b"]}, Options(), "real numbers"),
        ({**observation(0), "agent_pos": [[1], [1, 2]]}, Options(), "no array"),
        ({**observation(0), "agent_pos": {"x": 1}}, Options(), "real numbers"),
        ({**observation(0), "agent_pos": [["a" * 1000], 1]}, Options(), "real numbers, not"),
        (observation(0), Options(steps=3), "steps=3"),
        (observation(0), Options(steps=16), "more than this server takes: 8"),
        (observation(0), Options(guidance=2.0), "guidance=2.0"),
    ],
)
def test_what_is_refused_leaves_the_session_alone(session, obs, options, sentence):
    session.ask(observation(1), Options())
    with pytest.raises(InputError) as caught:
        session.ask(obs, options)
    assert sentence in str(caught.value)
    after = session.ask(observation(2), Options(consecutive=True))
    assert after.noise == Noise(5, 0, 1)
    assert np.array_equal(after.obs["agent_pos"][0], observation(1)["agent_pos"])


def test_lists_and_doubles_are_numbers_too(session):
    listed = {name: value.astype(float).tolist() for name, value in observation(0).items()}
    found = session.ask(listed, Options()).obs["agent_pos"]
    assert found.dtype == np.float32
    assert np.array_equal(found[1], observation(0)["agent_pos"])
