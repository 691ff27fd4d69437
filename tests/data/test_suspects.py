"""Numbers that are right and learned badly are said, with their first place; of healthy data nothing is."""

import numpy as np
import pytest

from shortcut_policy.data import DemonstrationDataset, Field, bundled, suspects
from tests.data.own_source import OwnSource

ENDS = [40, 100, 160]
SIZES = {"horizon": 8, "n_obs_steps": 2, "n_action_steps": 4, "val_fraction": 0}


def said(
    capsys,
    state: np.ndarray,
    action: np.ndarray | None = None,
    normalize: str = "limits",
    ends: list[int] = ENDS,
    key: str = "state",
) -> str:
    """What fitting a normaliser to these rows says."""
    action = np.random.default_rng(1).uniform(-1, 1, (160, 2)) if action is None else action
    source = OwnSource({key: state, "action": action}, ends)
    fields = [
        Field(key, values.shape[1:], normalize=normalize)
        for key, values in ((key, state), ("action", action))
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


def alike(signs: list[int]) -> np.ndarray:
    """(160, 4): episodes of 20 steps, which begin in about one rotation, with these signs."""
    rng = np.random.default_rng(2)
    q = np.array([0.7, 0.1, 0.7, 0.1]) + rng.normal(0, 0.05, (8, 1, 4))
    q = q + np.cumsum(rng.normal(0, 0.03, (8, 20, 4)), axis=1)
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    return (np.array(signs)[:, None, None] * q).reshape(160, 4)


EIGHT = list(range(20, 161, 20))
PLUS = [1] * 8


def test_quaternions_of_another_sign_in_other_episodes(capsys):
    position, first = walk(3, 0.01), [1, 1, 1, -1, 1, 1, -1, 1]
    for signs, times in ((first, "2 of 8"), ([-sign for sign in first], "2 of 8"), (4 * [1, -1], "4 of 8")):
        (line,) = said(capsys, np.concatenate([position, alike(signs)], axis=1), ends=EIGHT).splitlines()
        assert f"numbers 3 to 6 of a step are about their negative in {times} episodes, from their" in line
        assert "Both signs are one rotation" in line
        assert f"first in episode {3 if times == '2 of 8' else 1}: a quaternion" in line
    for signs in (PLUS, [-1] * 8):
        assert not said(capsys, alike(signs), ends=EIGHT)
    assert not said(capsys, 2 * alike(first), ends=EIGHT), "no rotation"


def test_episodes_that_begin_in_other_rotations_are_not_said(capsys):
    rng = np.random.default_rng(3)
    q = rng.normal(size=(16, 1, 4)) + np.cumsum(rng.normal(0, 0.03, (16, 10, 4)), axis=1)
    q /= np.linalg.norm(q, axis=-1, keepdims=True)
    ends = list(range(10, 161, 10))
    assert not said(capsys, q.reshape(160, 4), ends=ends), "all kinds"
    half = np.where(q[:, :1, 3:] < 0, -q, q)
    assert not said(capsys, half.reshape(160, 4), ends=ends), "all kinds, on one side"
    turn = np.pi * (np.arange(16)[:, None] % 2) + 0.02 * np.cumsum(rng.normal(size=(16, 10)), axis=1)
    heading = np.stack([np.cos(turn), np.sin(turn)], axis=-1).reshape(160, 2)
    assert not said(capsys, np.concatenate([heading, np.zeros((160, 2))], axis=1), ends=ends), "to and fro"
    direction = np.stack([heading[:, 0], heading[:, 1], 0.02 * rng.normal(size=160)], axis=1)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    assert not said(capsys, np.concatenate([direction, np.ones((160, 1)) * 0], axis=1), ends=ends)
    closed = np.where(np.arange(160) // 10 % 2 == 0, -1.0, 1.0)[:, None]
    assert not said(capsys, np.concatenate([0.03 * rng.normal(size=(160, 3)), closed], axis=1), ends=ends)


def test_a_fixed_quaternion_is_known_by_its_name(capsys):
    """A gripper beside what does not move has the same numbers."""
    down = np.zeros((160, 4))
    down[:, 1] = np.where(np.arange(160) % 40 == 7, -1, 1)
    assert "numbers 0 to 3 of a step turn into about" in said(capsys, down, key="eef_quat")
    assert "numbers 0 to 3 of a step turn into about" in said(capsys, down, key="arm/Orientation")
    assert not said(capsys, down, key="arm")
    assert not said(capsys, np.concatenate([down, down], axis=1), key="pos_quat_gripper")
    down[:, 1] = np.where(np.arange(160) // 20 % 2, -1, 1)
    line = said(capsys, down, ends=EIGHT, key="eef_quat")
    assert "numbers 0 to 3 of a step are about their negative in 4 of 8 episodes" in line
    assert not said(capsys, down, ends=EIGHT, key="arm")


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
