"""Pages in a real browser, without a window: the system's Chromium, driven by Playwright."""

import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def browser_page() -> Iterator[Any]:
    """A page; what it reports as an error fails the test. Skipped where there is no browser."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    errors: list[str] = []
    with playwright.sync_playwright() as driver:
        # Root, as in containers, may not use the sandbox; the pages are our own.
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 800})
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: message.type == "error" and errors.append(message.text))
        yield page
        browser.close()
    assert not errors, errors


def until(page: Any, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait until something holds. Playwright's own way evaluates text, which the pages' rules forbid."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, page.locator("body").inner_text()
        page.wait_for_timeout(20)
