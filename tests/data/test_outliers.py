"""A few rows far from all others scale an element: that is said, and of healthy data nothing is."""

from pathlib import Path

import numpy as np
import pytest

from shortcut_policy.data import DemonstrationDataset, EpisodeWriter, Field, ZarrSource, bundled, outliers
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.data.outliers import RowSample, outlying

EPISODES, STEPS = 20, 50
SIZES = {"horizon": 8, "n_obs_steps": 2, "n_action_steps": 4, "val_fraction": 0}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {key: rng.uniform(-1, 1, (EPISODES * STEPS, 3)) for key in ("state", "action")}


def said(
    folder: Path, capsys, data: dict[str, np.ndarray], normalize: str = "limits", **options: object
) -> str:
    """What fitting a normaliser to these rows says."""
    with EpisodeWriter(folder / "a.zarr", overwrite=True) as writer:
        for start in range(0, EPISODES * STEPS, STEPS):
            writer.add_episode({key: values[start : start + STEPS] for key, values in data.items()})
    fields = {key: Field(key, (3,), normalize=normalize, **options) for key in data}
    dataset = DemonstrationDataset(
        ZarrSource(folder / "a.zarr"), {"state": fields["state"]}, fields["action"], **SIZES, cache=folder
    )
    capsys.readouterr()
    dataset.fit_normalizer()
    return capsys.readouterr().err


@pytest.mark.parametrize("normalize", ["limits", "gaussian"])
@pytest.mark.parametrize("key", ["state", "action"])
def test_one_row_is_said_with_its_place_and_what_to_do(tmp_path: Path, capsys, key: str, normalize: str):
    data = arrays()
    data[key][7 * STEPS + 13, 1] = 1000
    (line,) = said(tmp_path, capsys, data, normalize).splitlines()
    assert line.startswith(f"{key} (key '{key}' of {tmp_path / 'a.zarr'}): element [1] lies in -0.99")
    assert "to 1000, and 99.7% of the rows in -0.99" in line and "0.2% of that range" in line
    assert "a row is far off, step 13 of episode 7. If that is a fault, correct it in the data" in line
    assert "name it in its field's unscaled" in line


def test_several_rows_and_elements(tmp_path: Path, capsys):
    data = arrays()
    data["state"][[70, 71, 400], 2] = -5e4
    data["state"][500, 0] = 1e5
    (line,) = said(tmp_path, capsys, data).splitlines()
    assert "element [0] (and 1 more) lies in" in line and "step 0 of episode 10" in line
    assert said(tmp_path, capsys, data, unscaled=(0, 2)) == "", "nothing scales these"
    data["state"][500, 0] = 0
    assert "3 rows are far off, first step 20 of episode 1. " in said(tmp_path, capsys, data)


def test_a_constant_action_that_moves_in_one_row(tmp_path: Path, capsys):
    """The network is off by a little of the range everywhere, and the action would be as well."""
    data = arrays()
    data["action"][:, 2] = 0
    data["state"][:, 2] = 0
    for values in data.values():
        values[300, 2] = 1000
    (line,) = said(tmp_path, capsys, data).splitlines()
    assert (
        line.startswith("action (")
        and "element [2] lies in 0 to 1000, and 99.7% of the rows in 0 to 0" in line
    )
    data["action"][300, 2] = data["state"][300, 2] = 1
    assert said(tmp_path, capsys, data) == "", "a button that is pressed once"


def forces(rows: int) -> np.ndarray:
    """Nothing but noise, and a blow now and then, of any strength."""
    rng = np.random.default_rng(1)
    blow = rng.random((rows, 3)) < 0.005
    return np.where(blow, rng.lognormal(2, 1, (rows, 3)), 0.1 * rng.normal(size=(rows, 3)))


@pytest.mark.parametrize("normalize", ["limits", "gaussian"])
def test_long_tails_are_healthy(tmp_path: Path, capsys, normalize: str):
    data, rng = arrays(), np.random.default_rng(2)
    for values in (
        rng.standard_t(3, (EPISODES * STEPS, 3)),
        rng.lognormal(0, 1, (EPISODES * STEPS, 3)),
        forces(EPISODES * STEPS),
        np.repeat(rng.random((EPISODES * STEPS // 25, 3)) < 0.05, 25, axis=0).astype(float),
    ):
        assert said(tmp_path, capsys, data | {"state": values, "action": values[::-1]}, normalize) == ""


@pytest.mark.parametrize("name", ["pusht", "pusht_policy", "lift", "can"])
def test_bundled_demonstrations_are_healthy(name: str, capsys):
    source = bundled(name)
    keys = [key for key in source.keys if len(source.shapes[key]) == 1]
    action = next(key for key in keys if key.startswith("action"))
    fields = {key.replace(".", "_"): Field(key, source.shapes[key]) for key in keys if key != action}
    DemonstrationDataset(source, fields, Field(action, source.shapes[action]), **SIZES).fit_normalizer()
    assert "far off" not in capsys.readouterr().err


def test_of_many_rows_some_are_looked_at_and_the_extremes_of_all(monkeypatch):
    """However the rows come in."""
    monkeypatch.setattr(outliers, "SAMPLED_ROWS", 1000)
    field, rows = Field("x", (2,)), np.random.default_rng(0).uniform(-1, 1, (100_000, 2)).astype(np.float32)
    rows[77_777, 1] = 1e4
    found = []
    for cuts in ([], [3, 500, 99_999]):
        statistics, sample = RunningStatistics(), RowSample(len(rows), field)
        for block in np.split(rows, cuts):
            statistics.update(block)
            sample.update(block)
        assert len(sample.rows) == 1000
        found.append(outlying(field, statistics, sample, constant=False))
    assert found[0] == found[1]
    share, (element,) = found[0]
    assert share == 0.997 and element.index == (1,) and element.high == 1e4
    assert -1 <= element.most[0] < -0.98 and 0.98 < element.most[1] <= 1
    assert np.flatnonzero(element.far(rows)).tolist() == [77_777]


@pytest.mark.parametrize("count", [1, 2, 3, 19])
def test_of_a_few_rows_nothing_is_far_off(count: int):
    field, statistics, sample = Field("x", (1,)), RunningStatistics(), RowSample(count, Field("x", (1,)))
    rows = np.arange(count, dtype=np.float32)[:, None]
    rows[-1] = 1e6
    statistics.update(rows)
    sample.update(rows)
    assert outlying(field, statistics, sample, constant=True)[1] == []
