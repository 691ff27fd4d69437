"""Lift, solved by the keys of the page, closed loop; what was recorded trains."""

import contextlib

import numpy as np
import pytest

from shortcut_policy.commands import cli
from shortcut_policy.data import RobomimicSource
from shortcut_policy.data.robomimic_writer import RobomimicWriter
from shortcut_policy.errors import InputError
from shortcut_policy.recording.controls import control_of
from shortcut_policy.recording.rows import RobomimicRows
from shortcut_policy.recording.server import PageSettings, RecordingServer
from shortcut_policy.recording.session import Session
from tests.conftest import TINY
from tests.recording.recorder import SIDE, Recorder

pytestmark = pytest.mark.slow

#: Keys that move the hand along -x and +x, -y and +y, down and up.
KEYS = (("w", "s"), ("a", "d"), ("f", "r"))
#: Metres: from which distance on the hand is moved slowly, and how near is near enough.
SLOWLY, NEAR = 0.05, 0.008
HEIGHT = 0.1
CLOSING = 12


class Person(Recorder):
    """Presses keys, and sees where the hand and the object are: the session's last observation."""

    def __init__(self, page, server, made):
        super().__init__(page, server)
        (self.session,) = made
        self.down = set()

    @property
    def hand(self):
        """(3,) metres."""
        return np.array(self.session._obs["robot0_eef_pos"], np.float64)

    @property
    def thing(self):
        """(3,) metres."""
        return np.array(self.session._obs["object"][:3], np.float64)

    @property
    def recording(self):
        return self.session.status["phase"] == "running"

    def hold(self, keys):
        """Have these keys down and no others."""
        for key in self.down - keys:
            self.page.keyboard.up(key)
        for key in keys - self.down:
            self.page.keyboard.down(key)
        self.down = set(keys)

    def wait_steps(self, more):
        """Until so many steps have been played, or the episode has ended."""
        before = self.session.status["step"]
        while self.recording and self.session.status["step"] < before + more:
            self.page.wait_for_timeout(5)

    def go(self, target, near=NEAR, most=150):
        """Bring the hand to a place, which a function tells."""
        for _ in range(most):
            way = target() - self.hand
            if not self.recording or np.abs(way).max() < near:
                break
            keys = {KEYS[axis][int(way[axis] > 0)] for axis in range(3) if abs(way[axis]) > near / 2}
            self.hold(keys | ({"Shift"} if np.abs(way).max() < SLOWLY else set()))
            self.wait_steps(1)
        self.hold(set())

    def grip(self):
        """Close the hand."""
        self.page.keyboard.press("Space")
        self.wait_steps(CLOSING)

    def grasp(self):
        """Take the object, from above."""
        self.go(lambda: above(self.thing, HEIGHT))
        self.go(lambda: self.thing)
        self.grip()


def above(place, height):
    return place + np.array([0, 0, height])


def test_lift_is_solved_by_keys_and_trains(browser_page, give, tmp_path):
    from shortcut_envs.robosuite.env import RobosuiteEnv

    path, made = tmp_path / "mine.hdf5", []
    env = RobosuiteEnv("Lift")
    attributes = RobomimicRows(env).attributes("lift", env.reset(seed=0)[1])
    env.close()
    with RobomimicWriter(path, attributes) as writer:

        def make():
            # In the thread that plays, to which OpenGL belongs.
            env = RobosuiteEnv("Lift", render_mode="rgb_array", render_size=SIDE)
            made.append(Session(env, writer, control_of(env), RobomimicRows(env)))
            return made[0]

        server = RecordingServer(make, "lift", PageSettings(port=0))
        try:
            server.start()
        except InputError as error:  # nothing can draw here
            pytest.skip(str(error))
        with contextlib.ExitStack() as ending:
            ending.callback(server.stop)
            person = Person(browser_page, server, made)
            browser_page.keyboard.press("Enter")
            person.says("#phase", "Recording")
            person.grasp()
            lifted = above(person.hand, 0.15)
            person.go(lambda: lifted)
            person.says("#note", "solved: stored episode 0")
    source = RobomimicSource(path)
    (steps,) = source.episode_ends
    assert source.read("rewards", int(steps) - 1, int(steps)).item() == 1
    actions = source.read("actions", 0, int(steps))
    assert set(np.unique(actions[:, 6])) == {-1, 1} and (actions[:, 3:6] == 0).all()
    output = tmp_path / "run"
    settings = ["task=lift", f"task.source.path={path}", *TINY, "data.val_fraction=0"]
    give(cli.train, *settings, f"output={output}")
    assert (output / "checkpoints").is_dir()
