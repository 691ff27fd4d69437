"""The scripted Push-T expert, the command that records it, and the bundled store that it made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import zarr
from omegaconf import DictConfig, OmegaConf

from shortcut_envs.pusht.expert import PushTExpert
from shortcut_envs.pusht.physics import (
    GOAL_POSE,
    KEYPOINTS,
    OUTLINE,
    SUCCESS_COVERAGE,
    PushTSimulator,
    PushTState,
    sample_start,
    transform_points,
)
from shortcut_envs.pusht.pushes import (
    best_advance,
    block_pose,
    centre_pose,
    make_contacts,
    pose_distance,
    push_outcomes,
    to_world,
)
from shortcut_envs.pusht.routes import Roadmap
from shortcut_envs.pusht.scripted_pusher import MAX_STEPS
from shortcut_policy.commands.collect import run
from shortcut_policy.data import EpisodeWriter, ZarrSource, bundled
from shortcut_policy.data.collect import record
from shortcut_policy.errors import InputError
from shortcut_policy.paths import ASSETS_DIR, CONFIG_DIR


def test_settings_that_cannot_be_used_get_a_sentence():
    with pytest.raises(
        InputError, match=r"expert\.goal_pose is .*; it must be 3 finite numbers: x, y, angle"
    ):
        PushTExpert(goal_pose=(256, 256))
    with pytest.raises(InputError, match=r"expert\.contact_noise is 'big'; it must be a finite number"):
        PushTExpert(contact_noise="big")


@pytest.fixture(scope="module")
def expert() -> PushTExpert:
    return PushTExpert()


# --- pushes and ways


@pytest.mark.parametrize("contact", range(0, len(make_contacts().spin), 4))
def test_push_outcome_is_what_the_physics_does(contact: int) -> None:
    contacts = make_contacts()
    block = (250.0, 230.0, 0.4)
    point, normal = contacts.points[contact], contacts.normals[contact]
    simulator = PushTSimulator()
    simulator.set_state(PushTState(tuple(to_world(point - 15.5 * normal, block)), block))
    for _ in range(12):  # the target stays in front of the contact, as the expert's does
        now = simulator.get_state().block
        simulator.step(to_world(point, now))
    pushed = centre_pose(simulator.get_state().block)
    lengths = np.arange(0.0, 200.0, 0.5)
    outcomes = push_outcomes(centre_pose(block), contacts, lengths)[contact]
    travelled = np.linalg.norm(pushed[:2] - centre_pose(block)[:2])
    assert travelled > 15
    assert pose_distance(outcomes, pushed).min() < 0.08 * travelled


def test_best_advance_finds_the_push_that_made_the_gap() -> None:
    contacts = make_contacts()
    start, length = centre_pose((200.0, 220.0, 1.0)), np.array([35.0])
    for contact, goal in enumerate(push_outcomes(start, contacts, length)[:, 0]):
        advance, distance = best_advance(start[None], goal, contacts)
        assert distance[0, contact] < 0.05
        assert advance[0, contact] == pytest.approx(35.0, abs=0.1)


def test_block_pose_inverts_centre_pose() -> None:
    assert block_pose(centre_pose((123.0, 234.0, 2.5))) == pytest.approx((123.0, 234.0, 2.5))


def test_ways_keep_clear_of_the_block() -> None:
    contacts = make_contacts()
    roadmap = Roadmap(contacts)
    ways = roadmap.ways(np.array([150.0, 60.0]), np.ones(len(roadmap.nodes), bool))
    block = shapely.Polygon(OUTLINE)
    assert np.isfinite(ways.lengths).all()
    for points in ways.points:
        for way in points:
            assert block.distance(shapely.LineString([(150.0, 60.0), *way])) > 20.0


# --- the expert


@pytest.mark.parametrize("seed", [500, 501, 502, 503])
def test_solves_a_start(expert: PushTExpert, seed: int) -> None:
    simulator = PushTSimulator()
    start = sample_start(np.random.RandomState(seed))
    simulator.set_state(PushTState.at_rest(start), legacy_order=True, settle=True)
    coverage, previous = [simulator.coverage()], np.array(simulator.get_state().agent)
    for target in expert.targets(simulator, np.random.default_rng(seed)):
        assert np.linalg.norm(target - previous) <= 22.2
        assert ((target >= 0) & (target <= 512)).all()
        assert (target.astype(np.float32) == target).all()
        simulator.step(target)
        coverage.append(simulator.coverage())
        previous = target
        assert len(coverage) <= MAX_STEPS + 1
    assert max(coverage) > SUCCESS_COVERAGE


def test_nothing_to_do_on_the_goal(expert: PushTExpert) -> None:
    simulator = PushTSimulator()
    simulator.set_state(PushTState((50.0, 50.0), GOAL_POSE))
    assert list(expert.targets(simulator, np.random.default_rng(0))) == []


def test_same_generator_same_episode(expert: PushTExpert) -> None:
    first, second = (e.episode(np.random.default_rng(7)) for e in (expert, PushTExpert()))
    assert first is not None and second is not None
    for key, values in first.items():
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, second[key])


# --- recording


class Walk:
    """A cheap expert: some random numbers, and failure about every second time."""

    attributes = {"expert": "walk", "version": 1}  # noqa: RUF012

    def episode(self, random: np.random.Generator) -> dict[str, np.ndarray] | None:
        if random.random() < 0.5:
            return None
        steps = int(random.integers(3, 9))
        return {key: random.normal(size=(steps, 2)).astype(np.float32) for key in ("state", "action")}


def config_of(output: Path, **values: object) -> DictConfig:
    config = OmegaConf.load(CONFIG_DIR / "collect.yaml")
    del config["defaults"], config["hydra"]  # Hydra keeps them to itself
    config = OmegaConf.merge(
        config, {"expert": {"_target_": f"{__name__}.Walk"}, "output": str(output)}, values
    )
    assert isinstance(config, DictConfig)
    return config


def bytes_of(store: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(store)): file.read_bytes() for file in sorted(store.rglob("*")) if file.is_file()
    }


@pytest.mark.slow
def test_resumed_and_parallel_recordings_have_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config_of(tmp_path / "straight.zarr", episodes=9))
    assert "9 episodes" in capsys.readouterr().out
    run(config_of(tmp_path / "resumed.zarr", episodes=4))
    run(config_of(tmp_path / "resumed.zarr", episodes=9, workers=2))
    out = capsys.readouterr().out
    assert "5 new" in out and "tries failed" in out
    assert bytes_of(tmp_path / "straight.zarr") == bytes_of(tmp_path / "resumed.zarr")
    run(config_of(tmp_path / "resumed.zarr", episodes=9))
    assert "0 new" in capsys.readouterr().out
    assert bytes_of(tmp_path / "straight.zarr") == bytes_of(tmp_path / "resumed.zarr")


def test_another_seed_does_not_continue_a_store(tmp_path: Path) -> None:
    run(config_of(tmp_path / "demos.zarr", episodes=2))
    with pytest.raises(InputError, match="recorded with seed=0, not 1"):
        run(config_of(tmp_path / "demos.zarr", episodes=3, seed=1))


def walks(path: Path, **options: Any) -> Path:
    """A store that was recorded by other means."""
    with EpisodeWriter(path, **options) as writer:
        writer.add_episode({key: np.zeros((4, 2), np.float32) for key in ("state", "action")})
    return path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "do not say with what expert and version and seed they were recorded"),
        ({"attributes": {"expert": "walk", "version": 1}}, "do not say with what seed they"),
        ({"attributes": {**Walk.attributes, "seed": 1}, "zarr_format": 3}, "recorded with seed=1, not 0"),
    ],
)
def test_demonstrations_of_another_kind_are_not_continued(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    before = bytes_of(walks(tmp_path / "demos.zarr", **options))
    with pytest.raises(InputError, match=message):
        run(config_of(tmp_path / "demos.zarr", episodes=3))
    assert bytes_of(tmp_path / "demos.zarr") == before


def test_a_store_without_an_episode_binds_nobody(tmp_path: Path) -> None:
    EpisodeWriter(tmp_path / "demos.zarr", attributes={**Walk.attributes, "seed": 1}).close()
    run(config_of(tmp_path / "demos.zarr", episodes=1))
    assert ZarrSource(tmp_path / "demos.zarr").attributes == {**Walk.attributes, "seed": 0}


class ArmWalk(Walk):
    """Says what robomimic's files have to."""

    attributes = {**Walk.attributes, "env_args": "{}"}  # noqa: RUF012


