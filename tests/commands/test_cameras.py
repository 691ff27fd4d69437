"""Policies with cameras through the commands: the page docs/cameras.md, a run that goes on, bad input."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shortcut_policy import load_policy
from shortcut_policy.commands import cli
from shortcut_policy.encoders import ResNet18
from shortcut_policy.errors import InputError, Stopped
from shortcut_policy.paths import CONFIG_DIR
from shortcut_policy.training.trainer import Trainer

TINY = (
    "task=see",
    "encoder.crop=[84,112]",
    "encoder.n_points=4",
    "backbone=unet_small",
    "backbone.down_dims=[8,16]",
    "backbone.embedding_dim=16",
    "data.val_fraction=0.5",
    "trainer.batch_size=4",
    "trainer.warmup_steps=1",
    "trainer.validate_every=2",
    "trainer.precision=fp32",
    "trainer.threads=1",
    "cpu=true",
    "output=run",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader of the page has."""
    page = (CONFIG_DIR.parent / "docs" / "cameras.md").read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, flags=re.M | re.S)
    (python,) = (block for language, block in blocks if language == "python")
    (yaml,) = (block for language, block in blocks if language == "yaml")
    monkeypatch.chdir(tmp_path)
    exec(compile(python, "cameras.md", "exec"), {})
    place = tmp_path / yaml.splitlines()[0].removeprefix("# ")
    place.parent.mkdir(parents=True)
    place.write_text(yaml)
    return tmp_path


def test_the_page_trains_and_its_policy_acts(folder: Path, give: Callable[..., None]):
    give(cli.train, "--config-dir", "my_configs", *TINY, "trainer.max_steps=2")
    policy = load_policy("run")
    assert type(policy.encoder).__name__ == "ImageEncoder"
    front = np.zeros((96, 128, 3), np.uint8)
    assert policy.select_action({"front": front, "joints": np.zeros(7)}).shape == (7,)
    records = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert any("action_error_1" in record for record in records)


def test_a_run_with_cameras_goes_on_bit_for_bit(
    folder: Path, give: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    settings = ("--config-dir", "my_configs", *TINY[:-1], "encoder.hue=0.1", "trainer.checkpoint_every=1")
    give(cli.train, *settings, "trainer.max_steps=4", "output=whole")
    update = Trainer._update

    def fails(trainer: Trainer) -> dict[str, torch.Tensor]:
        if trainer.step == 2:
            raise KeyboardInterrupt
        return update(trainer)

    with monkeypatch.context() as patched, pytest.raises(Stopped):
        patched.setattr(Trainer, "_update", fails)
        give(cli.train, *settings, "trainer.max_steps=4", "output=stopped")
    assert not Path("stopped/checkpoints/step_00000003").exists()
    give(cli.train, *settings, "trainer.max_steps=4", "output=stopped", "resume=true")
    whole, resumed = (
        load_file(f"{run}/checkpoints/step_00000004/policy.safetensors") for run in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
def test_pretrained_weights_are_where_training_begins(folder: Path, give: Callable[..., None]):
    torch.manual_seed(1)
    state = ResNet18(3).state_dict()
    torch.save(state, "resnet18.pth")
    resnet = ("encoder=image_resnet18", "encoder_weights=resnet18.pth", "trainer.encoder_rate=1e-9")
    give(cli.train, "--config-dir", "my_configs", *TINY, *resnet, "trainer.max_steps=1")
    kept = load_policy("run").encoder.trunks["front"].state_dict()
    torch.testing.assert_close(
        kept["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("encoder.crop=[100,112]", "smaller crop"),
        ("encoder=lowdim", "encoder=image_light"),
        ("encoder_weights=nowhere.pth", "does not exist"),
        ("encoder.trunk.depth=-1", "depth=-1"),
        ("encoder.trunk.heads=2", "heads"),
        ("task.obs.front.shape=[96,128,1]", "3 channels, but the task expects 1"),
    ],
)
def test_what_cannot_be_is_said_before_training(
    folder: Path, give: Callable[..., None], override: str, sentence: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        given = [word for word in TINY if not override.startswith(word.split("=")[0] + "=")]
        if override.startswith("encoder=lowdim"):
            given = [word for word in given if not word.startswith("encoder.")]
        give(
            cli.train,
            "--config-dir",
            "my_configs",
            *given,
            f"+{override}" if "heads" in override else override,
        )
    assert sentence in capsys.readouterr().err
    assert not Path("run/log.jsonl").exists()


def test_a_checkpoint_without_its_encoder(folder: Path, give: Callable[..., None]):
    give(cli.train, "--config-dir", "my_configs", *TINY, "trainer.max_steps=1")
    path = Path("run/checkpoints/step_00000001/policy.safetensors")
    save_file({name: x for name, x in load_file(path).items() if not name.startswith("encoder.")}, path)
    with pytest.raises(InputError, match="encoder"):
        load_policy("run")
