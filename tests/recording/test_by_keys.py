"""A task of robosuite, solved by the keys of the page, closed loop; what was recorded trains."""

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
        """Close the hand, or open it."""
        self.page.keyboard.press("Space")
        self.wait_steps(CLOSING)

    def grasp(self, raised=0.0):
        """Take the object, from above."""
        self.go(lambda: above(self.thing, HEIGHT))
        self.go(lambda: above(self.thing, raised))
        self.grip()


def above(place, height):
    return place + np.array([0, 0, height])


def lift(person):
    person.grasp()
    lifted = above(person.hand, 0.15)
    person.go(lambda: lifted)


def carry(person):
    simulation = person.session._env.unwrapped.simulation
    goal = np.array(simulation.target_bin_placements[simulation.object_id])
    person.grasp(raised=0.01)
    can, middle = person.thing, (person.hand + goal) / 2
    # The arm is stretched over there, and keeps a few centimetres of error.
    for x, y, height in ((*person.hand[:2], 0.15), (*middle[:2], 0.15), (*goal[:2], 0.15), (*goal[:2], 0.05)):
        person.go(lambda place=(x, y, can[2] + height): np.array(place), near=0.03)
    person.grip()
    person.go(lambda: above(goal, 0.25), near=0.03)


@pytest.mark.parametrize(("task", "name", "solve"), [("Lift", "lift", lift), ("PickPlaceCan", "can", carry)])
def test_a_task_is_solved_by_keys_and_trains(task, name, solve, browser_page, give, tmp_path):
    from shortcut_envs.robosuite.env import RobosuiteEnv

    path, made = tmp_path / "mine.hdf5", []
    env = RobosuiteEnv(task)
    attributes = RobomimicRows(env).attributes(name, env.reset(seed=0)[1])
    env.close()
    with RobomimicWriter(path, attributes) as writer:

        def make():
            # In the thread that plays, to which OpenGL belongs.
            env = RobosuiteEnv(task, render_mode="rgb_array", render_size=SIDE)
            made.append(Session(env, writer, control_of(env), RobomimicRows(env)))
            return made[0]

        server = RecordingServer(make, name, PageSettings(port=0))
        try:
            server.start()
        except InputError as error:  # nothing can draw here
            pytest.skip(str(error))
        with contextlib.ExitStack() as ending:
            ending.callback(server.stop)
            person = Person(browser_page, server, made)
            browser_page.keyboard.press("Enter")
            person.says("#phase", "Recording")
            solve(person)
            person.says("#note", "solved: stored episode 0")
    source = RobomimicSource(path)
    (steps,) = source.episode_ends
    assert source.read("rewards", int(steps) - 1, int(steps)).item() == 1
    actions = source.read("actions", 0, int(steps))
    assert set(np.unique(actions[:, 6])) == {-1, 1} and (actions[:, 3:6] == 0).all()
    output = tmp_path / "run"
    settings = [f"task={name}", f"task.source.path={path}", *TINY, "data.val_fraction=0"]
    give(cli.train, *settings, f"output={output}")
    assert (output / "checkpoints").is_dir()
