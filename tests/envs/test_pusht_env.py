"""Push-T: the physics of the reference, the gymnasium contract and the drawing."""

import math
import os
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from scipy.spatial import ConvexHull

from shortcut_envs.pusht.env import PushTEnv
from shortcut_envs.pusht.physics import (
    BAR,
    GOAL_POSE,
    KEYPOINTS,
    OUTLINE,
    STEM,
    PushTSimulator,
    PushTState,
    sample_start,
    transform_points,
)
from shortcut_envs.pusht.render import dataset_image, smooth_image
from shortcut_policy.data import ZarrSource
from shortcut_policy.errors import InputError

IDS = [f"shortcut_envs:shortcut_policy/PushT{name}-v0" for name in ("State", "Keypoints", "Image")]
GOLDEN = Path(__file__).parents[1] / "fixtures/pusht_golden.npz"
HUMAN = Path(os.environ.get("SHORTCUT_POLICY_DATA", "data"), "pusht_cchi_v7_replay.zarr")


@pytest.fixture(scope="module")
def human() -> ZarrSource:
    if not HUMAN.is_dir():
        pytest.skip(f"no human Push-T demonstrations at {HUMAN}; set SHORTCUT_POLICY_DATA")
    return ZarrSource(HUMAN)


def pushed_world() -> tuple[PushTSimulator, np.ndarray]:
    """A world in which the agent has just pushed the block about, and the actions that did it."""
    golden = np.load(GOLDEN)
    world = PushTSimulator()
    world.set_state(PushTState.at_rest(golden["starts"][1]), legacy_order=True, settle=True)
    return world, golden["actions"][1]


# --- physics ---


def test_follows_trajectories_of_gym_pusht():
    """Recorded with gym-pusht 0.1.8 and pymunk 6.11.1 through benchmarks/gym_pusht_reference.py."""
    golden = np.load(GOLDEN)
    world = PushTSimulator()
    for start, actions, states, coverage in zip(*(golden[k] for k in golden.files), strict=True):
        world.set_state(PushTState.at_rest(start), legacy_order=True, settle=True)
        for t, action in enumerate(actions):
            state = world.get_state()
            np.testing.assert_allclose([*state.agent, *state.block], states[t], atol=1e-6)
            world.step(action)
            assert world.coverage() == pytest.approx(coverage[t], abs=1e-6)
        assert np.abs(states[-1, 2:4] - states[0, 2:4]).max() > 50, "the block hardly moved: a weak test"


@pytest.mark.parametrize("episode", [0, 50, 117])  # 50 is the one that reacts to the order of contacts
def test_human_actions_reproduce_the_recorded_states(human: ZarrSource, episode: int):
    start, stop = ([0, *human.episode_ends])[episode : episode + 2]
    recorded, actions = human.read("state", start, stop), human.read("action", start, stop)
    world = PushTSimulator()
    raw = sample_start(np.random.RandomState(episode))
    world.set_state(PushTState.at_rest(raw), legacy_order=True, settle=True)
    replayed = []
    for action in actions:
        replayed.append(world.observed_state())
        world.step(action)
    np.testing.assert_allclose(replayed, recorded, atol=1e-4)


def test_recorded_first_state_restarts_a_demonstration(human: ZarrSource):
    stop = int(human.episode_ends[0])
    recorded, actions = human.read("state", 0, stop), human.read("action", 0, stop)
    env = PushTEnv("state")
    observation, _ = env.reset(options={"state": recorded[0]})
    replayed = [observation["state"], *(env.step(action)[0]["state"] for action in actions[:-1])]
    assert np.median(np.abs(np.array(replayed) - recorded)) < 1e-4


def test_keypoints_are_those_of_the_human_data(human: ZarrSource):
    states, keypoints = human.read("state", 0, 2000), human.read("keypoint", 0, 2000)
    error = np.array([transform_points(KEYPOINTS, state[2:]) for state in states]) - keypoints
    assert np.median(np.abs(error)) < 0.03


