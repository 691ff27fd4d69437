"""The page in a browser, moved by a mouse."""

import numpy as np
import pytest

from shortcut_policy.data import ZarrSource
from shortcut_policy.recording.player import PolicyPlayer
from shortcut_policy.recording.server import PageSettings, RecordingServer
from tests.browser import until

pytestmark = pytest.mark.slow


class Recorder:
    """The page, as a person uses it."""

    def __init__(self, page, server):
        self.page = page
        page.goto(server.url)
        self.says("#phase", "Ready")
        until(page, lambda: page.locator("canvas").get_attribute("width") == "64")
        self.box = page.locator("#canvas").bounding_box()

    def says(self, where, text):
        until(self.page, lambda: self.page.locator(where).inner_text().startswith(text))

    def step(self):
        return int(self.page.locator("#counts").inner_text().split()[1])

    def wait_steps(self, more):
        before = self.step()
        until(self.page, lambda: self.step() >= before + more)

    def aim(self, x, y):
        """At a place of Push-T, in its pixels."""
        box = self.box
        self.page.mouse.move(box["x"] + x / 512 * box["width"], box["y"] + y / 512 * box["height"])


def test_the_mouse_leads_the_hand(browser_page, make_session, store):
    given = [[100 + 20 * number, 256] for number in range(10)]
    with RecordingServer(make_session, "Push-T", PageSettings(port=0, rate=20)) as server:
        recorder = Recorder(browser_page, server)
        for number, place in enumerate(given):
            recorder.aim(*place)
            if number == 0:
                browser_page.mouse.down()
            recorder.wait_steps(2)
        browser_page.mouse.up()
        browser_page.keyboard.press("Enter")
        recorder.says("#note", "stored episode 0")
        first = ZarrSource(store)
        actions = first.read("action", 0, int(first.episode_ends[-1]))
        recorder.aim(*given[0])
        browser_page.mouse.down()
        recorder.wait_steps(3)
        browser_page.mouse.up()
        browser_page.click("#finish")
        recorder.says("#note", "stored episode 1")
        browser_page.keyboard.press("z")
        recorder.says("#note", "episode 1 was taken out")
    assert ZarrSource(store).episode_ends.tolist() == first.episode_ends.tolist()
    distance = np.abs(actions[:, None] - np.array(given)).max(axis=-1)
    assert distance.min(axis=1).max() < 1, "nothing but where the mouse was"
    order = distance.argmin(axis=1)
    assert (np.diff(order) >= 0).all() and set(order) == set(range(len(given)))


def test_holding_the_mouse_takes_over(browser_page, make_session, store, tiny_policy):
    def make():
        return make_session(player=PolicyPlayer(tiny_policy), keep="episodes")

    with RecordingServer(make, "Push-T", PageSettings(port=0, rate=20)) as server:
        recorder = Recorder(browser_page, server)
        browser_page.keyboard.press("Enter")
        recorder.says("#phase", "The policy plays")
        recorder.wait_steps(3)
        recorder.aim(128, 384)
        browser_page.mouse.down()
        recorder.says("#phase", "Recording")
        recorder.wait_steps(5)
        browser_page.mouse.up()
        recorder.says("#phase", "The policy plays")
        browser_page.keyboard.press("Enter")
        recorder.says("#note", "stored episode 0")
    source = ZarrSource(store)
    rows = int(source.episode_ends[-1])
    marks = source.read("intervention", 0, rows).astype(bool)
    assert not marks[0] and not marks[-1] and marks.sum() >= 3
    actions = source.read("action", 0, rows)[marks]
    np.testing.assert_allclose(actions, [[128, 384]] * len(actions), atol=1)
