"""The page as a person uses it, in a browser."""

from typing import Any

from shortcut_policy.recording.server import RecordingServer
from tests.browser import until

#: Side of the pictures of `conftest.make_session` in pixels.
SIDE = 64


class Recorder:
    """The page of a server whose pictures have `SIDE` pixels."""

    def __init__(self, page: Any, server: RecordingServer, phase: str = "Ready") -> None:
        self.page = page
        page.goto(server.url)
        self.says("#phase", phase)
        until(page, lambda: page.locator("canvas").get_attribute("width") == str(SIDE))
        self.box = page.locator("#canvas").bounding_box()
        #: The browser's own protocol: what it evaluates is not held up by the page's rules.
        self.devtools = page.context.new_cdp_session(page)

    def says(self, where: str, text: str) -> None:
        """Wait until a part of the page begins with a text."""
        until(self.page, lambda: self.page.locator(where).inner_text().startswith(text))

    def step(self) -> int:
        """Step of the running episode."""
        return int(self.page.locator("#counts").inner_text().split()[1])

    def wait_steps(self, more: int) -> None:
        """Wait until so many steps have been played."""
        before = self.step()
        until(self.page, lambda: self.step() >= before + more)

    def place(self, x: float, y: float) -> dict[str, float]:
        """Where a place of Push-T, in its pixels, is on the page."""
        box = self.box
        return {"x": box["x"] + x / 512 * box["width"], "y": box["y"] + y / 512 * box["height"]}

    def aim(self, x: float, y: float) -> None:
        """Move the mouse to a place of Push-T, in its pixels."""
        self.page.mouse.move(*self.place(x, y).values())

    def touch(self, kind: str, *places: tuple[float, float]) -> None:
        """An event of fingers, ``touchStart``, ``touchMove`` or ``touchEnd``: where those that touch are."""
        points = [{**self.place(*place), "id": number} for number, place in enumerate(places)]
        self.devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def tap(self, where: str) -> None:
        """Touch a button for a moment."""
        box = self.page.locator(where).bounding_box()
        point = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind, points in (("touchStart", [point]), ("touchEnd", [])):
            self.devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def run(self, script: str) -> None:
        """Run a script in the page."""
        done = self.devtools.send("Runtime.evaluate", {"expression": script})
        assert "exceptionDetails" not in done, done
