"""Generators of images: trainer, objectives and checkpoints of the policies, and what is drawn with them."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from shortcut_policy import load_policy
from shortcut_policy.checkpoint import list_checkpoints, load_model, save_model
from shortcut_policy.commands.images import sample
from shortcut_policy.commands.train import make_dataset, read_training, run
from shortcut_policy.errors import InputError
from shortcut_policy.images.dataset import ImageDataset
from shortcut_policy.images.image_set import ImageSet, ImageSource
from shortcut_policy.images.model import ImageModel
from shortcut_policy.images.pictures import COLUMNS, save_grid
from shortcut_policy.images.sampling import class_labels, draw, load_image_model
from shortcut_policy.objectives import Draws
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.training.parts import make_model
from tests.step_maps import OBJECTIVES
from tests.training.test_trainer import assert_equal_states, final_state, read_log

TINY = (
    "task=digits",
    "backbone.size={width: 16, depth: 1, heads: 2}",
    "backbone.embedding_dim=16",
    "trainer.max_steps=8",
    "trainer.batch_size=16",
    "trainer.warmup_steps=2",
    "trainer.checkpoint_every=4",
    "trainer.log_every=2",
    "trainer.validate_every=4",
    "trainer.validation_steps=[1,4]",
    "trainer.precision=fp32",
    "cpu=true",
)


def compose_images(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("train", [*TINY, *overrides])


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return make_dataset(read_training(compose_images()))


@pytest.fixture(scope="module")
def flow(tmp_path_factory) -> Path:
    """A run of flow matching on mirrored digits."""
    output = tmp_path_factory.mktemp("flow") / "run"
    return run(compose_images("objective=flow_matching", "task.flip=true", f"output={output}"))


def model_for(digits: ImageDataset, *overrides: str) -> ImageModel:
    """One whose every weight differs from zero."""
    model = make_model(read_training(compose_images(*overrides)), digits)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    assert isinstance(model, ImageModel)
    return model


def losses(model: ImageModel, batch: dict[str, Tensor], seed: int = 0) -> Tensor:
    return model(**batch, ema=model, draws=Draws(torch.Generator().manual_seed(seed)))[0]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_trains_every_weight_and_comes_back_from_a_checkpoint(name, digits, tmp_path):
    model = model_for(digits, f"objective={name}")
    loss = losses(model, digits.batch(digits.train[:32]))
    assert loss.shape == (32,)
    gradients = torch.autograd.grad(loss.mean(), list(model.parameters()))
    untrained = {n for (n, _), g in zip(model.named_parameters(), gradients, strict=True) if not g.any()}
    # Regression shows its network nothing but zeros as x.
    assert untrained == ({"backbone.embed.weight"} if name == "regression" else set())
    save_model(model, tmp_path)
    labels = [3, 1, 4]
    samples = [m.sample(labels, 1, torch.Generator().manual_seed(0)) for m in (model, load_model(tmp_path))]
    assert torch.equal(*samples)
    assert samples[0].shape == (3, 1, 8, 8) and samples[0].dtype == torch.uint8


def test_pixels_come_back_from_the_network_s_units(digits):
    images = digits.batch(digits.train[:4])["images"]
    scaled = digits.fit_normalizer().normalize("images", images)
    assert scaled.min() == -1 and scaled.max() == 1
    assert torch.equal(digits.fit_normalizer().unnormalize("images", scaled).round().byte(), images)


def test_a_random_half_of_the_training_images_is_mirrored(digits, monkeypatch):
    model, batch, seen = model_for(digits), digits.batch(digits.train[:400]), []
    model = ImageModel.from_spec({**model.spec, "images": {**model.spec["images"], "flip": True}})
    model.normalizer = digits.fit_normalizer()
    monkeypatch.setattr(model, "losses", lambda x_1, *rest: seen.append(x_1))
    for seed in (0, 0, 1):
        model(**batch, ema=model, draws=Draws(torch.Generator().manual_seed(seed)))
    model.eval()
    model(**batch, ema=model, draws=Draws(torch.Generator().manual_seed(0)))
    stored = model.normalizer.normalize("images", batch["images"])
    same, mirrored = ((seen[0] == x).flatten(1).all(1) for x in (stored, stored.flip(-1)))
    assert (same | mirrored).all() and 150 < mirrored.sum() < 250
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    assert torch.equal(seen[3], stored)


def test_a_run_goes_on_bit_for_bit(flow, tmp_path):
    settings = ("objective=flow_matching", "task.flip=true", f"output={tmp_path / 'run'}")
    calls = []

    def interrupt(self, log):
        calls.append(self.step)
        if self.step == 4 and len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        # After the validation of update 4 and before its checkpoint; the next call begins anew.
        patched.setattr("shortcut_policy.training.trainer.Trainer._draw", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(compose_images(*settings, "trainer.checkpoint_every=2"))
    assert list_checkpoints(tmp_path / "run")[-1].name == "step_00000002"
    config = compose_images(*settings, "trainer.checkpoint_every=2", "resume=true")
    ours, theirs = final_state(run(config)), final_state(flow)
    assert_equal_states(ours["policy"], theirs["policy"])
    assert_equal_states(ours["ema"], theirs["ema"])
    assert read_log(tmp_path / "run") == read_log(flow)


def test_a_run_keeps_pictures_and_the_loss_on_what_is_held_out(flow):
    pictures = sorted(flow.glob("samples/step_*.png"))
    assert [path.name for path in pictures] == ["step_00000004.png", "step_00000008.png"]
    first, last = (iio.imread(path) for path in pictures)
    assert first.shape == last.shape and (first != last).any()
    assert [record["step"] for record in read_log(flow, "validation")] == [4, 8]
    metadata = load_image_model(flow).metadata
    assert metadata["train_images"] == 1437 and metadata["train_nfe_per_step"] == 16


@pytest.mark.slow
def test_pictures_reach_weights_and_biases(tmp_path: Path):
    """Without a network: its offline record holds the very files of the run, under one name."""
    output = run(
        compose_images("objective=flow_matching", "wandb.mode=offline", f"output={tmp_path / 'run'}")
    )
    own = sorted(output.glob("samples/step_*.png"))
    sent = list(output.glob("wandb/offline-run-*/files/media/images/*.png"))
    assert len(own) == 2
    assert sorted(path.read_bytes() for path in sent) == sorted(path.read_bytes() for path in own)
    assert len({path.name.split("_")[0] for path in sent}) == 1


def test_a_shortcut_model_begins_from_a_flow_and_computes_the_same(flow, tmp_path):
    config = compose_images(f"init_from={flow}", f"output={tmp_path / 'run'}")
    start, trained = (
        make_model(read_training(config), make_dataset(read_training(config))),
        load_image_model(flow),
    )
    assert isinstance(start, ImageModel)
    samples = [m.sample([0, 5], 4, torch.Generator().manual_seed(0)) for m in (start, trained)]
    assert torch.equal(*samples)


def test_a_teacher_from_outside_is_distilled(flow, tmp_path):
    output = tmp_path / "run"
    run(compose_images(f"teacher={flow}", "objective=consistency_distillation", f"output={output}"))
    assert load_image_model(output).metadata["init_from"]["checkpoint"] == str(flow)


def test_weights_of_other_images_are_refused(flow):
    # The digits of other classes.
    model = load_image_model(flow)
    model.spec["images"]["class_names"] = [f"class {i}" for i in range(10)]
    save_model(model, flow.parent / "other")
    config = compose_images(f"init_from={flow.parent / 'other'}")
    with pytest.raises(InputError, match=r"was trained with task.images.class_names=.*class 0"):
        make_model(read_training(config), make_dataset(read_training(config)))


def test_policies_and_models_of_images_are_not_taken_for_each_other(flow, tiny_policy, tmp_path):
    with pytest.raises(InputError, match="holds no policy, but a model of images"):
        load_policy(flow)
    save_model(tiny_policy, tmp_path)
    with pytest.raises(InputError, match="holds a policy, not a model of images"):
        load_image_model(tmp_path)


def test_guidance_is_chosen_when_sampling_and_needs_classes(digits):
    model = model_for(digits, "objective=shortcut_guided")
    weak, strong = (model.sample([2] * 8, 1, torch.Generator().manual_seed(0), w) for w in (1.0, 3.0))
    assert not torch.equal(weak, strong)
    with pytest.raises(InputError, match="guidance=9 cannot be sampled"):
        model.sample([2], 1, guidance=9)


def test_what_images_cannot_have_is_refused(tmp_path):
    images = np.zeros((20, 4, 4), np.uint8)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(20, np.int64))
    source = ["task=image_arrays", f"task.source.path={tmp_path / 'one.npz'}"]
    with pytest.raises(InputError, match="one class"):
        make_dataset(read_training(compose_images(*source, "objective=shortcut_guided")))
    config = compose_images(*source)
    assert isinstance(make_model(read_training(config), make_dataset(read_training(config))), ImageModel)
    config = compose_images(*source, "obs_noise=0.1")
    with pytest.raises(InputError, match=r"obs_noise=0.1 is for policies"):
        make_model(read_training(config), make_dataset(read_training(config)))
    config = compose_images(*source, "trainer.validation_steps=[3]", f"output={tmp_path / 'run'}")
    with pytest.raises(
        InputError, match=r"trainer.validation_steps=\[3\] holds no step count that Shortcut can"
    ):
        run(config)
    assert not (tmp_path / "run").exists()


def test_images_without_classes_are_of_one():
    source = ImageSource(
        "noise", ImageSet(np.zeros((5, 3, 4, 4), np.float32)), ImageSet(np.zeros((0, 1, 1, 1), np.uint8))
    )
    dataset = ImageDataset(source, flip=False)
    assert dataset.spec["images"]["class_names"] == ["any"] and len(dataset.val) == 0
    assert dataset.batch(dataset.train)["labels"].tolist() == [0] * 5


def test_held_out_images_of_another_shape_are_refused():
    parts = [ImageSet(np.zeros((2, 1, side, side), np.uint8)) for side in (4, 8)]
    with pytest.raises(InputError, match=r"mixed has 2 training images.*\(1, 4, 4\).* and of .*\(1, 8, 8\)"):
        ImageDataset(ImageSource("mixed", *parts), flip=False)


# --- scripts/sample.py ---------------------------------------------------------------------------------


def sample_config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        return compose("sample", list(overrides))


def test_samples_are_written_with_the_same_noise_for_every_step_count(flow, tmp_path):
    config = sample_config(
        f"checkpoint={flow}", "steps=[1,3]", "n=25", "classes=[7,2]", f"output={tmp_path}", "batch_size=8"
    )
    sample(config)
    with np.load(tmp_path / "steps_3.npz") as stored:
        images, labels = stored["images"], stored["labels"]
    assert images.shape == (25, 1, 8, 8) and images.dtype == np.uint8
    assert labels.tolist() == [7, 2] * 12 + [7]
    model = load_image_model(flow)
    alone = draw(model, torch.tensor(labels), 3, batch_size=25).samples.numpy()
    assert abs(alone.astype(int) - images).max() <= 1, "not a function of the batch size"
    side = 32 + 2 * 2
    picture = iio.imread(tmp_path / "samples.png")
    assert picture.shape[0] == 2 * 2 * side and picture.shape[1] > COLUMNS * side
    described = json.loads((tmp_path / "samples.json").read_text())
    assert described["samples"] == 25 and min(described["samples_per_second"].values()) > 0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("classes=[cat]", "classes: cat is not one of the 10"),
        ("classes=[]", r"classes=\[\] names nothing"),
        ("n=0", "n=0 must be a whole number from 1 on"),
        ("n=1.5", "n=1.5 must be a whole number"),
        ("seed=-1", "seed=-1 must be a whole number"),
        ("bf16=no", "bf16=no must be true or false"),
        ("classes=cat", "classes: cat is not one of the 10"),
        ("steps=[0]", r"steps=\[0\] must be a whole number from 1 on or a list of"),
        ("steps=[auto]", r"steps=\['auto'\] must be a whole number"),
        ("steps=1.5", "steps=1.5 must be a whole number"),
        ("steps=[]", r"steps=\[\] names nothing"),
        ("batch_size=0", "batch_size=0 must be a whole number"),
        ("device=quantum", "device=quantum cannot be used here"),
        ("guidance=2", "guidance=2.0 cannot be chosen"),
    ],
)
def test_what_cannot_be_sampled_is_said_in_a_sentence(flow, tmp_path, override, sentence):
    with pytest.raises(InputError, match=sentence):
        sample(sample_config(f"checkpoint={flow}", override, f"output={tmp_path}"))


def test_classes_go_by_name_first():
    assert class_labels(["b", 0], ["a", "b"], 3).tolist() == [1, 0, 1]
    assert class_labels([7], ["9", "7"], 2).tolist() == [1, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_holds_every_image_where_it_belongs(tmp_path, channels):
    count = COLUMNS + 1
    images = np.arange(2 * count, dtype=np.uint8).reshape(2, count, 1, 1, 1) * np.ones(
        (1, 1, channels, 40, 40), np.uint8
    )
    save_grid({"1": images[0], "128": images[1]}, tmp_path / "grid.png")
    picture, side = iio.imread(tmp_path / "grid.png"), 44
    margin = picture.shape[1] - COLUMNS * side
    assert picture.shape[0] == 4 * side
    cells = picture[side // 2 :: side, margin + side // 2 :: side]
    assert (cells == cells[..., :1]).all()
    assert cells[0, :, 0].tolist() == images[0, :COLUMNS, 0, 0, 0].tolist()
    assert cells[2, 0, 0] == COLUMNS and cells[3, 0, 0] == 2 * count - 1
    assert cells[2, 1, 0] == 255


@pytest.mark.slow
def test_a_compiled_network_has_the_forward_mode_derivative_that_meanflow_takes(digits):
    torch.compiler.reset()
    model, batch = model_for(digits, "objective=meanflow"), digits.batch(digits.train[:32])
    plain = losses(model, batch).detach()
    model.backbone.compile(backend="eager")
    torch.testing.assert_close(losses(model, batch).detach(), plain)
