"""Scaling to and from network units, and statistics that do not depend on how the data comes in."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shortcut_policy.data import Field, Normalizer
from shortcut_policy.data.normalizer import RunningStatistics, nearly_constant, say_nearly_constant
from shortcut_policy.errors import InputError

ROWS = np.random.default_rng(0).normal([5.0, -300.0, 0.02], [2.0, 40.0, 1e-3], (500, 3)).astype(np.float32)


def fit(rows: np.ndarray, normalize: str = "limits") -> Normalizer:
    statistics = RunningStatistics()
    statistics.update(rows)
    return Normalizer({"x": Field("x", rows.shape[1:], normalize=normalize)}, {"x": statistics})


def test_limits() -> None:
    x = torch.from_numpy(ROWS)
    y = fit(ROWS).normalize("x", x)
    torch.testing.assert_close(y.amin(0), -torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.amax(0), torch.ones(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(fit(ROWS).unnormalize("x", y), x)


def test_gaussian() -> None:
    x = torch.from_numpy(ROWS)
    y = fit(ROWS, "gaussian").normalize("x", x)
    torch.testing.assert_close(y.mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(fit(ROWS, "gaussian").unnormalize("x", y), x)


def test_identity() -> None:
    x = torch.from_numpy(ROWS)
    assert torch.equal(fit(ROWS, "identity").normalize("x", x), x)
    assert torch.equal(fit(ROWS, "identity").unnormalize("x", x), x)


@pytest.mark.parametrize("normalize", ["limits", "gaussian", "identity"])
def test_unscaled_elements_are_left_alone(normalize: str) -> None:
    rows = np.concatenate([ROWS, np.full((len(ROWS), 1), 0.25, np.float32)], axis=1)
    statistics = RunningStatistics()
    statistics.update(rows)
    field = Field("x", (4,), normalize=normalize, unscaled=(1, 3))
    x, normalizer = torch.from_numpy(rows), Normalizer({"x": field}, {"x": statistics})
    y = normalizer.normalize("x", x)
    assert torch.equal(y[:, [1, 3]], x[:, [1, 3]])
    assert torch.equal(y[:, [0, 2]], fit(rows, normalize).normalize("x", x)[:, [0, 2]])
    # One that never varied too: a rotation's numbers mean something together.
    assert torch.equal(normalizer.unnormalize("x", y + 1)[:, 3], x[:, 3] + 1)
    assert not Normalizer.empty({"x": field}).fitted


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_image(dtype: torch.dtype) -> None:
    normalizer = Normalizer({"x": Field("x", (96, 96, 3), normalize="image")}, {})
    pixels = torch.tensor([0, 255, 51], dtype=dtype)
    y = normalizer.normalize("x", pixels)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, torch.tensor([-1.0, 1.0, -0.6]))
    torch.testing.assert_close(normalizer.unnormalize("x", y), pixels.float())


@pytest.mark.parametrize("normalize", ["limits", "gaussian"])
@pytest.mark.parametrize("constant", [0.0, 0.1, -512.3, 1e-8])
def test_constant_elements(normalize: str, constant: float) -> None:
    """They normalise to 0 and come back exactly, whatever the value and whatever the network says."""
    rows = np.stack([ROWS[:, 0], np.full(500, constant, np.float32)], axis=1)
    normalizer = fit(rows, normalize)
    y = normalizer.normalize("x", torch.tensor([[5.0, constant], [6.0, constant + 3.0]]))
    assert y[:, 1].tolist() == [0.0, 0.0]
    assert y[1, 0] > y[0, 0]
    back = normalizer.unnormalize("x", torch.tensor([[0.5, 0.0], [0.5, 0.7]]))
    assert (back[:, 1] == torch.tensor(constant)).all()


def test_float32_noise_on_a_large_constant_is_constant() -> None:
    rows = np.float32(1e6) + np.array([[0.0], [0.0625]], np.float32)
    assert fit(rows).normalize("x", torch.from_numpy(rows)).abs().max() == 0


def test_batch_axes_are_free() -> None:
    rows = ROWS[:, :2].reshape(250, 2, 2)
    normalizer = fit(rows)
    x = torch.from_numpy(rows)
    batch = x[:24].reshape(4, 6, 2, 2)
    assert torch.equal(normalizer.normalize("x", batch).reshape(24, 2, 2), normalizer.normalize("x", x)[:24])


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.floats(-1e6, 1e6), st.floats(1e-2, 1e3))
def test_statistics_do_not_depend_on_the_blocks(sizes: list[int], mean: float, std: float) -> None:
    rows = np.random.default_rng(1).normal(mean, std, (sum(sizes), 2)).astype(np.float32)
    statistics = RunningStatistics()
    for block in np.split(rows, np.cumsum(sizes)[:-1]):
        statistics.update(block)
    exact = rows.astype(np.float64)
    assert statistics.count == len(rows)
    np.testing.assert_allclose(statistics.mean, exact.mean(0), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(statistics.std, exact.std(0), rtol=1e-6, atol=1e-9)
    np.testing.assert_array_equal([statistics.min, statistics.max], [exact.min(0), exact.max(0)])


def test_statistics_travel_in_the_state_dict() -> None:
    fields = {"x": Field("x", (3,)), "image": Field("image", (8, 8, 3), normalize="image")}
    statistics = RunningStatistics()
    statistics.update(ROWS)
    fitted, loaded = Normalizer(fields, {"x": statistics}), Normalizer.empty(fields)
    assert {name: tuple(b.shape) for name, b in loaded.state_dict().items()} == {
        "x_scale": (3,),
        "x_offset": (3,),
        "image_scale": (),
        "image_offset": (),
    }
    assert all(b.dtype == torch.float32 for b in fitted.state_dict().values())
    loaded.load_state_dict(fitted.state_dict())
    x = torch.from_numpy(ROWS)
    assert torch.equal(loaded.normalize("x", x), fitted.normalize("x", x))


def test_without_statistics_it_refuses_to_work() -> None:
    fields = {"x": Field("x", (3,)), "image": Field("image", (8, 8, 3), normalize="image")}
    for normalizer in (Normalizer.empty(fields), Normalizer(fields, {})):
        assert not normalizer.fitted
        for call in (normalizer.normalize, normalizer.unnormalize):
            with pytest.raises(InputError, match=r"no statistics.*load a checkpoint"):
                call("x", torch.zeros(3))


def test_half_loaded_statistics_are_refused() -> None:
    fields = {"x": Field("x", (3,)), "z": Field("z", (3,))}
    normalizer = Normalizer.empty(fields)
    normalizer.load_state_dict({"x_scale": torch.ones(3), "x_offset": torch.zeros(3)}, strict=False)
    with pytest.raises(InputError, match="no statistics"):
        normalizer.normalize("x", torch.zeros(3))


def test_unknown_name() -> None:
    with pytest.raises(InputError, match="'force' is unknown; the policy was made for x"):
        fit(ROWS).normalize("force", torch.zeros(3))


@pytest.mark.parametrize("normalize", ["limits", "gaussian"])
@pytest.mark.parametrize(("base", "noise"), [(0.0, 1e-8), (0.0, 1e-5), (0.5, 1e-6), (-30.0, 1e-5)])
def test_the_noise_of_a_sensor_is_no_information(normalize: str, base: float, noise: float) -> None:
    """Scaled to the whole range, a shift of a hundredth of a millimetre would be hundreds."""
    rows = np.column_stack([ROWS[:, 0], base + noise * np.random.default_rng(1).normal(size=len(ROWS))])
    normalizer = fit(rows, normalize)
    shifted = torch.from_numpy(rows).float() + torch.tensor([0.0, 0.01])
    assert torch.equal(normalizer.normalize("x", shifted)[:, 1], torch.zeros(len(rows)))
    np.testing.assert_allclose(normalizer.unnormalize("x", torch.ones(2))[1], base, atol=1e-4)


def test_what_counts_as_noise_is_the_fields_to_say() -> None:
    statistics = RunningStatistics()
    statistics.update(np.array([[0.0], [1e-5]]))
    fine = Field("x", (1,), min_range=0)
    assert Normalizer({"x": fine}, {"x": statistics}).get_buffer("x_scale") == pytest.approx(5e-6)
    assert nearly_constant(fine, statistics) == []
    assert nearly_constant(Field("x", (1,)), statistics) == [((0,), 0.0, 1e-5)]
    assert fine.to_spec()["min_range"] == 0 and "min_range" not in Field("x", (1,)).to_spec()
    with pytest.raises(InputError, match="min_range of field 'x'=-1 must be a number from 0 on"):
        Field("x", (1,), min_range=-1)


def test_without_a_least_range_no_scale_is_infinite() -> None:
    statistics = RunningStatistics()
    statistics.update(np.array([[0.0], [1e-40]]))
    field = Field("x", (1,), min_range=0)
    normalizer = Normalizer({"x": field}, {"x": statistics})
    assert torch.equal(normalizer.normalize("x", torch.tensor([[1e-40]])), torch.zeros(1, 1))
    assert nearly_constant(field, statistics) == [((0,), 0.0, 1e-40)]


def test_why_an_element_counts_as_constant_and_what_helps(capsys) -> None:
    statistics, field = RunningStatistics(), Field("time", (1,))
    statistics.update(np.array([[1.8e9], [1.8e9 + 20]]))
    say_nearly_constant(field, statistics, "time of a.zarr", needed=False)
    said = capsys.readouterr().err
    assert "time of a.zarr: element [0] varies by 20 only" in said
    assert "which float32 hardly holds, and counts as constant" in said
    assert "to learn from it, take a constant off in the data" in said
    with pytest.raises(InputError, match="and so do all of them: take a constant off in the data"):
        say_nearly_constant(field, statistics, "action", needed=True)


@pytest.mark.parametrize(("normalize", "reach"), [("limits", 3), ("gaussian", 10)])
def test_values_far_from_the_data_are_said_once(normalize: str, reach: float, capsys) -> None:
    normalizer = fit(ROWS, normalize)
    y = torch.zeros(2, 4, 3)
    y[1, 2, 1] = reach + 0.1
    x = normalizer.unnormalize("x", y)
    assert not normalizer.is_near("x", x)
    y[1, 2, 1] = reach - 0.1
    assert normalizer.is_near("x", normalizer.unnormalize("x", y))
    for _ in range(2):
        normalizer.say_far({"x": x, "else": x})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"observation 'x', element [1], is {x[1, 2, 1]:.6g}, and the data")
    assert f"the network gets {reach + 0.1:.3g}" in line


@pytest.mark.parametrize("normalize", ["identity", "image"])
def test_what_is_not_scaled_by_data_is_always_near(normalize: str) -> None:
    assert fit(ROWS, normalize).is_near("x", torch.full((1, 3), 1e6))


def test_elements_that_are_not_scaled_are_near_whatever_their_value(capsys) -> None:
    statistics = RunningStatistics()
    statistics.update(ROWS)
    normalizer = Normalizer({"x": Field("x", (3,), unscaled=(1,))}, {"x": statistics})
    assert normalizer.is_near("x", torch.from_numpy(ROWS))
    normalizer.say_far({"x": torch.tensor([5.0, 1e6, 0.02])})
    assert not capsys.readouterr().err
    assert not normalizer.is_near("x", torch.tensor([5.0, torch.nan, 0.02]))


def test_what_is_near_follows_the_numbers_that_are_loaded(capsys) -> None:
    normalizer, x = fit(ROWS), torch.from_numpy(ROWS)
    assert normalizer.is_near("x", x) and not normalizer.is_near("x", 1000 + x)
    assert not normalizer.is_near("x", torch.full((1, 3), torch.nan))
    normalizer.load_state_dict(fit(1000 + ROWS).state_dict())
    assert normalizer.is_near("x", 1000 + x) and not normalizer.is_near("x", x)
    assert normalizer.to("cpu", torch.float64).is_near("x", 1000 + x.double())
    assert not fit(np.zeros((4, 2))).is_near("x", torch.tensor([0.0, torch.inf]))


def test_an_element_that_was_constant_and_moves_is_said_once(capsys) -> None:
    rows = np.tile(np.float32([0.1, 0.0, 1.0]), (50, 1))
    rows[:, 2] += np.random.default_rng(0).normal(size=50)
    rows[:, 1] += np.random.default_rng(1).uniform(0, 1e-5, 50)  # a sensor that reads nothing
    normalizer = fit(rows)
    x = torch.from_numpy(rows[:4].copy())
    assert normalizer.is_near("x", x) and normalizer.is_near("x", x + 5e-4), "noise is no movement"
    assert normalizer.is_near("x", torch.tensor([[0.1, 0.0, 1.0]], dtype=torch.float64))
    x[2, 0], x[3, 1] = 0.3, -0.2
    assert not normalizer.is_near("x", x)
    normalizer.say_far({"x": x})
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("observation 'x', element [0], is 0.3, and it was 0.1 in all the data that the")
    assert second.startswith("observation 'x', element [1], is -0.2, and it was ") and "(said once)" in second
    assert normalizer.is_near("x", x), "what was said is not looked for again"
    assert not normalizer.is_near("x", torch.full((1, 3), torch.nan))
    x[0, 2] = 1e6
    normalizer.say_far({"x": x})
    (third,) = capsys.readouterr().err.splitlines()
    assert "element [2], is 1e+06, and the data that the policy learned from lie about" in third
    moved = normalizer.to("cpu", torch.float64)
    assert moved.is_near("x", x.double()), "also where the numbers have moved"
    assert torch.equal(moved.normalize("x", x.double())[:, :2], torch.zeros(4, 2, dtype=torch.float64))


def test_what_the_data_do_not_scale_is_not_clamped() -> None:
    """Raw metres and a rotation's numbers are in units of their own."""
    y = torch.tensor([[[5.0, -7.0, 0.3]]])
    statistics = RunningStatistics()
    statistics.update(ROWS)
    for normalize, unscaled, expected in (
        ("limits", (), [1.5, -1.5, 0.3]),
        ("gaussian", (1,), [1.5, -7.0, 0.3]),
        ("identity", (), [5.0, -7.0, 0.3]),
    ):
        field = Field("x", (3,), normalize=normalize, unscaled=unscaled)
        found = Normalizer({"x": field}, {"x": statistics}).clamped("x", y, 1.5)
        assert found.tolist() == torch.tensor([[expected]]).tolist()
    assert y[0, 0, 0] == 5, "what was given is left as it is"
    picture = Field("x", (3,), normalize="image")
    assert torch.equal(Normalizer({"x": picture}, {}).clamped("x", y, 1.5), y)


@pytest.mark.parametrize("normalize", ["limits", "identity"])
def test_an_action_that_is_always_the_same_is_said(normalize: str, capsys) -> None:
    """As where a recorder got no commands, and wrote zeros."""
    field, statistics = Field("action", (2,), normalize=normalize), RunningStatistics()
    statistics.update(np.zeros((20, 2)))
    say_nearly_constant(field, statistics, "action (key 'a' of demos.zarr)", needed=True)
    assert (
        "(key 'a' of demos.zarr) is the same in all of the data, 0, 0: only that" in capsys.readouterr().err
    )
    say_nearly_constant(field, statistics, "goal", needed=False)
    statistics.update(np.eye(2))
    say_nearly_constant(field, statistics, "action", needed=True)
    assert not capsys.readouterr().err


def test_actions_far_from_the_data_are_no_matter_of_obs_clamp(capsys) -> None:
    normalizer = fit(ROWS)
    normalizer.say_far({"x": torch.full((1, 3), 1e6)}, of="in the training data")
    said = capsys.readouterr().err
    assert "check units and sensor" in said and "obs_clamp" not in said
