"""The command that serves a policy."""

import os
import re
import signal
import threading
import time

import numpy as np
import pytest

from shortcut_client import ShortcutClient
from shortcut_policy.commands import cli
from shortcut_policy.policy import save_policy


@pytest.fixture
def checkpoint(tiny_policy, tmp_path):
    save_policy(tiny_policy, tmp_path / "policy")
    return tmp_path / "policy"


def test_it_serves_until_it_is_told_to_end(checkpoint, give, capfd):
    printed, found = [], []

    def use():
        deadline = time.monotonic() + 10
        while not (address := re.search(r"is served at (ws://\S+)", "".join(printed))):
            assert time.monotonic() < deadline, printed
            time.sleep(0.02)
            printed.append(capfd.readouterr().out)
        with ShortcutClient(address[1], patience=1.0) as client:
            found.append(client.select_action({"keypoint": np.full((9, 2), 200.0), "agent_pos": [100, 100]}))
            found.append(client.metadata["obs"])

    def use_and_end():
        try:
            use()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    client = threading.Thread(target=use_and_end)
    client.start()
    give(cli.serve, f"checkpoint={checkpoint}", "port=0", "+units.agent_pos=pixels", "rate=10")
    client.join(10)
    assert found[0].shape == (2,) and found[1]["agent_pos"]["units"] == "pixels"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("host=0.0.0.0", "lets others on the network use this policy: give api_key_file"),
        ("batch_size=none", "batch_size=none must be a whole number from 1 on"),
        ("port=-1", "port=-1 must be a whole number from 0 to 65535"),
        ("steps=3", "steps=3"),
    ],
)
def test_wrong_settings_are_one_sentence(checkpoint, give, capsys, given, sentence):
    with pytest.raises(SystemExit) as caught:
        give(cli.serve, f"checkpoint={checkpoint}", given)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and sentence in said and said.count("\n") == 1
