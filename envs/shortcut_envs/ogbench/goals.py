"""What is to be done next in a scene of OGBench: its oracles do one thing at a time."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

_SIDE, _APART, _NEAR = 0.04, 0.06, 0.04  # metres: of a cube; between middles of free cubes; that counts as there
_TABLE, _ASIDE = ((0.32, -0.25), (0.53, 0.25)), 0.09  # where cubes are put aside; so far from all others
_DRAWER_OPEN, _WINDOW_OPEN = -0.16, 0.2  # metres of their slides
_OPEN_ENOUGH, _IN_DRAWER = -0.12, -0.25  # of the drawer's slide; y of a place in the drawer


class Subgoal(NamedTuple):
    """One thing to do.

    Attributes:
        kind: Of the oracle: ``cube``, ``button``, ``drawer`` or ``window``.
        told: What it is told beside the state of the scene.
    """

    kind: str
    told: Mapping[str, Any]


def next_subgoal(simulation: Any, random: np.random.Generator) -> Subgoal | None:
    """What brings a scene nearer to its goal; None if all is done or nothing can be."""
    if hasattr(simulation, "_num_rows"):
        return _puzzle(simulation)
    if hasattr(simulation, "_target_drawer_pos"):
        return _scene(simulation, random)
    return _cubes(simulation, random)


def _cubes(simulation: Any, random: np.random.Generator) -> Subgoal | None:
    """The next cube: one that nothing lies on, whose place is free and what is under it is done.

    If there is none, as where cubes change places, one is put aside.
    """
    count = simulation._num_cubes
    places = np.array([simulation._data.joint(f"object_joint_{i}").qpos[:3] for i in range(count)])
    goals = np.array([simulation._data.mocap_pos[i] for i in simulation._cube_target_mocap_ids])
    done = np.linalg.norm(places - goals, axis=1) <= _NEAR
    level = np.linalg.norm(places[:, None, :2] - places[None, :, :2], axis=-1) < _SIDE
    on_top = level & (places[None, :, 2] > places[:, None, 2] + _SIDE / 2)
    bare = ~done & ~on_top.any(axis=1)
    for cube in np.flatnonzero(bare):
        others = np.delete(np.arange(count), cube)
        near = np.linalg.norm(places[others, :2] - goals[cube, :2], axis=1) < _APART
        below = places[others, 2] < goals[cube, 2] - _SIDE / 2
        under = np.linalg.norm(goals[others] + [0, 0, _SIDE] - goals[cube], axis=1) < _SIDE / 4
        if not (near & ~below).any() and done[others][under].all():
            return _cube(cube, goals[cube], random)
    for cube in np.flatnonzero(bare):
        taken = np.concatenate([np.delete(places, cube, axis=0), goals])[:, :2]
        for _ in range(1000):
            spot = random.uniform(*_TABLE)
            if np.linalg.norm(taken - spot, axis=1).min() > _ASIDE:
                return _cube(cube, np.array([*spot, _SIDE / 2]), random)
    return None


def _scene(simulation: Any, random: np.random.Generator) -> Subgoal | None:
    """Cube, then drawer, then window, then buttons; what is locked or closed is opened for it."""
    data = simulation._data
    drawer, window = (float(data.joint(name).qpos[0]) for name in ("drawer_slide", "window_slide"))
    drawer_locked, window_locked = (state == 0 for state in simulation._cur_button_states)
    place = np.array(data.joint("object_joint_0").qpos[:3])
    goal = np.array(data.mocap_pos[simulation._cube_target_mocap_ids[0]])
    if not simulation._is_in_drawer(place) and goal[1] < _IN_DRAWER:
        if drawer > _OPEN_ENOUGH:
            return _button(simulation, 0) if drawer_locked else _drawer(simulation, _DRAWER_OPEN)
        return _cube(0, np.array(simulation._drawer_center), random)
    if np.linalg.norm(place - goal) > _NEAR and goal[1] >= _IN_DRAWER:
        return _cube(0, goal, random)
    if abs(drawer - simulation._target_drawer_pos) > _NEAR:
        return _button(simulation, 0) if drawer_locked else _drawer(simulation, simulation._target_drawer_pos)
    if abs(window - simulation._target_window_pos) > _NEAR:
        return _button(simulation, 1) if window_locked else _window(simulation, simulation._target_window_pos)
    for button, success in enumerate(simulation._cur_button_states == simulation._target_button_states):
        if not success:
            return _button(simulation, button)
    return None


def _puzzle(simulation: Any) -> Subgoal | None:
    """The first button of a solution; a press turns it and its neighbours over."""
    rows, columns = simulation._num_rows, simulation._num_cols
    wanted = (simulation._cur_button_states != simulation._target_button_states).astype(np.uint8)
    pressed = lights_out(rows, columns, wanted)
    if pressed is None or not pressed.any():
        return None
    return _button(simulation, int(np.flatnonzero(pressed)[0]))


def lights_out(rows: int, columns: int, wanted: np.ndarray) -> np.ndarray | None:
    """Which buttons to press to turn ``wanted`` (rows * columns,) over; None if that cannot be.

    Gauss's elimination over the field of two elements: each press turns a button and its neighbours over.
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    distance = abs(row[:, None] - row) + abs(column[:, None] - column)
    matrix = np.column_stack([distance <= 1, wanted]).astype(np.uint8)
    pivots: list[int] = []
    for unknown in range(rows * columns):
        found = np.flatnonzero(matrix[len(pivots) :, unknown])
        if not len(found):
            continue
        at, other = len(pivots), len(pivots) + int(found[0])
        matrix[[at, other]] = matrix[[other, at]]
        below = np.flatnonzero(matrix[:, unknown])
        matrix[below[below != at]] ^= matrix[at]
        pivots.append(unknown)
    if matrix[len(pivots) :, -1].any():
        return None
    pressed = np.zeros(rows * columns, bool)
    pressed[pivots] = matrix[: len(pivots), -1]
    return pressed


def _cube(cube: Any, goal: np.ndarray, random: np.random.Generator) -> Subgoal:
    yaw = np.array([random.uniform(0, 2 * np.pi)])
    told = {"target_block": int(cube), "target_block_pos": goal, "target_block_yaw": yaw}
    return Subgoal("cube", told)


def _button(simulation: Any, button: int) -> Subgoal:
    state = (simulation._cur_button_states[button] + 1) % simulation._num_button_states
    top = np.array(simulation._data.site_xpos[simulation._button_site_ids[button]])
    told = {"target_button": button, "target_button_state": state, "target_button_top_pos": top}
    return Subgoal("button", told)


def _drawer(simulation: Any, goal: float) -> Subgoal:
    handle = np.array(simulation._data.site_xpos[simulation._drawer_site_id])
    handle[1] += goal - float(simulation._data.joint("drawer_slide").qpos[0])
    told = {"target_drawer_pos": np.array([goal]), "target_drawer_handle_pos": handle}
    return Subgoal("drawer", told)


def _window(simulation: Any, goal: float) -> Subgoal:
    handle = np.array(simulation._data.site_xpos[simulation._window_site_id])
    handle[0] += goal - float(simulation._data.joint("window_slide").qpos[0])
    told = {"target_window_pos": np.array([goal]), "target_window_handle_pos": handle}
    return Subgoal("window", told)
