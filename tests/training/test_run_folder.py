"""What others left in a run folder: read, or told in a sentence."""

import os
from pathlib import Path

import pytest
import torch

from shortcut_policy.checkpoint import load_training_state
from shortcut_policy.commands.train import read_training
from shortcut_policy.errors import InputError
from shortcut_policy.training.log import read_log
from shortcut_policy.training.run_folder import (
    check_output,
    only_training,
    output_folder,
    read_config,
    write_config,
)
from tests.conftest import Compose

LINE = '{"step": 1, "kind": "train"}\n'


def test_a_last_line_without_its_end_is_left_out(tmp_path: Path):
    assert read_log(tmp_path) == []
    (tmp_path / "log.jsonl").write_text(2 * LINE + '{"step": 2, "ki')
    assert read_log(tmp_path) == 2 * [{"step": 1, "kind": "train"}]


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[]\n", b'{"step": 1}\n', b"[" * 3000 + b"\n"])
def test_a_damaged_log_is_told(damage: bytes, tmp_path: Path):
    (tmp_path / "log.jsonl").write_bytes(LINE.encode() + damage)
    with pytest.raises(InputError, match=r"log\.jsonl") as caught:
        read_log(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "damage",
    [b"\xff\xfe", b"a: [", b"3", b"task: 3", b"[" * 3000, b"task: {a: " + b"[" * 99 + b"]" * 99 + b"}"],
)
def test_a_damaged_configuration_is_told(damage: bytes, tmp_path: Path):
    (tmp_path / "config.yaml").write_bytes(damage)
    with pytest.raises(InputError, match=r"config\.yaml is no configuration of a training") as caught:
        read_config(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_run_whose_last_checkpoint_is_not_whole_does_not_go_on_with_another(tmp_path: Path):
    """Nor does it begin anew where there is no other: what is there would be written over."""
    broken = tmp_path / "checkpoints/step_00000006"
    broken.mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(
            InputError, match=rf"{broken} lacks policy.json, .* copy it again, or give another"
        ):
            check_output(tmp_path, {"task": {}}, resume)
    whole = tmp_path / "checkpoints/step_00000003"
    whole.mkdir()
    (whole / "policy.json").write_text("{}")
    write_config(tmp_path, {"task": {}})
    with pytest.raises(InputError, match=rf"{broken} lacks policy.json, .* with init_from={whole} and a new"):
        check_output(tmp_path, {"task": {}}, resume=True)
    broken.rename(tmp_path / "checkpoints/step_00000002")
    check_output(tmp_path, {"task": {}}, resume=True)
    with pytest.raises(InputError, match=r"training_state\.pt is missing, .* cannot go on: copy it again"):
        load_training_state(whole, torch.device("cpu"))


def test_a_run_in_the_home_folder(compose_config: Compose, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_folder(read_training(compose_config("output='~/run'"))) == tmp_path / "run"


def test_a_run_that_cannot_be_written_says_to_copy_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    sentence = f"^nothing can be written to {tmp_path}: .* copy its folder"
    with pytest.raises(InputError, match=sentence), only_training(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    with only_training(tmp_path / "writable"):
        pass


def test_a_configuration_that_is_a_folder_is_told(tmp_path: Path):
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(InputError, match="is no configuration"):
        read_config(tmp_path)
