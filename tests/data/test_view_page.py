"""A store as a page, and as a file of Rerun."""

import base64
import json
import re
import sys
import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
from omegaconf import OmegaConf

from shortcut_policy.commands.view import run
from shortcut_policy.data import EpisodeWriter, ZarrSource, view_page
from shortcut_policy.data.view import frames_of, some_episodes, spread
from shortcut_policy.errors import InputError
from tests.browser import browser_page, until  # noqa: F401
from tests.data.test_view import Counting
from tests.full_disk import no_room

LENGTHS = (30, 20, 25)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cameras, an action with a glitch, a constant; the name of an attribute is hostile."""
    random = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "demos.zarr"
    with EpisodeWriter(path, attributes={"</script><b>note</b>": "x < y"}) as writer:
        for number, length in enumerate(LENGTHS):
            action = random.normal(size=(length, 2)).astype(np.float32)
            if number == 1:
                action[7, 1] = 60
            level = (10 * np.arange(length, dtype=np.uint8))[:, None, None, None]
            writer.add_episode(
                {
                    "action": action,
                    "still": np.full(length, 2.0),
                    "front": np.broadcast_to(level, (length, 40, 60, 3)),
                    "wrist": random.integers(0, 256, (length, 32, 32, 3), np.uint8),
                }
            )
    return path


def write(store: Path, folder: Path, **settings: Any) -> Path:
    run(OmegaConf.create({"store": str(store), "format": "html", "output": str(folder), **settings}))
    return folder / "demos.html"


def content(page: Path) -> dict[str, Any]:
    text = page.read_text("utf-8")
    found: dict[str, Any] = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    return found


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), kind)


def test_the_page_holds_what_the_store_holds(store: Path, tmp_path: Path) -> None:
    page = write(store, tmp_path)
    text, found = page.read_text("utf-8"), content(page)
    assert not re.search(r"(src|href)=\"?(https?:)?//|url\(|import ", text), "nothing is fetched"
    assert "<b>note" not in text and found["attributes"] == {"</script><b>note</b>": "x < y"}
    assert (found["count"], found["steps"], found["every"]) == (3, 75, 1)
    flags = {key["name"]: [one["flag"] for one in key["elements"]] for key in found["keys"]}
    assert flags == {"action": ["", "outliers"], "still": ["constant"], "front": [], "wrist": []}
    assert [key["elements"][1]["high_at"] for key in found["keys"] if key["name"] == "action"] == [[1, 7]]
    source, start = ZarrSource(store), 0
    for episode, length in zip(found["episodes"], LENGTHS, strict=True):
        values = unpacked(episode["curves"]["action"]["values"], "<f4").reshape(-1, 2)
        np.testing.assert_array_equal(values, source.read("action", start, start + length))
        assert unpacked(episode["curves"]["action"]["steps"], "<i4").tolist() == list(range(length))
        assert {name: len(images) for name, images in episode["frames"].items()} == {
            **{"front": length, "wrist": length}
        }
        start += length
    image = imageio.imread(BytesIO(base64.b64decode(found["episodes"][0]["frames"]["front"][12])))
    assert image.shape[:2] == (40, 60) and abs(image.mean() - 120) < 3


def test_episodes_and_frames_are_chosen(store: Path, tmp_path: Path) -> None:
    found = content(write(store, tmp_path, episodes=[2, 0], frames=10))
    assert [episode["number"] for episode in found["episodes"]] == [2, 0]
    assert found["every"] == 6
    assert [len(episode["frames"]["front"]) for episode in found["episodes"]] == [5, 5]
    assert not any(content(write(store, tmp_path, frames=0))["episodes"][0]["frames"].values())


def test_some_episodes_of_many_are_shown() -> None:
    class Many:
        episode_ends = np.arange(1, 501)

    chosen = some_episodes(Many())
    assert len(chosen) == 20 and chosen[0] == 0 and chosen[-1] == 499
    assert (spread(100, 30), spread(100, 100), spread(100, 0)) == (4, 1, 0)


def test_a_store_larger_than_memory_makes_a_small_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """740 MB of images, of which 20 are in the page, and a megabyte in memory."""
    monkeypatch.setattr(view_page, "CURVE_PARTS", 100)
    source: Any = Counting(steps=20_011)
    tracemalloc.start()
    view_page.write_page(source, [0], frames_of(source), 20, tmp_path / "drive.html")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    found = content(tmp_path / "drive.html")
    assert len(found["episodes"][0]["frames"]["camera"]) == 20 and peak < 32 * 2**20
    steps = unpacked(found["episodes"][0]["curves"]["speed"]["steps"], "<i4")
    assert 100 < len(steps) <= 200
    assert (tmp_path / "drive.html").stat().st_size < 100_000


@pytest.mark.slow
def test_a_browser_shows_it(store: Path, tmp_path: Path, browser_page: Any) -> None:  # noqa: F811
    browser_page.goto(write(store, tmp_path).as_uri())
    assert browser_page.locator("#plots .plot").count() == 2
    assert "2 elements are odd" in browser_page.locator("#flags").inner_text()
    assert browser_page.locator("#frames img").count() == 2
    drawn = "[...document.querySelector('.plot canvas').getContext('2d').getImageData(0, 0, 300, 100).data]"
    before = browser_page.evaluate(f"{drawn}.join()")
    browser_page.keyboard.press("PageDown")
    assert browser_page.locator("#now").inner_text() == "10 of 29"
    assert browser_page.evaluate(f"{drawn}.join()") != before
    until(browser_page, lambda: browser_page.locator("#frames img.small").count() == 2)
    browser_page.click("text=1:7")
    assert browser_page.locator("#now").inner_text() == "7 of 19"
    assert browser_page.locator("#episode").input_value() == "1"
    assert "60" in browser_page.locator(".plot .value").nth(1).inner_text()
    browser_page.check("#scaled")
    assert "1: 1" in browser_page.locator(".plot .value").nth(1).inner_text()
    box = browser_page.locator(".plot canvas").first.bounding_box()
    browser_page.mouse.click(box["x"] + box["width"] - 8, box["y"] + 50)
    assert browser_page.locator("#now").inner_text() == "19 of 19"


def test_rerun_gets_the_same_numbers(store: Path, tmp_path: Path) -> None:
    chunks = pytest.importorskip("rerun.chunk", reason="rerun-sdk is not installed")
    write(store, tmp_path, format="rerun", episodes=[1], frames=5)
    found: dict[str, list[Any]] = {}
    for chunk in chunks.RrdReader(str(tmp_path / "demos.rrd")).stream():
        found.setdefault(chunk.entity_path, []).append(chunk.to_record_batch())
    assert set(found) >= {"/episode_0001/action", "/episode_0001/still", "/episode_0001/front/picture"}
    assert sum(batch.num_rows for batch in found["/episode_0001/front/picture"]) == 5
    (batch,) = found["/episode_0001/action"]
    (column,) = (name for name in batch.schema.names if "Scalars" in name)
    expected = ZarrSource(store).read("action", 30, 50)
    np.testing.assert_array_equal(np.stack(batch.column(column).to_pylist()), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["demos.rrd"]


def test_a_file_of_rerun_that_a_full_disk_cuts_short_is_none(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed")
    with no_room(2000), pytest.raises(OSError, match=r"not written it to its end, see above: .*demos\.rrd"):
        write(store, tmp_path, format="rerun", episodes=[1], frames=5)
    assert not list(tmp_path.iterdir())


def test_rerun_that_is_not_installed_is_one_sentence(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(InputError, match=r"pip install 'shortcut-policy\[rerun\]', or take format=html"):
        write(store, tmp_path, format="rerun")
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_one_sentence(store: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="format=pdf must be picture, html or rerun"):
        write(store, tmp_path, format="pdf")