def test_a_copied_world_continues_bit_for_bit():
    world, actions = pushed_world()
    for action in actions[:30]:
        world.step(action)
    twin = world.copy()
    for action in actions[30:]:
        world.step(action)
        twin.step(action)
        assert twin.get_state() == world.get_state()


def test_a_state_with_the_block_at_rest_is_the_whole_state():
    """Away from the walls: wedged between agent and wall, the order of solving contacts matters too."""
    world, actions = pushed_world()
    scratch = PushTSimulator()
    checked = 0
    for t in range(len(actions) - 15):
        state = world.get_state()
        if state.block_velocity == (0.0, 0.0, 0.0):
            twin = world.copy()
            scratch.set_state(state)
            for action in actions[t : t + 15]:
                twin.step(action)
                scratch.step(action)
            corners = transform_points(np.array(OUTLINE), twin.get_state().block)
            if corners.min() > 8 and corners.max() < 503:
                np.testing.assert_allclose(scratch.get_state().block, twin.get_state().block, atol=1e-9)
                checked += twin.get_state().block != state.block
        world.step(actions[t])
    assert checked > 5


def test_setting_a_state_forgets_the_past():
    used, actions = pushed_world()
    for action in actions[:25]:
        used.step(action)
    state = used.get_state()
    fresh = PushTSimulator()
    for world in (used, fresh):
        world.set_state(state)
        for action in actions[25:40]:
            world.step(action)
    assert used.get_state() == fresh.get_state()


def test_legacy_order_turns_about_the_centre_of_gravity():
    raw = sample_start(np.random.RandomState(100_000))
    world = PushTSimulator()
    world.set_state(PushTState.at_rest(raw))
    np.testing.assert_allclose(world.get_state().block, raw[2:], atol=1e-9)

    world.set_state(PushTState.at_rest(raw), legacy_order=True)
    center = np.array([[0.0, 45.0]])  # mean of the centroids of bar (0, 15) and stem (0, 75)
    expected = raw[2:4] + center[0] - transform_points(center, (0.0, 0.0, raw[4]))[0]
    np.testing.assert_allclose(world.get_state().block[:2], expected, atol=1e-9)


# --- coverage ---


def independent_coverage(pose: tuple[float, float, float], goal: tuple[float, float, float]) -> float:
    """By counting points of a fine grid over the goal T that lie inside the block."""
    step = 0.25
    centers = np.arange(-60 + step / 2, 60, step), np.arange(step / 2, 120, step)
    grid = np.stack(np.meshgrid(*centers), axis=-1).reshape(-1, 2)

    def inside(points: np.ndarray) -> np.ndarray:
        boxes = []
        for part in (BAR, STEM):
            faces = ConvexHull(np.array(part)).equations
            boxes.append((points @ faces[:, :2].T + faces[:, 2] <= 0).all(axis=1))
        return boxes[0] | boxes[1]

    in_goal = transform_points(grid[inside(grid)], goal)
    x, y, angle = pose
    back_in_body_frame = transform_points(in_goal - (x, y), (0.0, 0.0, -angle))
    return float(inside(back_in_body_frame).mean())


@pytest.mark.parametrize("goal", [GOAL_POSE, (356.0, 356.0, math.pi / 4), (200.0, 300.0, -2.0)])
@pytest.mark.parametrize("offset", [(0, 0, 0), (3, -2, 0.05), (20, 35, 1.0), (0, 40, math.pi), (90, 0, 0.3)])
def test_coverage_is_the_covered_part_of_the_goal(goal, offset):
    pose = tuple(np.add(goal, offset))
    world = PushTSimulator(goal)
    world.set_state(PushTState((10.0, 10.0), pose))
    assert world.coverage() == pytest.approx(independent_coverage(pose, goal), abs=3e-3)


def test_coverage_far_from_the_goal_is_zero():
    world = PushTSimulator((100.0, 100.0, 0.0))
    world.set_state(PushTState((10.0, 10.0), (400.0, 350.0, 0.0)))
    assert world.coverage() == 0.0


