"""The loop of docs/own_robot.md moves its robot."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_robot_of_the_page_is_moved_in_time(monkeypatch: pytest.MonkeyPatch, capsys):
    page = (ROOT / "docs" / "own_robot.md").read_text("utf-8")
    code = re.findall(r"^```python\n(.*?)^```", page, flags=re.M | re.S)[0]
    assert len(code.splitlines()) <= 32 and "RATE_HZ = 10 " in code
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    exec(compile(code.replace("RATE_HZ = 10 ", "RATE_HZ = 50 "), "own_robot.md", "exec"), names)
    assert np.linalg.norm(names["robot"].place - 100) > 20
    counts = names["executor"].counts
    assert counts.actions == 50 and counts.chunks >= 3
    assert f"actions={counts.actions}" in capsys.readouterr().out
