"""`make quick` leaves out what is marked as slow, and still has tests of every room."""

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
ROOMS = sorted(path.parent for path in TESTS.glob("*/__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda folder: folder.name)
def test_every_room_has_quick_tests(room: Path):
    files = [path.read_text("utf-8") for path in room.glob("test_*.py")]
    quick = [text for text in files if "pytestmark = pytest.mark.slow" not in text]
    tests = sum(text.count("\ndef test_") for text in quick)
    slow = sum(text.count("@pytest.mark.slow") for text in quick)
    assert tests - slow >= 3, f"{room.name} has {tests - slow} quick tests"
