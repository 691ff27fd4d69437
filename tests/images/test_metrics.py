"""Classifier, features and measures of images, against what is known of them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from shortcut_policy.errors import InputError
from shortcut_policy.images import classifier as classifier_module
from shortcut_policy.images import metrics
from shortcut_policy.images.classifier import ClassifierSettings, _distort, trained_classifier
from shortcut_policy.images.features import Features, make_features
from shortcut_policy.images.image_set import ImageSet, ImageSource
from shortcut_policy.images.metrics import frechet_distance, measure, reference
from shortcut_policy.images.sources import digits


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def features(cache: Path) -> Features:
    return make_features("classifier", digits(), ClassifierSettings(), cache)


@pytest.mark.slow
def test_classifier_of_digits_is_good_and_made_once(
    features: Features, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    network = features.classifier
    assert features.name == "FD-classifier" and network is not None and network.accuracy >= 0.98
    monkeypatch.setattr(classifier_module, "fit", lambda *_: pytest.fail("trained again"))
    again = trained_classifier(digits(), ClassifierSettings(), cache)
    assert again.accuracy == network.accuracy and not again.training
    images = digits().test.images
    np.testing.assert_array_equal(
        features.classes(images), Features("", "", again, "cpu", again).classes(images)
    )


def test_classifier_is_a_function_of_its_seed(tmp_path: Path):
    settings = ClassifierSettings(width=4, epochs=1)
    a, b = (trained_classifier(digits(), settings, tmp_path / name) for name in "ab")
    other = trained_classifier(digits(), ClassifierSettings(width=4, epochs=1, seed=1), tmp_path)
    assert torch.equal(a.head.weight, b.head.weight) and not torch.equal(a.head.weight, other.head.weight)


def test_distortions_shift_and_mirror():
    images = torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 10] = 255
    distorted = _distort(images, True, torch.Generator().manual_seed(0))
    places = distorted.flatten(1).argmax(1)
    columns, rows = places % 32, places // 32
    assert {int(row) for row in rows} == set(range(12, 21))
    assert columns.min() == 6 and columns.max() == 31 - 6 and ((columns <= 14) | (columns >= 17)).all()
    assert (_distort(images, False, torch.Generator().manual_seed(0)).flatten(1).argmax(1) % 32 <= 14).all()


def test_frechet_distance_of_known_normals():
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.normal(0, 1, (40_000, 3)))
    moved = torch.from_numpy(rng.normal([3, 0, 0], 2, (40_000, 3)))
    # |difference of means|^2 + sum of (difference of standard deviations)^2
    assert frechet_distance(moved, real) == pytest.approx(9 + 3, rel=0.02)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_measures_tell_real_digits_from_copies_of_one_and_noise(features: Features, cache: Path):
    source = digits()
    real = reference(features, source.train, cache)
    labels = source.test.labels
    held_out = measure(features, real, source.test.images, labels)
    assert held_out.correct.mean() >= 0.98
    assert held_out.precise.mean() > 0.75 and held_out.recalled.mean() > 0.75
    assert abs(held_out.fd_draws.mean() - held_out.fd) < 1e-6

    one = np.repeat(source.train.images[:1], len(labels), 0)
    copies = measure(features, real, one + np.zeros((len(labels), 1, 1, 1), np.uint8), labels)
    assert copies.precise.all() and copies.recalled.mean() < 0.05 and copies.correct.mean() < 0.2

    noise = np.random.default_rng(0).integers(0, 256, source.test.images.shape, dtype=np.uint8)
    bad = measure(features, real, noise, None)
    assert bad.precise.mean() < 0.2 and bad.fd > 50 * held_out.fd and not bad.correct.size


@pytest.mark.slow
def test_reference_is_read_from_the_cache(features: Features, cache: Path):
    images = digits().test
    first = reference(features, images, cache)
    blind = Features(features.name, features.key, lambda _: pytest.fail("computed again"))
    assert torch.equal(reference(blind, images, cache).radii, first.radii)


@pytest.mark.slow
def test_a_cached_classifier_or_reference_is_of_this_code_and_these_libraries(monkeypatch, features, cache):
    settings, source = ClassifierSettings(), digits()

    def keys():
        return classifier_module._key(source, settings), reference(features, source.test, cache).key

    before = keys()
    assert keys() == before
    for module in (classifier_module, metrics):
        monkeypatch.setattr(module, "code_hash", lambda name: "another")
    code = keys()
    for module in (classifier_module, metrics):
        monkeypatch.setattr(module, "library_versions", lambda *names: {"torch": "1.0"})
    assert all(len({*each}) == 3 for each in zip(before, code, keys(), strict=True))


def test_inception_is_a_file_of_weights(tmp_path: Path):
    class Mean(torch.nn.Module):
        def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            return x.float().mean((2, 3))

    torch.jit.script(Mean()).save(str(tmp_path / "inception.pt"))
    weights = str(tmp_path / "inception.pt")
    found = make_features("inception", digits(), ClassifierSettings(), tmp_path, weights)
    assert found.name == "FID" and found.of(digits().test.images).shape == (360, 3)
    changed = Mean()
    changed.register_buffer("more", torch.ones(1))
    torch.jit.script(changed).save(weights)
    other = make_features("inception", digits(), ClassifierSettings(), tmp_path, weights)
    assert other.key != found.key, "other weights under the same name"
    assert found.classes(digits().test.images) is None
    with pytest.raises(InputError, match="features=inception needs its weights"):
        make_features("inception", digits(), ClassifierSettings(), tmp_path)


def test_classifier_needs_classes_and_held_out_images(tmp_path: Path):
    train = ImageSet(np.zeros((4, 1, 8, 8), np.uint8))
    with pytest.raises(InputError, match="no classes or no held-out images"):
        make_features("classifier", ImageSource("x", train, train), ClassifierSettings(), tmp_path)


def test_classifier_that_merges_pixels_takes_images_of_every_size():
    for size, patch in ((8, 1), (32, 2), (28, 2)):
        network = classifier_module.Classifier(3, size, 5, width=4, patch=patch).eval()
        assert network(torch.zeros(2, 3, size, size, dtype=torch.uint8)).shape == (2, 5)
        assert network.features(torch.zeros(2, 3, size, size)).shape == (2, network.num_features)
