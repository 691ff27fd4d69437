"""Images from folders, zips, arrays and scikit-learn, and the sentences where they cannot be used."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from shortcut_policy.errors import InputError
from shortcut_policy.images import decoding
from shortcut_policy.images.checks import check_classes
from shortcut_policy.images.decoding import Decoder
from shortcut_policy.images.folder import ImageFolder
from shortcut_policy.images.sources import arrays, digits, image_folder


def write(path: Path, shape: tuple[int, ...] = (6, 8, 3), value: int | None = None, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, shape, dtype=np.uint8) if value is None else np.full(shape, value, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, five images each, told apart by their grey."""
    for label, name in enumerate(("cats", "dogs")):
        for number in range(5):
            write(tmp_path / "images" / name / f"{number}.png", value=100 * label + number)
    return tmp_path / "images"


@pytest.fixture
def load(tmp_path: Path) -> Callable:
    return lambda path, **settings: image_folder(path, cache=tmp_path / "cache", **settings)


def zipped(folder: Path, inside: str = "") -> Path:
    path = folder.parent / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, f"{inside}{file.relative_to(folder)}")
        archive.writestr("__MACOSX/cats/._0.png", b"no image")
    return path


def test_digits_are_divided_by_class_and_seed():
    source = digits()
    assert source.train.images.shape == (1437, 1, 8, 8) and source.test.images.shape == (360, 1, 8, 8)
    assert source.train.images.dtype == np.uint8 and source.train.images.max() == 255
    assert np.bincount(source.test.labels).min() >= 34
    np.testing.assert_array_equal(source.train.images, digits().train.images)
    assert not np.array_equal(source.train.labels, digits(seed=1).train.labels)


def test_folder_and_zip_give_the_same_images(folder: Path, load: Callable):
    a = load(folder, test_fraction=0.2)
    for inside in ("", "pets/2024/"):
        b = load(zipped(folder, inside), test_fraction=0.2)
        assert b.train.class_names == ("cats", "dogs")
        np.testing.assert_array_equal(np.sort(a.train.images.ravel()), np.sort(b.train.images.ravel()))
    assert len(a.train) == 8 and len(a.test) == 2 and a.train.images.shape == (8, 3, 6, 8)
    for part in (a.train, a.test):
        np.testing.assert_array_equal(part.images[:, 0, 0, 0] // 100, part.labels)


def test_folders_train_and_test_are_kept_apart(folder: Path, load: Callable):
    for part, numbers in (("train", range(4)), ("val", [4])):
        for name in ("cats", "dogs"):
            for number in numbers:
                target = folder.parent / "divided" / part / name / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / name / f"{number}.png", target)
    source = load(folder.parent / "divided")
    assert len(source.train) == 8
    np.testing.assert_array_equal(source.test.images[:, 0, 0, 0], [4, 104])
    shutil.rmtree(folder.parent / "divided" / "train")
    with pytest.raises(InputError, match="folder train is missing"):
        load(folder.parent / "divided")


def test_images_without_class_folders_have_no_labels(tmp_path: Path, load: Callable):
    for number in range(4):
        write(tmp_path / "faces" / f"{number}.jpg")
    source = load(tmp_path / "faces", test_fraction=0.0)
    assert source.train.labels is None and len(source.train) == 4 and len(source.test) == 0


