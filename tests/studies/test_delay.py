"""The table of executors against delays."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from shortcut_policy.benchmark.training_runs import Trainings
from shortcut_policy.commands.configuration import read
from shortcut_policy.commands.train import read_training, train
from shortcut_policy.errors import InputError
from shortcut_studies import CONFIGS, delay
from tests.conftest import Compose


def settings(folder: Path, *overrides: str) -> delay.DelayConfig:
    places = [f"{name}={folder / name}" for name in ("runs", "output", "publish", "document")]
    with initialize_config_dir(str(CONFIGS), version_base=None):
        return read(compose("delay", [*places, *overrides]), delay.DelayConfig)


@pytest.mark.slow
def test_it_trains_what_it_lacks_and_writes_rows_table_and_figure(compose_config: Compose, tmp_path: Path):
    trained: list[str] = []

    def compose_tiny(overrides: Sequence[str]):
        own = [
            one for one in overrides if one.partition("=")[0] in ("seed", "output", "prefix_steps", "resume")
        ]
        trained.append(own[1].rpartition("/")[2])
        return read_training(compose_config(*own, "trainer.max_steps=2", "trainer.validate_every=0"))

    document = tmp_path / "document"
    document.write_text("before\n<!-- results:delay -->\n<!-- /results -->\nafter\n")
    own = ("episodes=2", "batch_size=2", "seeds=[0,1]", "delays=[0,4]", "+env.max_steps=16")
    own += ("executors=[switch,prefix]",)
    config = settings(tmp_path, *own)
    trainings = Trainings(compose_tiny, train)
    delay.compare(config, trainings)
    assert trained == ["plain_seed0", "prefix_seed0", "plain_seed1", "prefix_seed1"]
    results = json.loads((tmp_path / "publish/results.json").read_text())
    assert results["config"]["prefix_steps"] == 8 and {"command", "commit"} <= results.keys()
    rows = {(row["executor"], row["delay"]): row for row in results["rows"]}
    assert len(rows) == 4
    assert all(row["seeds"] == 2 and row["episodes"] == 2 and row["jerk"] > 0 for row in rows.values())
    assert rows["switch", 4]["jerk"] != rows["switch", 0]["jerk"] != rows["prefix", 0]["jerk"]
    assert rows["switch", 0]["difference"] is None and rows["prefix", 4]["difference"] is not None
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and text.count("| prefix |") == 2
    assert (tmp_path / "publish/delay.png").stat().st_size > 1000


def test_a_delay_beyond_the_prefix_is_refused_before_it_trains(tmp_path: Path):
    config = settings(tmp_path, "delays=[0,9]", "document=null")
    with pytest.raises(InputError, match="need prefix_steps=9 or more, not 8"):
        delay.compare(config, Trainings(lambda overrides: pytest.fail("composed"), train))
