"""Published results that are damaged."""

from pathlib import Path

import pytest

from shortcut_policy.benchmark.result_files import read_published, read_rows
from shortcut_policy.errors import InputError

RUN = '{"kind": "run", "run": 0, "spec": {}, "training": {}, "checkpoints": [], "losses": {}}\n'
CELL = (
    '{"kind": "cell", "run": 0, "checkpoint": "a", "steps": 1, "summary": {}, "score": [%s], "success": []}\n'
)


def test_a_run_and_its_cell_are_read(tmp_path: Path):
    (tmp_path / "own.jsonl").write_text(RUN + CELL % "0.5")
    (run,) = read_published(tmp_path / "own.jsonl")
    assert run.cells["a", 1].scores.tolist() == [0.5]


@pytest.mark.parametrize(
    "text", [RUN + CELL % ("9" * 400), RUN + CELL % '"x"', RUN[:-9], "[" * 9999, '{"kind": "run"}']
)
def test_damage_is_one_sentence(text: str, tmp_path: Path):
    (tmp_path / "own.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"own\.jsonl cannot be read") as caught:
        read_published(tmp_path / "own.jsonl")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["[" * 9999, "[]", '[{"name": "a"}]', "{}"])
def test_no_rows_are_one_sentence(text: str, tmp_path: Path):
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError, match="holds no rows of a benchmark") as caught:
        read_rows(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
