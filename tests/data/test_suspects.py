"""Numbers that are right and learned badly are said, with their first place; of healthy data nothing is."""

import numpy as np
import pytest

from shortcut_policy.data import DemonstrationDataset, Field, bundled, suspects
from tests.data.own_source import OwnSource

ENDS = [40, 100, 160]
SIZES = {"horizon": 8, "n_obs_steps": 2, "n_action_steps": 4, "val_fraction": 0}


def said(capsys, state: np.ndarray, action: np.ndarray | None = None, normalize: str = "limits") -> str:
    """What fitting a normaliser to these rows says."""
    action = np.random.default_rng(1).uniform(-1, 1, (160, 2)) if action is None else action
    source = OwnSource({"state": state, "action": action}, ENDS)
    fields = [
        Field(key, values.shape[1:], normalize=normalize)
        for key, values in (("state", state), ("action", action))
    ]
    dataset = DemonstrationDataset(source, {"seen": fields[0]}, fields[1], **SIZES)
    capsys.readouterr()
    dataset.fit_normalizer()
    return capsys.readouterr().err


def walk(size: int, step: float) -> np.ndarray:
    """(160, size), which goes on by steps of this size, and anew at the end of the first episode."""
    return np.cumsum(step * np.random.default_rng(0).uniform(0.5, 1, (160, size)), axis=0)


@pytest.mark.parametrize("normalize", ["limits", "identity"])
@pytest.mark.parametrize(("turn", "low"), [(2 * np.pi, -np.pi), (2 * np.pi, 0), (360, -180), (360, 0)])
def test_angles_that_wrap_around(capsys, turn: float, low: float, normalize: str):
    counted = walk(3, turn / 50)
    wrapped = counted.copy()
    wrapped[:, 1] = (counted[:, 1] - low) % turn + low
    (line,) = said(capsys, wrapped, normalize=normalize).splitlines()
    row = int(np.argmax(abs(np.diff(wrapped[:, 1])) > turn / 2)) + 1
    episode, step = (0, row) if row < 40 else (1, row - 40)
    assert line.startswith("seen (key 'state' of own): number 1 of a step jumps between ")
    assert f"2 times, first at step {step} of episode {episode}: an angle that wraps around" in line
    assert not said(capsys, counted, normalize=normalize)
    assert not said(capsys, 1.5 * wrapped, normalize=normalize), "pixels, or whatever jumps"
    at_borders = np.where(np.arange(160) < 40, low + 0.01 * turn, low + 0.99 * turn)[:, None]
    assert not said(capsys, at_borders, normalize=normalize), "another episode begins elsewhere"


def rotations(size: float = 1.0) -> np.ndarray:
    q = np.array([0.1, 0.2, 0.3, 0.9]) + 0.3 * np.sin(walk(4, 0.1))
    return size * q / np.linalg.norm(q, axis=1, keepdims=True)


def test_quaternions_of_both_signs(capsys):
    position, q = walk(3, 0.01), rotations()
    assert not said(capsys, np.concatenate([position, q], axis=1))
    flipped = q.copy()
    flipped[[50, 51, 52, *range(100, 160)]] *= -1  # the last episode as a whole: its steps agree
    (line,) = said(capsys, np.concatenate([position, flipped], axis=1)).splitlines()
    assert (
        "numbers 3 to 6 of a step turn into about their negative, 2 times, first at step 10 of epis" in line
    )
    assert "Both signs are one rotation" in line
    assert not said(capsys, np.concatenate([position, 2 * flipped], axis=1)), "no rotation"
    two = np.stack([q, flipped], axis=1)
    assert "numbers 4 to 7 of a step turn into" in said(capsys, two)


def test_actions_that_are_the_state_of_the_same_row(capsys):
    state = walk(6, 0.01)
    gripper = (np.arange(160) % 50 < 25).astype(float)
    line = said(capsys, state, np.stack([state[:, 4], state[:, 1], gripper], axis=1))
    assert line.startswith(
        "action (key 'action' of own): in all rows the action is what 'seen' holds in the s"
    )
    assert "of recorded positions take those of row t + 1" in line
    later = np.concatenate([state[1:, :2], state[-1:, :2]])
    assert not said(capsys, state, later)
    close = state[:, :2].copy()
    close[90] += 1e-3
    assert not said(capsys, state, close)
    assert not said(capsys, np.stack([gripper, gripper], axis=1), gripper[:, None]), "two values tell nothing"


@pytest.mark.parametrize(("name", "angles"), [("pusht", 1), ("lift", 0)])
def test_of_bundled_demonstrations_the_angle_of_the_block_alone_is_said(capsys, name: str, angles: int):
    source = bundled(name)
    keys = [key for key in source.keys if len(source.shapes[key]) == 1]
    action = next(key for key in keys if key.startswith("action"))
    fields = {key.replace(".", "_"): Field(key, source.shapes[key]) for key in keys if key != action}
    DemonstrationDataset(source, fields, Field(action, source.shapes[action]), **SIZES).fit_normalizer()
    err = capsys.readouterr().err
    assert err.count("number 4 of a step jumps between ") == err.count("wraps around") == angles
    assert "quaternion" not in err and "in all rows the action" not in err


def test_what_only_looks_like_angles_or_rotations_is_not_said(capsys):
    rng = np.random.default_rng(0)
    gripper = np.where(np.arange(160) % 50 < 25, -1.0, 1.0)[:, None]
    few_turns = np.concatenate([0.05 * rng.uniform(-1, 1, (160, 6)), gripper], axis=1)
    assert not said(capsys, few_turns), "a gripper beside displacements that hardly turn"
    assert not said(capsys, few_turns * [1, 1, 1, 0, 0, 0, 1]), "or do not turn at all"
    directions = rng.normal(size=(160, 4))
    assert not said(capsys, directions / np.linalg.norm(directions, axis=1, keepdims=True))
    assert not said(capsys, np.eye(5)[np.arange(160) % 5]), "one-hot numbers of tasks"
    assert not said(capsys, (np.arange(160) % 7.0)[:, None]), "a stage from 0 to 6"
    assert not said(capsys, np.where(np.arange(160) % 9 < 4, -3.0, 3.0)[:, None]), "full force to either side"
    assert not said(capsys, rng.normal(0, 2, (160, 3)).clip(-3.1, 3.1)), "forces that are clipped"
    assert not said(capsys, rng.uniform(0, 360, (160, 2))), "places in a picture"


def test_long_episodes_are_looked_at_in_parts_without_a_gap(capsys, monkeypatch):
    q = rotations()
    q[40::3] *= -1
    both = np.concatenate([q, walk(1, 0.5) % (2 * np.pi)], axis=1)
    whole = said(capsys, both)
    assert whole.count("first at step") == 2
    for numbers in (1, 15, 35):
        monkeypatch.setattr(suspects, "AT_A_TIME", numbers)
        assert said(capsys, both) == whole