# --- gymnasium ---


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend using a symmetric")
def test_passes_the_checker_of_gymnasium(id_: str):
    check_env(gymnasium.make(id_, render_mode="rgb_array").unwrapped)


def test_seeded_reset_is_the_start_of_diffusion_policy():
    for seed in (0, 100_000):
        state = PushTEnv("state").reset(seed=seed)[1]["state"]
        random = np.random.RandomState(seed)
        agent = [random.randint(50, 450) for _ in range(2)]
        _, _, angle = random.randint(100, 400), random.randint(100, 400), random.randn() * 2 * np.pi - np.pi
        np.testing.assert_array_equal(state[:2], agent)
        assert state[4] == pytest.approx(angle % (2 * np.pi), abs=1e-9)


def test_legacy_reset_flag_moves_the_block():
    legacy, plain = (PushTEnv("state", legacy_reset=flag).reset(seed=3)[1]["state"] for flag in (True, False))
    raw = sample_start(np.random.RandomState(3))
    np.testing.assert_allclose(plain[:4], raw[:4], atol=1e-9)
    assert np.abs(legacy[2:4] - raw[2:4]).max() > 1.0
    assert legacy[4] == pytest.approx(plain[4])


def test_unseeded_resets_differ_and_follow_the_seed_before_them():
    def three_starts() -> np.ndarray:
        env = PushTEnv("state")
        env.reset(seed=11)
        return np.array([env.reset()[0]["state"] for _ in range(3)])

    starts = three_starts()
    assert len(np.unique(starts, axis=0)) == 3
    np.testing.assert_array_equal(starts, three_starts())


def test_a_given_state_is_observed_back():
    state = np.array([123.5, 400.25, 222.125, 333.0, 4.5])
    observation, info = PushTEnv("state").reset(options={"state": state})
    np.testing.assert_allclose(info["state"], state, atol=1e-9)
    np.testing.assert_array_equal(observation["state"], state.astype(np.float32))


def test_observations_describe_the_same_scene():
    by_kind = {kind: PushTEnv(kind).reset(seed=5)[0] for kind in ("state", "keypoints", "image")}
    state = by_kind["state"]["state"]
    np.testing.assert_array_equal(by_kind["keypoints"]["agent_pos"], state[:2])
    np.testing.assert_array_equal(by_kind["image"]["agent_pos"], state[:2])
    expected = transform_points(KEYPOINTS, state[2:].astype(np.float64))
    np.testing.assert_allclose(by_kind["keypoints"]["keypoint"], expected, atol=1e-3)
    np.testing.assert_array_equal(by_kind["image"]["image"], dataset_image(state[:2], state[2:]))


def coverage_after_staying(env: PushTEnv, pose: np.ndarray) -> tuple[float, bool, dict]:
    env.reset(options={"state": [20.0, 20.0, *pose]})
    _, reward, terminated, _, info = env.step(np.array([20.0, 20.0]))
    return reward, terminated, info


def test_success_is_strictly_above_95_percent():
    env = PushTEnv("state")
    seen = set()
    for shift in np.linspace(0.0, 4.0, 41):
        reward, terminated, info = coverage_after_staying(env, np.add(GOAL_POSE, (shift, 0.0, 0.0)))
        assert reward == info["score"] == pytest.approx(min(info["coverage"] / 0.95, 1.0))
        assert terminated == info["is_success"] == (info["coverage"] > 0.95)
        assert type(terminated) is bool
        seen.add(terminated)
    assert seen == {True, False}


def test_goal_pose_moves_the_metric_and_the_drawing():
    goal = (356.0, 356.0, math.pi / 4)
    moved = PushTEnv("state", goal_pose=goal, render_mode="rgb_array")
    default = PushTEnv("state", render_mode="rgb_array")
    assert coverage_after_staying(moved, np.array(goal))[2]["coverage"] == pytest.approx(1.0)
    assert coverage_after_staying(default, np.array(goal))[2]["coverage"] < 0.2
    moved.reset(seed=0)
    default.reset(seed=0)
    assert (moved.render() != default.render()).any()


