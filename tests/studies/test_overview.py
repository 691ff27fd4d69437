"""The table of several benchmarks."""

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from shortcut_policy.benchmark.result_files import read_rows
from shortcut_policy.errors import InputError
from shortcut_studies import CONFIGS, overview


def row(name: str, steps: int, success: float, score: float | None = None, **more: Any) -> dict[str, Any]:
    values = {
        "name": name,
        "steps": steps,
        "score": success if score is None else score,
        "success": success,
        "success_ci": [success - 0.1, success + 0.1],
        "success_p_value": None,
        "reference": None,
        "seeds": 1,
        "episodes": 50,
    }
    return values | more


@pytest.fixture
def results(tmp_path: Path) -> dict[str, str]:
    first = [
        row("shortcut", 1, 0.8, success_p_value=0.01, reference="diffusion, 100 steps", seeds=2),
        row("diffusion", 100, 0.6),
    ]
    second = [row("shortcut", 1, 0.5, score=0.7, success_p_value=0.2), row("other", 1, 0.4)]
    folders = {}
    for title, rows in (("One", first), ("Two", second)):
        folder = tmp_path / title
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(rows))
        folders[title] = str(folder)
    return folders


def run(*overrides: str) -> None:
    with initialize_config_dir(str(CONFIGS), version_base=None):
        overview.run(compose("overview", list(overrides)))


def folders_override(results: dict[str, str]) -> list[str]:
    return [
        "~results",
        "+results={" + ", ".join(f"{title}: '{path}'" for title, path in results.items()) + "}",
    ]


def test_all_lines_of_all_results(results: dict[str, str], tmp_path: Path):
    document = tmp_path / "README.md"
    document.write_text("before\n<!-- results:robomimic -->\nformer\n<!-- /results -->\nafter\n")
    run(*folders_override(results), "lines=[]", f"readme={document}", f"output={tmp_path / 'table.md'}")
    table = (tmp_path / "table.md").read_text()
    assert table.splitlines()[:5] == [
        "| method | steps | One | Two |",
        "| :-- | --: | --: | --: |",
        "| shortcut | 1 | 80% [70%, 90%], p = 0.020 | 0.700, 50% [40%, 60%] |",
        "| diffusion | 100 | 60% [50%, 70%] | – |",
        "| other | 1 | – | 0.400, 40% [30%, 50%] |",
    ]
    assert "Training seeds: 1 to 2 (One), 1 (Two); starts: 50." in table
    assert "differs from diffusion, 100 steps at the level" in table
    assert "corrected for the 2 tests of the table" in table
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "former" not in text
    assert table.strip() in text


def test_lines_that_are_asked_for(results: dict[str, str], tmp_path: Path):
    run(*folders_override(results), "lines=[[other, 1]]", f"output={tmp_path / 'table.md'}")
    assert "shortcut" not in (tmp_path / "table.md").read_text()
    with pytest.raises(
        InputError, match=r"lines: none of the results has \[shortcut, 2\], only \[shortcut, 1\]"
    ):
        run(*folders_override(results), "lines=[[shortcut, 2]]")


@pytest.mark.parametrize("line", ["shortcut", "[shortcut]", "[shortcut, one]", "[shortcut, 1, 2]"])
def test_lines_that_are_none(results: dict[str, str], line: str):
    with pytest.raises(
        InputError, match=r"lines: .* is no method and its steps; give such as \[shortcut, 1\]"
    ):
        run(*folders_override(results), f"lines=[{line}]")


def test_no_columns():
    with pytest.raises(InputError, match="results is empty"):
        run("~results", "+results={}")


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", "[{}]", "3"])
def test_results_that_are_none(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=r"results\.json holds no rows of a benchmark .* name a folder"):
        read_rows(tmp_path)


def test_a_document_without_a_place_is_refused_first(results: dict[str, str], tmp_path: Path):
    with pytest.raises(InputError, match="no place for the table"):
        run(*folders_override(results), f"readme={tmp_path / 'none.md'}")
