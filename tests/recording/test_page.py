"""The page in a browser, moved by a mouse."""

import numpy as np
import pytest

from shortcut_policy.data import ZarrSource
from shortcut_policy.recording.player import PolicyPlayer
from shortcut_policy.recording.server import PageSettings, RecordingServer
from tests.recording.recorder import Recorder

pytestmark = pytest.mark.slow


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


def rows_of(store, key="action"):
    source = ZarrSource(store)
    return source.read(key, 0, int(source.episode_ends[-1]))


def in_order(rows, given):
    """Whether each row is one of those that were given, and all of them come in their order."""
    distance = np.abs(rows[:, None] - np.array(given, np.float64)).max(axis=-1)
    order = distance.argmin(axis=1)
    return distance.min(axis=1).max(), set(order) == set(range(len(given))) and bool(
        (np.diff(order) >= 0).all()
    )


def test_a_finger_leads_the_hand_and_a_second_one_does_not(browser_page, make_session, store):
    given = [[100 + 30 * number, 256] for number in range(6)]
    with RecordingServer(make_session, "Push-T", PageSettings(port=0, rate=20)) as server:
        recorder = Recorder(browser_page, server)
        recorder.devtools.send("Emulation.setTouchEmulationEnabled", {"enabled": True, "maxTouchPoints": 2})
        recorder.touch("touchStart", given[0])
        recorder.says("#phase", "Recording")
        recorder.wait_steps(2)
        for place in given[1:]:
            recorder.touch("touchMove", place)
            recorder.wait_steps(2)
        recorder.touch("touchStart", given[-1], (50, 50))
        recorder.touch("touchMove", given[-1], (60, 60))
        recorder.wait_steps(3)
        recorder.touch("touchEnd")
        recorder.tap("#finish")
        recorder.says("#note", "stored episode 0")
    far, ordered = in_order(rows_of(store), given)
    assert far < 1 and ordered


def test_a_hidden_page_stops_the_episode(browser_page, make_session, store):
    with RecordingServer(make_session, "Push-T", PageSettings(port=0, rate=20)) as server:
        recorder = Recorder(browser_page, server)
        recorder.aim(128, 384)
        browser_page.mouse.down()
        recorder.wait_steps(2)
        hide = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true});"
        recorder.run(hide % "true" + "document.dispatchEvent(new Event('visibilitychange'))")
        browser_page.wait_for_timeout(200)  # what was answered before is played
        before = recorder.step()
        browser_page.wait_for_timeout(500)
        assert recorder.step() == before
        recorder.run(hide % "false" + "document.dispatchEvent(new Event('visibilitychange'))")
        recorder.wait_steps(2)
        browser_page.keyboard.press("Enter")
        recorder.says("#note", "stored episode 0")
    assert len(rows_of(store)) >= before + 2


def test_a_page_that_was_opened_again_says_so_and_the_other_one_goes_on(browser_page, make_session, store):
    with RecordingServer(make_session, "Push-T", PageSettings(port=0, rate=20)) as server:
        first = Recorder(browser_page, server)
        first.aim(128, 384)
        browser_page.mouse.down()
        first.wait_steps(3)
        browser_page.mouse.up()
        second = Recorder(browser_page.context.browser.new_page(), server, phase="Recording")
        first.says("#phase", "This page was opened again elsewhere.")
        first.says("#note", "Reload it to go on here")
        before = second.step()
        assert before >= 3
        # Nothing moves until the person does.
        second.page.wait_for_timeout(300)
        assert second.step() == before
        second.aim(300, 384)
        second.wait_steps(3)
        browser_page.reload()
        first.says("#phase", "Recording")
        second.says("#phase", "This page was opened again elsewhere.")
        browser_page.keyboard.press("Enter")
        first.says("#note", "stored episode 0")
    far, ordered = in_order(rows_of(store), [[128, 384], [300, 384]])
    assert far < 1 and ordered


def test_a_recorder_that_ends_in_an_episode_is_said_and_keeps_the_others(browser_page, make_session, store):
    server = RecordingServer(make_session, "Push-T", PageSettings(port=0, rate=20))
    server.start()
    recorder = Recorder(browser_page, server)
    for end in (True, False):
        recorder.aim(128, 384)
        browser_page.mouse.down()
        recorder.wait_steps(3)
        browser_page.mouse.up()
        if end:
            browser_page.keyboard.press("Enter")
            recorder.says("#note", "stored episode 0")
    server.stop()
    recorder.says("#phase", "The recorder has ended.")
    recorder.says("#note", "What it stored is in its file; a running episode is lost.")
    assert browser_page.locator("#begin").is_disabled()
    assert len(ZarrSource(store).episode_ends) == 1


@pytest.mark.parametrize("width", [240, 400, 900])
def test_a_small_window_shows_all_of_the_picture_and_the_buttons(width, browser_page, make_session, store):
    browser_page.set_viewport_size({"width": width, "height": 300})
    with RecordingServer(make_session, "Push-T", PageSettings(port=0, rate=20)) as server:
        Recorder(browser_page, server)
        for where in ("#canvas", "#begin", "#undo", "#help", "#title"):
            box = browser_page.locator(where).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= width, where
