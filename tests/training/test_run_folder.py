"""What others left in a run folder: read, or told in a sentence."""

from pathlib import Path

import pytest

from shortcut_policy.errors import InputError
from shortcut_policy.training.log import read_log
from shortcut_policy.training.run_folder import read_config

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


def test_a_configuration_that_is_a_folder_is_told(tmp_path: Path):
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(InputError, match="is no configuration"):
        read_config(tmp_path)
