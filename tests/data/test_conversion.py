"""Images as they come: either layout, bytes or floats in either range; and what is refused."""

import re

import numpy as np
import pytest

from shortcut_policy.data import DemonstrationDataset, Field
from shortcut_policy.data.conversion import Conversion
from shortcut_policy.errors import InputError
from tests.data.own_source import OwnSource

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), np.uint8)
HWC, CHW = (5, 6, 3), (3, 5, 6)
ENDS = [10, 25, 40]


def load(images: np.ndarray, shape: tuple[int, ...] = HWC, **options: object) -> np.ndarray:
    """What a policy sees of all images."""
    source = OwnSource({"cam": images, "action": np.zeros((40, 2), np.float32)}, ENDS)
    field = Field("cam", shape, normalize="image", **options)
    sizes = {"horizon": 1, "n_obs_steps": 1, "n_action_steps": 1, "val_fraction": 0.0}
    dataset = DemonstrationDataset(source, {"cam": field}, Field("action", (2,)), **sizes)
    return dataset.batch(dataset.train)["obs"]["cam"][:, 0].numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int32])
def test_channels_are_moved_to_where_the_field_has_them(dtype: type, capsys: pytest.CaptureFixture) -> None:
    stored = IMAGES.astype(dtype)
    np.testing.assert_array_equal(load(stored), IMAGES)
    assert not capsys.readouterr().err
    np.testing.assert_array_equal(load(stored.transpose(0, 3, 1, 2)), IMAGES)
    assert "images of key 'cam' of own: [3, 5, 6] per step become [5, 6, 3] while" in capsys.readouterr().err
    np.testing.assert_array_equal(load(stored, CHW), IMAGES.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(load(stored.transpose(0, 3, 1, 2), CHW), IMAGES.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_0_to_1_are_scaled_though_the_first_episode_is_black(
    dtype: type, capsys: pytest.CaptureFixture
) -> None:
    black = IMAGES.copy()
    black[:12] = 0
    np.testing.assert_array_equal(load((black / 255).astype(dtype)), black)
    assert "images of key 'cam' of own: 0..1 becomes 0..255 while they are loaded" in capsys.readouterr().err


def test_floats_that_bytes_hardly_hold_are_named(capsys: pytest.CaptureFixture) -> None:
    """Depth in metres would become three grey values."""
    load((IMAGES / 100).astype(np.float32).clip(1.5))
    said = capsys.readouterr().err
    assert "images of key 'cam' of own hold floats up to 2.55 in one frame each" in said
    assert (
        "become whole numbers in 0..255: if they are depth or the like, give the field normalize=lim" in said
    )
    load(IMAGES.astype(np.float32))
    load((IMAGES / 100).astype(np.uint8))
    assert not capsys.readouterr().err


def test_masks_of_true_and_false_are_black_and_white(capsys: pytest.CaptureFixture) -> None:
    mask = IMAGES > 100
    np.testing.assert_array_equal(load(mask), 255 * mask.astype(np.uint8))
    assert "0..1 becomes 0..255 while they are loaded" in capsys.readouterr().err


def test_dark_and_black_images_in_0_to_255_are_not_taken_for_others() -> None:
    dark = IMAGES.astype(np.float32)
    dark[:12] = 0
    dark[3, 0, 0] = 1
    np.testing.assert_array_equal(load(dark), dark)
    np.testing.assert_array_equal(load(np.zeros_like(dark)), np.zeros_like(dark))


@pytest.mark.parametrize("top", [1, 255])
def test_a_frame_in_the_other_range_is_named(top: int) -> None:
    images = IMAGES * np.float32(top / 255)
    images[11] *= np.float32(255 if top == 1 else 1 / 255)
    wanted = rf"row 11 \(episode 1, step 1\) has pixels up to .*other episodes are in 0\.\.{top}; store"
    with pytest.raises(InputError, match=wanted):
        load(images)


@pytest.mark.parametrize(
    ("scale", "bad"), [(1, np.nan), (1, 256), (1, -1), (1 / 255, -0.1), (1 / 255, np.inf)]
)
def test_what_is_no_pixel_is_named(scale: float, bad: float) -> None:
    images = IMAGES.astype(np.float32) * np.float32(scale)
    images[13, 2, 2, 2] = bad
    with pytest.raises(
        InputError, match=r"row 13 \(episode 1, step 3\) is not a pixel value in 0\.\.255; drop"
    ):
        load(images)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        (
            (5, 6, 4),
            "holds images with 4 channels, but the task expects 3; take some of them (columns: [0, 1, 2]) or",
        ),
        ((4, 5, 6), "holds images with 4 channels, but the task expects 3; give the field 4 channels"),
        ((5, 6, 1), "holds images with 1 channels, but the task expects 3; give the field 1 channels"),
        ((6, 5, 3), "has shape [6, 5, 3] per step, but the task expects [5, 6, 3]"),
        ((5, 3, 6), "has shape [5, 3, 6] per step"),
        ((5, 6), "has shape [5, 6] per step"),
    ],
)
def test_other_shapes_get_a_sentence(shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(InputError, match=re.escape(sentence)):
        load(np.zeros((40, *shape), np.uint8))


def test_columns_choose_channels() -> None:
    np.testing.assert_array_equal(load(IMAGES, (5, 6, 2), columns=(2, 0)), IMAGES[..., [2, 0]])


def test_few_frames_are_looked_at_to_tell_the_range() -> None:
    source = OwnSource({"cam": IMAGES.astype(np.float32)}, ENDS)
    assert Conversion(source, Field("cam", HWC, normalize="image")).top == 255
    assert len(source.reads) == 1
    source = OwnSource({"cam": IMAGES / 255}, ENDS)
    assert Conversion(source, Field("cam", HWC, normalize="image")).top == 1
    assert source.reads == [("cam", row, row + 1) for row in (5, 17, 32)]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_masks_of_whole_numbers_are_said_to_be_nearly_black(dtype: type, capsys) -> None:
    mask = (IMAGES > 100).astype(dtype)
    np.testing.assert_array_equal(load(mask), mask)
    assert (
        "images of key 'cam' of own hold whole numbers up to 1, and are nearly black"
        in capsys.readouterr().err
    )
    mask[5, 0, 0] = 2
    load(mask)
    load(np.zeros_like(mask))
    assert not capsys.readouterr().err


@pytest.mark.parametrize("stored", [(40,), (40, 1)])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_one_number_a_step_may_have_an_axis_of_its_own_or_none(stored: tuple[int, ...], shape) -> None:
    """Grippers are stored as (N,) as often as (N, 1), and an action has one axis."""
    numbers = np.arange(40.0).reshape(stored)
    source = OwnSource({"gripper": numbers, "action": -numbers}, ENDS)
    sizes = {"horizon": 1, "n_obs_steps": 1, "n_action_steps": 1, "val_fraction": 0.0}
    fields = {"gripper": Field("gripper", shape)}
    dataset = DemonstrationDataset(source, fields, Field("action", (1,)), **sizes)
    batch = dataset.batch(dataset.train)
    np.testing.assert_array_equal(batch["action"], -np.arange(40.0).reshape(40, 1, 1))
    np.testing.assert_array_equal(batch["obs"]["gripper"], np.arange(40.0).reshape(40, 1, *shape))
    assert dataset.fit_normalizer().normalize("action", batch["action"]).abs().max() == 1
