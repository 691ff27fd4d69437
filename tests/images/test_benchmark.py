"""The image benchmark on the digits, with a network of a few neurons and trainings of a few updates."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from shortcut_policy import fingerprint
from shortcut_policy.commands import images
from shortcut_policy.errors import InputError
from shortcut_policy.images import benchmark
from shortcut_policy.images.metrics import Quality
from shortcut_policy.images.table import Judged, distance_interval, make_row, make_table
from shortcut_policy.paths import CONFIG_DIR

TRAINING = [
    "task=digits",
    "backbone.size={width:16,depth:1,heads:2}",
    "trainer.max_steps=4",
    "trainer.batch_size=8",
    "trainer.warmup_steps=1",
    "trainer.validate_every=0",
    "cpu=true",
]


def settings(folder: Path, *overrides: str) -> DictConfig:
    training = ",".join(f"'{override}'" for override in TRAINING)
    document = folder / "page.md"
    if not document.exists():
        document.write_text("before\n<!-- results:digits -->\n<!-- /results -->\nafter\n")
    own = [
        f"training=[{training}]",
        "entries=["
        "{name: flow matching, overrides: ['objective=flow_matching'], steps: [1, 4], seeds: [0, 1]},"
        "{name: shortcut, overrides: ['objective=shortcut'], steps: [1]}]",
        *("samples=40", "classifier.epochs=2", "shown=10"),
        *(f"cache={folder}/cache", f"output={folder}/runs", f"results={folder}/results"),
        *(f"document={document}", "marker=digits"),
    ]
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("benchmark_digits", [*own, *overrides])


@pytest.mark.slow
def test_benchmark_writes_everything_and_does_nothing_twice(tmp_path: Path, monkeypatch, capsys):
    images.benchmark(settings(tmp_path))
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    rows = {(row["name"], row["steps"]): row for row in results["rows"]}
    lines = [("flow matching", 1), ("flow matching", 4), ("shortcut", 1), ("held-out images", None)]
    assert list(rows) == lines
    assert results["features"] == "FD-classifier" and 0.5 < results["classifier"]["accuracy"] <= 1
    for row in rows.values():
        assert row["fd_ci"][0] <= row["fd"] <= row["fd_ci"][1]
        assert all(0 <= row[rate] <= 1 for rate in ("precision", "recall", "accuracy"))
    # Four updates make noise; real digits are real digits.
    assert rows["held-out images", None]["fd"] < 0.2 * rows["flow matching", 1]["fd"]
    assert rows["flow matching", 1]["seeds"] == [0, 1] and rows["flow matching", 1]["train_max_steps"] == 4
    written = {path.name for path in (tmp_path / "results").iterdir()}
    assert written == {"results.json", "results.md", "steps.png", "samples_1.png", "samples_4.png"}
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("before") and text.endswith("after\n") and "| flow matching | 4 |" in text

    draw, measure = benchmark.draw, benchmark.measure
    monkeypatch.setattr(benchmark, "draw", lambda *_: pytest.fail("samples again"))
    monkeypatch.setattr(benchmark, "measure", only_held_out(measure))
    capsys.readouterr()
    images.benchmark(settings(tmp_path, "trained_only=true"))
    again = json.loads((tmp_path / "results" / "results.json").read_text())
    assert again["rows"] == results["rows"]
    said = [
        line.removeprefix("reused: ") for line in capsys.readouterr().out.splitlines() if "reused" in line
    ]
    # Two files for each of five cells, three trainings, the classifier and its view of the real images.
    assert len(said) == 15 and {Path(line.split(",")[0]).exists() for line in said} == {True}

    drawn = []
    monkeypatch.setattr(benchmark, "draw", lambda *given: drawn.append(given) or draw(*given))
    monkeypatch.setattr(benchmark, "measure", measure)
    monkeypatch.setattr(fingerprint, "own_code", lambda: "another")
    one = "entries=[{name: shortcut, overrides: ['objective=shortcut'], steps: [1]}]"
    images.benchmark(settings(tmp_path, one))
    assert len(drawn) == 1, "other code may draw other samples"
    images.benchmark(settings(tmp_path, one))
    assert len(drawn) == 1


@pytest.mark.slow
def test_every_scale_of_guidance_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def guided(scales: str, *overrides: str) -> DictConfig:
        objective = "'objective=shortcut_guided','objective.guidance.scale=[1,3]'"
        entry = f"entries=[{{name: guided, overrides: [{objective}], steps: [1], guidance: {scales}}}]"
        return settings(tmp_path, entry, *overrides)

    with pytest.raises(InputError, match=r"guidance=4"):
        images.benchmark(guided("[1, 4]"))
    assert not (tmp_path / "runs").exists(), "refused before the training"
    asked, draw = [], benchmark.draw
    monkeypatch.setattr(benchmark, "draw", lambda *given: asked.append(given[5]) or draw(*given))
    images.benchmark(guided("[1, 3]"))
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert [row["name"] for row in results["rows"][:-1]] == ["guided, scale 1", "guided, scale 3"]
    assert asked == [1, 3]


def only_held_out(measure):
    def guarded(features, real, samples, labels):
        assert len(samples) != 40, "measured again"
        return measure(features, real, samples, labels)

    return guarded


@pytest.mark.slow
def test_benchmark_says_what_it_cannot_use(tmp_path: Path):
    entries = "entries=[{name: x, checkpoint: somewhere, steps: [1]}]"
    with pytest.raises(InputError, match="'x' has no overrides"):
        images.benchmark(settings(tmp_path, entries))
    with pytest.raises(InputError, match="no run below"):
        images.benchmark(settings(tmp_path, "trained_only=true"))
    entry = "{name: shortcut, overrides: ['objective=shortcut'], steps: [1, 3]}"
    other = "{name: flow, overrides: ['objective=flow_matching', 'task.flip=true'], steps: [1]}"
    for overrides, sentence in (
        ([f"entries=[{entry}]"], "steps=3 cannot be sampled"),
        ([f"entries=[{entry.replace('[1, 3]', '1')}]"], r"'shortcut': steps=1 must be a list"),
        (
            [f"entries=[{entry.replace('[1, 3]', '[1]')}, {other}]"],
            "'shortcut' and 'flow' learn from different",
        ),
        (["device=quantum"], "device=quantum cannot be used here"),
        (["samples=3"], "samples=3 must be a whole number from 4 on"),
        (["noise_seed=-1"], "noise_seed=-1 must be a whole number"),
        (["bf16=no"], "bf16=no must be true or false"),
        (["features=inception", "inception_weights=nowhere.pt"], "there is no file nowhere.pt"),
    ):
        with pytest.raises(InputError, match=sentence):
            images.benchmark(settings(tmp_path, *overrides))
    assert not (tmp_path / "runs").exists()


def quality(fd: float, correct: list[bool]) -> Quality:
    rates = np.array(correct)
    return Quality(fd, fd + np.linspace(-0.5, 0.5, 101), rates, rates, rates)


def test_interval_of_several_seeds_holds_their_spread():
    draws = np.stack([quality(1.0, [True]).fd_draws, quality(3.0, [True]).fd_draws])
    low, high = distance_interval(draws)
    assert low < 1.0 and high > 3.0
    one = distance_interval(draws[:1])
    assert one == pytest.approx((0.525, 1.475), abs=0.02)
    assert distance_interval(np.full((1, 5), -1.0)) == (0, 0)


def test_rates_nobody_can_tell_are_left_out():
    judged = Judged("x", 1, 1, [quality(1.0, [True, False])], np.zeros((2, 1, 8, 8), np.uint8), {}, [0])
    unknown = Judged("y", 1, 1, [quality(1.0, [])], np.zeros((2, 1, 8, 8), np.uint8), {}, [0])
    rows = [make_row(judged, "FID"), make_row(unknown, "FID")]
    assert rows[0]["accuracy"] == 0.5 and rows[1]["accuracy"] is None
    table = make_table(rows, "title").markdown()
    assert "| method | steps | FID |" in table and "50% [" in table