def test_centre_is_cut_out_before_resizing(tmp_path: Path, load: Callable):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12] = 200
    (tmp_path / "wide" / "a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "wide" / "a" / "0.png")
    source = load(tmp_path / "wide", size=4, test_fraction=0.0)
    assert source.train.images.shape == (1, 3, 4, 4)
    # The filter reaches a little beyond the square.
    assert (np.abs(source.train.images.astype(int) - 200) <= 12).all()


def test_cache_is_used_until_content_or_settings_change(
    folder: Path, load: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = load(folder)
    decoded: list[int] = []
    original = Decoder.decode
    monkeypatch.setattr(
        Decoder, "decode", lambda self, names, title: decoded.append(1) or original(self, names, title)
    )
    np.testing.assert_array_equal(load(folder).train.images, first.train.images)
    assert not decoded
    load(folder, size=4)
    assert decoded
    decoded.clear()
    os.utime(write(folder / "cats" / "0.png", value=77), ns=(1, 1))
    assert 77 in np.concatenate([load(folder).train.images, load(folder).test.images])
    assert decoded
    assert not list((tmp_path / "cache").glob("*.tmp"))


@pytest.mark.slow
def test_processes_decode_what_one_does(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decoding, "PARALLEL_FROM", 2)
    monkeypatch.setattr(decoding, "CHUNK", 3)
    names = ImageFolder(folder, test_fraction=0.0).splits["train"].names
    several, _ = Decoder(folder, workers=2).decode(names)
    np.testing.assert_array_equal(several, Decoder(folder, workers=1).decode(names)[0])


def test_unreadable_image_is_named_and_skipped_only_if_asked(
    folder: Path, load: Callable, capsys: pytest.CaptureFixture[str]
):
    (folder / "dogs" / "3.png").write_bytes(b"not a picture")
    with pytest.raises(InputError, match=r"dogs/3\.png cannot be read as an image"):
        load(folder)
    source = load(folder, skip_unreadable=True, test_fraction=0.0)
    assert len(source.train) == 9 and source.train.labels.tolist() == [0] * 5 + [1] * 4
    assert "dogs/3.png" in "".join(capsys.readouterr())
    whole = (folder / "cats" / "0.png").read_bytes()
    (folder / "dogs" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"dogs/3\.png cannot be read"):
        load(folder)


def test_what_does_not_fit_together_is_said(folder: Path, load: Callable, tmp_path: Path):
    write(folder / "dogs" / "9.png", (6, 8))
    with pytest.raises(InputError, match=r"different channels, .*\(3\) and dogs/9\.png \(1\).*channels=1"):
        load(folder, test_fraction=0.0)
    assert load(folder, channels=1).train.images.shape[1] == 1
    write(folder / "dogs" / "9.png", (5, 8, 3))
    with pytest.raises(InputError, match=r"different sizes, .*dogs/9\.png \(5x8\).*size="):
        load(folder, test_fraction=0.0)
    write(folder / "loose.png")
    with pytest.raises(InputError, match=r"loose\.png is in no class folder"):
        load(folder)
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(folder / "dogs" / "9.png")
    (folder / "loose.png").unlink()
    with pytest.raises(InputError, match=r"dogs/9\.png has mode I;16"):
        load(folder, size=4)
    with pytest.raises(InputError, match="channels=2"):
        load(folder, channels=2)


def test_empty_or_missing_folder(tmp_path: Path, load: Callable):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match="neither a folder nor a zip"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize("suffix", ["npz", "zarr"])
@pytest.mark.parametrize("shape", [(5, 4, 6, 3), (5, 3, 4, 6)])
def test_arrays_in_either_order_of_axes(tmp_path: Path, suffix: str, shape: tuple[int, ...]):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    stored = {"images": images, "labels": np.array([0, 1, 2, 0, 1]), "test_images": images[:2]}
    stored["test_labels"] = np.array([2, 1])
    path = tmp_path / f"images.{suffix}"
    if suffix == "npz":
        np.savez(path, **stored)
    else:
        group = zarr.open_group(str(path), mode="w")
        for name, value in stored.items():
            group.create_array(name, data=value)
    source = arrays(path)
    expected = np.moveaxis(images, -1, 1) if shape[-1] == 3 else images
    np.testing.assert_array_equal(source.train.images, expected)
    assert source.train.class_names == ("0", "1", "2") and source.test.labels.tolist() == [2, 1]


def test_arrays_that_cannot_be_used(tmp_path: Path):
    def stored(**values: np.ndarray) -> Path:
        np.savez(tmp_path / "bad.npz", **values)
        return tmp_path / "bad.npz"

    with pytest.raises(InputError, match="no array 'images'"):
        arrays(stored(labels=np.zeros(3)))
    with pytest.raises(InputError, match="has type float64, expected uint8"):
        arrays(stored(images=np.zeros((2, 4, 4, 3))))
    with pytest.raises(InputError, match="not clear where"):
        arrays(stored(images=np.zeros((2, 4, 4, 5), np.uint8)))
    images = np.zeros((2, 4, 4), np.uint8)
    for labels in (np.array(["cat", "dog"]), np.array([0.5, 1.0]), np.array([-1, 0])):
        with pytest.raises(
            InputError, match=r"'labels' has type .* expected the number of each image's class"
        ):
            arrays(stored(images=images, labels=labels))
    with pytest.raises(InputError, match="labels go up to 4, and 'class_names' names 2 classes"):
        arrays(stored(images=images, labels=np.array([0, 4]), class_names=np.array(["a", "b"])))
    with pytest.raises(InputError, match="no array 'test_labels': both parts need labels, or neither"):
        arrays(stored(images=images, labels=np.array([0, 1]), test_images=images))
    assert arrays(stored(images=np.zeros((2, 4, 4), np.uint8))).train.images.shape == (2, 1, 4, 4)


@pytest.mark.parametrize(("at", "byte"), [(8, 1), (8, 32), (10, 97)])
def test_arrays_packed_in_another_way_are_one_sentence(tmp_path: Path, at: int, byte: int):
    """With a password, as a patch, by a method that nobody has."""
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((2, 4, 4), np.uint8))
    content = bytearray(path.read_bytes())
    for start, shift in ((content.index(b"PK\x01\x02"), 0), (content.index(b"PK\x03\x04"), -2)):
        content[start + at + shift] = byte
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"images\.npz cannot be read \("):
        arrays(path)


def test_guidance_is_checked(folder: Path, load: Callable, tmp_path: Path):
    check_classes(load(folder), guided=True)
    shutil.rmtree(folder / "dogs")
    with pytest.raises(InputError, match="one class, cats"):
        check_classes(load(folder), guided=True)
    check_classes(load(folder), guided=False)


@pytest.mark.parametrize("name", ["../cats/x.png", "/cats/x.png"])
def test_a_zip_that_leaves_its_folder_is_refused(folder: Path, load: Callable, name: str):
    path = zipped(folder)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, (folder / "cats" / "0.png").read_bytes())
    with pytest.raises(InputError, match=rf"images\.zip holds the member '{name}'"):
        load(path)


def test_a_damaged_archive_or_a_link_to_nothing_is_told(folder: Path, load: Callable):
    path = zipped(folder)
    whole = path.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    path.write_bytes(whole[:directory] + b"PK\x00\x00" + whole[directory + 4 :])
    with pytest.raises(InputError, match=r"images\.zip cannot be read \(BadZipFile"):
        load(path)
    (folder / "cats/lost.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(InputError, match=r"images cannot be read \(FileNotFoundError"):
        load(folder)