def test_demonstrations_for_a_robomimic_file_make_no_store(tmp_path: Path) -> None:
    expert = {"_target_": f"{__name__}.ArmWalk"}
    with pytest.raises(InputError, match=r"make a robomimic file; give output=<name>\.hdf5"):
        run(config_of(tmp_path / "demos.zarr", expert=expert))
    (tmp_path / "demos.hdf5").write_text("text")
    with pytest.raises(InputError, match="is not an HDF5 file"):
        run(config_of(tmp_path / "demos.hdf5", expert=expert))


@pytest.mark.parametrize("values", [{"episodes": 0}, {"seed": -1}, {"workers": 1.5}])
def test_numbers_out_of_range(tmp_path: Path, values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(values))}="):
        run(config_of(tmp_path / "demos.zarr", **values))


# --- the bundled store


@pytest.fixture(scope="module")
def store() -> zarr.Group:
    return zarr.open_group(ASSETS_DIR / "pusht.zarr", mode="r")


def test_bundled_store_is_small_and_says_what_it_is(store: zarr.Group, expert: PushTExpert) -> None:
    files = [file for file in (ASSETS_DIR / "pusht.zarr").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 3e6
    assert len(files) < 25
    assert dict(store.attrs) == {**expert.attributes, "seed": 0}
    assert len(bundled("pusht").episode_ends) >= 150
    assert {key: bundled("pusht").shapes[key] for key in ("state", "keypoint", "action")} == {
        "state": (5,),
        "keypoint": (9, 2),
        "action": (2,),
    }


@pytest.mark.slow
def test_bundled_actions_reproduce_the_states_and_succeed() -> None:
    source = bundled("pusht")
    starts = [0, *source.episode_ends[:-1]]
    simulator = PushTSimulator()
    lengths, errors = [], []
    for start, end in zip(starts, source.episode_ends, strict=True):
        states, actions = source.read("state", start, end), source.read("action", start, end)
        # One physics step first, as at the environment's reset, for starts on which agent and T overlap.
        simulator.set_state(PushTState.at_rest(states[0]), settle=True)
        coverage = 0.0
        for state, action in zip(states, actions, strict=True):
            error = np.abs(simulator.observed_state() - state)
            errors.append(max(error[:4].max(), min(error[4], 2 * np.pi - error[4])))
            simulator.step(action)
            coverage = max(coverage, simulator.coverage())
        assert coverage > SUCCESS_COVERAGE
        lengths.append(len(actions))
    assert max(errors) < 0.05  # pixels or radians; the first state is rounded to float32
    assert max(lengths) <= MAX_STEPS
    assert np.mean(lengths) <= 150


def test_bundled_keypoints_belong_to_the_states() -> None:
    source = bundled("pusht")
    states, keypoints = source.read("state", 0, 500), source.read("keypoint", 0, 500)
    expected = np.stack([transform_points(KEYPOINTS, state[2:]) for state in states])
    np.testing.assert_allclose(keypoints, expected, atol=1e-3)


def test_bundled_episode_is_regenerated_bit_for_bit() -> None:
    """All of them: collect `episodes=200 seed=0` to another path and compare with `diff -r`."""
    source = bundled("pusht")
    config = OmegaConf.create({"expert": OmegaConf.load(CONFIG_DIR / "expert" / "pusht.yaml"), "seed": 0})
    index = int(np.argmin(np.diff(source.episode_ends))) + 1
    episode, _ = record(OmegaConf.to_container(config.expert), config.seed, index)
    start, end = source.episode_ends[index - 1 : index + 1]
    for key, values in episode.items():
        stored = source.read(key, start, end)
        assert stored.dtype == values.dtype and stored.tobytes() == values.tobytes()
