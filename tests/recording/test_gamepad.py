"""A gamepad in the page: the browser's list of them is replaced by one that the test moves."""

from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from shortcut_policy.data import EpisodeWriter, ZarrSource
from shortcut_policy.recording.controls import control_of
from shortcut_policy.recording.rows import PlainRows
from shortcut_policy.recording.server import PageSettings, RecordingServer
from shortcut_policy.recording.session import Session
from tests.recording.recorder import SIDE, Recorder

pytestmark = pytest.mark.slow

PAD = """
window.pad = {connected: true, axes: [0, 0, 0, 0], buttons: [...Array(17)].map(() => ({pressed: false}))};
navigator.getGamepads = () => [null, window.pad];
"""
A, B, LB, RB, START = 0, 1, 4, 5, 9
OPEN, CLOSED = -1.0, 1.0


class Hand(gymnasium.Env):
    """A hand in the air, which is displaced by each action."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = spaces.Box(-1, 1, (7,), np.float32)
    observation_space = spaces.Dict({"hand": spaces.Box(-np.inf, np.inf, (7,), np.float32)})
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.hand = np.zeros(7, np.float32)
        return {"hand": self.hand}, {"is_success": False}

    def step(self, action):
        self.hand = self.hand + action
        return {"hand": self.hand}, 0.0, False, False, {"is_success": False}

    def render(self):
        return np.zeros((SIDE, SIDE, 3), np.uint8)


@pytest.fixture
def server(store):
    def make():
        env = Hand()
        return Session(env, writer, control_of(env), PlainRows(env))

    with EpisodeWriter(store) as writer, RecordingServer(make, "Hand", PageSettings(port=0, rate=20)) as one:
        yield one


class Pad(Recorder):
    """The page, moved by a gamepad."""

    def axis(self, number, value):
        self.run(f"pad.axes[{number}] = {value}")

    def button(self, number, down):
        self.run(f"pad.buttons[{number}].pressed = {str(down).lower()}")

    def press(self, number):
        """Long enough for the page to see it, which looks once a tick."""
        for down in (True, False):
            self.button(number, down)
            self.page.wait_for_timeout(300)


def action(gripper=OPEN, **moves):
    found = np.zeros(7)
    found[6] = gripper
    for name, value in moves.items():
        found[["x", "y", "z", "roll", "pitch", "yaw"].index(name)] = value
    return found


def test_sticks_and_buttons_are_actions(browser_page, server, store):
    browser_page.add_init_script(PAD)
    pad = Pad(browser_page, server)
    given = [action()]
    pad.press(START)
    pad.says("#phase", "Recording")
    pad.wait_steps(2)
    for number, value, meant in (
        (0, 1.0, {"y": 1.0}),
        (0, 0.56, {"y": 0.5}),  # half way from the dead zone's edge
        (0, -0.119, {}),
        (1, -1.0, {"x": -1.0}),
        (2, 1.0, {"yaw": -0.5}),
        (3, -1.0, {"pitch": 0.5}),
    ):
        pad.axis(number, value)
        pad.wait_steps(3)
        pad.axis(number, 0.0)
        given += [action(**meant), action()]
        pad.wait_steps(3)
    for number, meant in ((RB, {"z": 0.5}), (LB, {"z": -0.5})):
        pad.button(number, True)
        pad.wait_steps(3)
        pad.button(number, False)
        given += [action(**meant), action()]
        pad.wait_steps(3)
    pad.press(A)
    given.append(action(CLOSED))
    pad.wait_steps(2)
    # Loaded again in the middle, the page does not open the hand.
    browser_page.reload()
    pad.says("#phase", "Recording")
    pad.wait_steps(3)
    pad.press(A)
    given.append(action())
    pad.wait_steps(2)
    pad.press(START)
    pad.says("#note", "stored episode 0")
    pad.press(START)
    pad.wait_steps(2)
    pad.press(B)
    pad.says("#note", "discarded")
    source = ZarrSource(store)
    (rows,) = source.episode_ends
    merged = [given[0]]
    merged += [one for before, one in pairwise(given) if (one != before).any()]
    played = source.read("action", 0, int(rows))
    changes = [
        played[0],
        *(row for before, row in pairwise(played) if (row != before).any()),
    ]
    np.testing.assert_allclose(np.stack(changes), np.stack(merged), atol=1e-6)
