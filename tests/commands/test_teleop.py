"""The command that records a person."""

import json
import os
import re
import signal
import threading
import time

import numpy as np
import pytest
from websockets.sync.client import connect

from shortcut_policy.commands import cli
from shortcut_policy.data import EpisodeWriter, ZarrSource
from shortcut_policy.policy import save_policy


def play_and_end(capfd, printed, steps):
    """Plays so many steps through the socket, keeps them, and ends the command."""
    deadline = time.monotonic() + 60
    try:
        while not (link := re.search(r"record at http(://\S+)", "".join(printed))):
            assert time.monotonic() < deadline, printed
            time.sleep(0.02)
            printed.append(capfd.readouterr().out)
        with connect("ws" + link[1].replace("/?", "/socket?")) as socket:
            status = json.loads(socket.recv())
            printed.append(status["title"])
            for command in ("begin", "finish"):
                socket.send(json.dumps({"do": command}))
                while status["step"] < steps or command == "finish":
                    if not isinstance(message := socket.recv(timeout=20), str):
                        continue
                    status = json.loads(message)
                    if status["note"].startswith("stored"):
                        break
                    socket.send(json.dumps({"tick": status["tick"], "given": [0.5, 0.5], "held": True}))
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_it_records_until_it_is_told_to_end_and_goes_on_later(give, capfd, tmp_path):
    store = tmp_path / "mine.zarr"
    for episodes in (1, 2):
        printed = []
        person = threading.Thread(target=play_and_end, args=(capfd, printed, 10))
        person.start()
        give(cli.teleop, "task=pusht", f"output={store}", "port=0", "rate=100", "size=64")
        person.join(20)
        assert f"pusht, into {store}" in printed
        assert len(ZarrSource(store).episode_ends) == episodes
    source = ZarrSource(store)
    assert source.attributes["expert"] == "human" and source.attributes["control_hz"] == 10
    rows = source.read("action", 0, 10)
    np.testing.assert_allclose(rows, 256)
    assert set(source.keys) == {"action", "agent_pos", "keypoint", "state"}


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["port=-1"], "port=-1 must be a whole number from 0 to 65535"),
        (["host=0.0.0.0"], "lets others on the network open the page: give exposed=true"),
        (["keep=all"], "keep=all must be corrections or episodes"),
        (["task.env=null"], "task 'pusht' has no environment to record in"),
        (["task.env.id=shortcut_envs:shortcut_policy/None-v0"], "cannot be made"),
        (["checkpoint=nothing_there"], "nothing_there"),
        (["output=other.zarr"], "holds demonstrations that do not say with what expert"),
        (["output=mine.hdf5"], "need env_args"),
    ],
)
def test_wrong_settings_are_one_sentence_before_anybody_plays(
    given, sentence, give, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with EpisodeWriter("other.zarr") as writer:
        writer.add_episode({"action": np.zeros((3, 2), np.float32)})
    with pytest.raises(SystemExit) as caught:
        give(cli.teleop, "task=pusht", "output=mine.zarr", "port=0", *given)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1
    assert not (tmp_path / "mine.zarr").exists()


def test_a_policy_of_another_task_is_refused(give, capsys, tmp_path, tiny_policy):
    save_policy(tiny_policy, tmp_path / "policy")
    with pytest.raises(SystemExit):
        give(
            cli.teleop,
            "task=pusht",
            "task.env.id=shortcut_envs:shortcut_policy/PushTState-v0",
            f"checkpoint={tmp_path / 'policy'}",
            f"output={tmp_path / 'mine.zarr'}",
        )
    assert "roll it out in the environment of its own task" in capsys.readouterr().err