@pytest.mark.parametrize("id_", IDS[:2])
def test_truncates_once_after_max_steps(id_: str):
    env = gymnasium.make(id_)
    env.reset(seed=0)
    ends = [env.step(np.array([10.0, 10.0], np.float32))[2:4] for _ in range(300)]
    assert ends == [(False, False)] * 299 + [(False, True)]
    env.reset(seed=1)
    assert env.step(np.array([10.0, 10.0], np.float32))[3] is False
    short = gymnasium.make(id_, max_steps=2)
    short.reset(seed=0)
    assert [short.step(np.array([10.0, 10.0], np.float32))[3] for _ in range(2)] == [False, True]


def test_vectorised_seeds_match_single_environments():
    vector = gymnasium.make_vec(IDS[0], num_envs=3, vectorization_mode="sync")
    observation, _ = vector.reset(seed=[100_000, 100_007, 3])
    single = [PushTEnv("state").reset(seed=seed)[0]["state"] for seed in (100_000, 100_007, 3)]
    np.testing.assert_array_equal(observation["state"], single)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PushTEnv("pixels"), "observation is 'pixels'; choose one of state, keypoints, image"),
        (lambda: PushTEnv(goal_pose=(1.0, 2.0)), "goal_pose .* 3 finite numbers"),
        (lambda: PushTEnv(render_mode="human"), "render_mode is 'human'"),
        (lambda: PushTEnv(render_size=0), "render_size=0 must be"),
        (lambda: PushTEnv(max_steps=-1), "max_steps=-1 must be"),
        (lambda: PushTEnv().reset(options={"pose": 1}), "option 'pose' is unknown"),
        (lambda: PushTEnv().reset(options={"state": [1, 2]}), "option 'state' .* 5 finite numbers"),
        (lambda: PushTEnv().reset(options={"state": "abc"}), "option 'state' is 'abc'"),
        (lambda: PushTEnv().reset(seed=2**32), "seed is 4294967296"),
        (lambda: PushTEnv().step(np.array([np.nan, 1.0])), "action .* 2 finite numbers"),
    ],
)
def test_bad_values_are_named_in_one_sentence(make, message: str):
    with pytest.raises(InputError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


# --- drawing ---


@pytest.mark.parametrize("size", [1, 32, 96, 401, 512])
def test_renders_at_any_size_and_always_the_same(size: int):
    env = PushTEnv("state", render_mode="rgb_array", render_size=size)
    env.reset(seed=2)
    first, second = env.render(), env.render()
    assert first.shape == (size, size, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, second)


def test_no_render_mode_draws_nothing():
    env = PushTEnv("state")
    env.reset(seed=0)
    assert env.render() is None


@pytest.mark.parametrize("draw", [dataset_image, smooth_image])
def test_things_are_drawn_where_they_are(draw):
    image = draw((100.0, 400.0), (400.0, 100.0, 0.0), (256.0, 256.0, math.pi / 4), 512)
    assert image[400, 100].tolist() == [78, 126, 255]  # the agent
    assert image[115, 400].tolist() == [143, 163, 184]  # the middle of the block's bar
    assert image[256 + 30, 256 - 30].tolist() == [144, 238, 144]  # the goal's stem points down and left
    assert image[256, 5].tolist() == [211, 211, 211]  # a wall
    assert image[480, 480].tolist() == [255, 255, 255]


def test_recorded_states_are_drawn_like_the_recorded_images(human: ZarrSource):
    states, images = human.read("state", 0, 100)[::10], human.read("img", 0, 100)[::10]
    drawn = np.array([dataset_image(state[:2], state[2:]) for state in states.astype(np.float64)])
    assert np.abs(drawn - images).mean() < 0.15
