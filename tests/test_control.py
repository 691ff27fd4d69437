"""One observation in, one action out."""

from collections.abc import Iterator
from copy import deepcopy
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

from shortcut_policy.control import as_pixels
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.rollout.play import rollout

SHAPES = {"keypoint": (9, 2), "agent_pos": (2,)}


class Drifting(gymnasium.Env):
    """Observations that follow the actions, so that one other action changes all that come; 29 steps."""

    observation_space = gymnasium.spaces.Dict(
        {name: gymnasium.spaces.Box(0, 512, shape, np.float32) for name, shape in SHAPES.items()}
    )
    action_space = gymnasium.spaces.Box(0, 512, (2,), np.float32)
    played: list[np.ndarray]

    def _obs(self):
        return {"keypoint": np.tile(self.place, (9, 1)), "agent_pos": self.place}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.played = self.np_random.uniform(100, 400, 2).astype(np.float32), []
        return self._obs(), {}

    def step(self, action):
        self.played.append(np.array(action))
        self.place = np.float32(0.9) * self.place + np.float32(0.1) * np.asarray(action, np.float32)
        return self._obs(), 0.0, False, len(self.played) == 29, {"is_success": False}


@pytest.fixture
def policy(tiny_policy: Policy) -> Policy:
    return tiny_policy


def observations() -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    while True:
        yield {name: rng.uniform(50, 450, shape).astype(np.float32) for name, shape in SHAPES.items()}


def batch_of(*steps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.stack([step[name] for step in steps])[None] for name in SHAPES}


@pytest.mark.parametrize("steps", [1, "auto"])
def test_the_loop_plays_what_a_rollout_plays(policy: Policy, steps):
    """Bit for bit, over four chunks, the last of them cut."""
    env = Drifting()
    rollout(policy, lambda: env, [100_007], steps, seed=3, num_envs=1, batch_size=1)
    expected, ours = env.played, Drifting()
    obs, _ = ours.reset(seed=100_007)
    policy.reset(steps, seed=3, episode=100_007)
    over = False
    while not over:
        obs, _, _, over, _ = ours.step(policy.select_action(obs))
    assert len(expected) == 29
    assert np.array_equal(ours.played, expected)


def test_the_first_observation_fills_the_history_which_then_rolls(policy: Policy):
    steps = observations()
    seen = [next(steps) for _ in range(9)]
    policy.reset(generator=torch.Generator().manual_seed(0))
    actions = [policy.select_action(obs) for obs in seen]
    generator = torch.Generator().manual_seed(0)
    first = policy.act(batch_of(seen[0], seen[0]), 1, generator)[0].numpy()
    second = policy.act(batch_of(seen[7], seen[8]), 1, generator)[0].numpy()
    assert np.array_equal(actions, [*first, second[0]])
    assert actions[0].shape == (2,) and actions[0].dtype == np.float32


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_robot_may_use_its_arrays_again(policy: Policy, kind):
    """The observation that was seen counts, and not what its array holds later."""
    steps = observations()
    seen = [next(steps) for _ in range(9)]
    reused = {name: kind(value) for name, value in seen[0].items()}
    policy.reset(seed=1)
    played = []
    for obs in seen:
        for name, value in obs.items():
            reused[name][:] = kind(value)
        action = policy.select_action(reused)
        played.append(action.copy())
        action[:] = np.nan  # nor do we look at what a caller does with an action
    policy.reset(seed=1, episode=0)
    assert np.array_equal(played, [policy.select_action(obs) for obs in seen])


def test_episodes_count_up_and_have_noise_of_their_own(policy: Policy):
    obs = next(observations())

    def first(**reset) -> list[float]:
        policy.reset(**reset)
        return policy.select_action(obs).tolist()

    without = policy.select_action(obs).tolist()  # resets with the defaults: episode 0
    episodes = [first(), first(), first(seed=5)]
    assert without == first(seed=0, episode=0)
    assert episodes == [first(episode=1), first(episode=2), first(seed=5, episode=3)]
    assert len({tuple(action) for action in [without, *episodes]}) == 4


def test_an_episode_is_no_part_of_the_weights(policy: Policy):
    before = list(policy.state_dict())
    policy.reset(generator=torch.Generator())
    policy.select_action(next(observations()))
    assert list(policy.state_dict()) == before
    deepcopy(policy).select_action(next(observations()))


def test_names_that_a_policy_does_not_know_are_ignored(policy: Policy):
    obs = next(observations())
    policy.reset()
    expected = policy.select_action(obs)
    policy.reset(episode=0)
    assert np.array_equal(policy.select_action({**obs, "camera": np.zeros((4, 4, 3))}), expected)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"agent_pos": None}, "observes .*, and agent_pos is missing among"),
        (
            {"agent_pos": np.zeros((1, 2))},
            r"'agent_pos' has shape \[1, 2\], expected \[2\]: one step",
        ),
        ({"agent_pos": np.full(2, np.nan)}, "agent_pos holds NaN or infinity"),
    ],
)
def test_observations_that_do_not_fit(policy: Policy, change, sentence):
    obs = {name: value for name, value in (next(observations()) | change).items() if value is not None}
    policy.reset()
    with pytest.raises(InputError, match=sentence):
        policy.select_action(obs)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"steps": 3}, "steps=3"),
        ({"seed": -1}, "seed=-1 must be a whole number from 0 on"),
        ({"episode": 0.5}, "episode=0.5 must be a whole number"),
        ({"seed": 0, "generator": torch.Generator()}, "both decide the noise"),
    ],
)
def test_resets_that_cannot_be(policy: Policy, arguments, sentence):
    with pytest.raises(InputError, match=sentence):
        policy.reset(**arguments)


def test_what_was_refused_is_not_kept_and_another_type_is_one_sentence(tiny_policy):
    policy = tiny_policy
    good = {name: np.zeros(shape, np.float32) for name, shape in policy.obs_shapes.items()}
    name = next(iter(good))
    policy.reset(seed=0, episode=0)
    for bad, sentence in (
        ({**good, name: np.full_like(good[name], np.nan)}, "holds NaN or infinity"),
        ({**good, name: "hello"}, "must be real numbers"),
        ({**good, name: None}, "must be real numbers"),
        ({**good, name: [[1.0], [1.0, 2.0]]}, "is no array"),
        ({**good, name: good[name].astype(complex)}, "must be real numbers"),
        (None, "must be a mapping"),
        (np.zeros(3), "must be a mapping"),
        ({}, "is missing among"),
    ):
        with pytest.raises(InputError, match=sentence):
            policy.select_action(bad)
    first = policy.select_action(good)
    policy.reset(seed=0, episode=0)
    np.testing.assert_array_equal(first, policy.select_action(good))


def test_an_action_that_is_not_finite_is_refused(tiny_policy):
    huge = {name: np.full(shape, 1e38, np.float32) for name, shape in tiny_policy.obs_shapes.items()}
    policy = tiny_policy
    policy.reset(seed=0)
    with pytest.raises(InputError, match="no finite action for these observations"):
        policy.select_action(huge)


def test_an_observation_far_from_the_data_is_said_once_and_can_be_clamped(policy: Policy, capsys):
    obs = batch_of(*[next(observations()) for _ in range(2)])
    far = {name: value.copy() for name, value in obs.items()}
    far["keypoint"][:, :, 3, 1] = 5e4
    for _ in range(2):
        policy.act(far, generator=torch.Generator().manual_seed(0))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("observation 'keypoint', element [3, 1], is 50000, and the data")
    tensors = policy.check_histories(far)
    policy.obs_clamp = 1.5
    assert policy._normalized(tensors)["keypoint"].amax() == 1.5
    assert Policy.from_spec({**policy.spec, "obs_clamp": 2}).obs_clamp == 2
    for none in (1e300, 10**30):
        policy.obs_clamp = none
        assert policy._normalized(tensors)["keypoint"].amax() > 100
    with pytest.raises(InputError, match=r"obs_clamp=0.5 must be at least 1, in normalised units"):
        Policy.from_spec({**policy.spec, "obs_clamp": 0.5})


@pytest.mark.parametrize("size", [0, -1.5, 0.5, True, "a", float("nan")])
def test_a_clamp_below_the_data_is_refused_whenever_it_is_set(policy: Policy, size: object):
    with pytest.raises(InputError, match="must be at least 1, in normalised units"):
        policy.obs_clamp = size
    assert policy.obs_clamp is None
    policy.obs_clamp = 2
    assert policy.spec["obs_clamp"] == 2


def test_a_clamp_is_part_of_a_graph_and_said_with_values_outside_it(policy: Policy, capsys):
    far = batch_of(*[{name: 1e5 * value for name, value in next(observations()).items()} for _ in range(2)])
    policy.obs_clamp = 1.5
    policy.act(far)
    assert "the network gets 1.5 where it knows about 1 (obs_clamp=1.5); check" in capsys.readouterr().err
    policy.runtime = SimpleNamespace(steps=1)
    policy.obs_clamp = 1.5
    with pytest.raises(
        InputError, match=r"obs_clamp=1.5 is part of the graph .* set it to None in the policy"
    ):
        policy.obs_clamp = None


@pytest.mark.parametrize(
    "turned",
    [
        lambda x: np.ascontiguousarray(x[..., ::-1])[..., ::-1],
        lambda x: x.astype(x.dtype.newbyteorder()),
        lambda x: x.astype(np.longdouble),
    ],
    ids=["backwards", "other byte order", "long double"],
)
def test_arrays_that_torch_does_not_take_are_those_that_it_takes(policy: Policy, turned):
    obs = batch_of(next(observations()), next(observations()))
    odd = {name: turned(x) for name, x in obs.items()}
    expected = policy.act(obs, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.act(odd, generator=torch.Generator().manual_seed(0)), expected)
    policy.reset(seed=0)
    assert np.isfinite(policy.select_action({name: x[0, 0] for name, x in odd.items()})).all()


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: torch.tensor(x, requires_grad=True),
        lambda x: torch.tensor(x).to_sparse(),
        lambda x: [torch.tensor(row) for row in x],
    ],
    ids=["gradient", "sparse", "list of tensors"],
)
def test_tensors_of_any_kind_are_the_numbers_in_them(policy: Policy, kind):
    obs = batch_of(next(observations()), next(observations()))
    expected = policy.act(obs, generator=torch.Generator().manual_seed(0))
    found = policy.act({name: kind(x) for name, x in obs.items()}, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, expected) and not found.requires_grad
    policy.reset(seed=0)
    first = policy.select_action({name: x[0, 0] for name, x in obs.items()})
    policy.reset(seed=0, episode=0)
    second = {name: x[0, 0] if isinstance(kind(x), list) else kind(x[0, 0]) for name, x in obs.items()}
    np.testing.assert_array_equal(policy.select_action(second), first)


def test_floats_of_8_bits_are_the_numbers_that_they_stand_for(policy: Policy):
    obs = batch_of(next(observations()), next(observations()))
    eighth = {name: torch.tensor(x / 2).to(torch.float8_e4m3fn) for name, x in obs.items()}
    expected = policy.act({name: x.float() for name, x in eighth.items()}, generator=noise())
    assert torch.equal(policy.act(eighth, generator=noise()), expected)
    policy.reset()
    assert np.isfinite(policy.select_action({name: x[0, 0] for name, x in eighth.items()})).all()


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_numbers_that_are_not_there_are_one_sentence(policy: Policy):
    """NumPy and torch would put something in their place, or fail."""
    obs = batch_of(next(observations()), next(observations()))
    for kind, sentence in (
        (lambda x: np.ma.masked_greater(x, 200), "observation 'keypoint' has numbers that are masked"),
        (lambda x: torch.tensor(x, device="meta"), "observation 'keypoint' is a tensor on the device 'meta'"),
        (lambda x: torch.nested.nested_tensor([torch.tensor(x[0])]), "'keypoint' is a tensor of tensors"),
    ):
        with pytest.raises(InputError, match=sentence):
            policy.act({name: kind(x) for name, x in obs.items()})
    kept = {name: np.ma.masked_greater(x, 1e9) for name, x in obs.items()}
    assert torch.equal(policy.act(kept, generator=noise()), policy.act(obs, generator=noise()))
    for kind in (lambda x: np.ma.masked_greater(x, 200), lambda x: torch.tensor(x, device="meta")):
        with pytest.raises(InputError, match="observation 'keypoint' "):
            policy.select_action({name: kind(x[0, 0]) for name, x in obs.items()})


def test_batches_of_different_sizes_and_of_no_row_are_one_sentence(policy: Policy):
    obs = batch_of(next(observations()), next(observations()))
    with pytest.raises(InputError, match=r"have 2 \(keypoint\), 1 \(agent_pos\) rows: give all the same"):
        policy.act({**obs, "keypoint": obs["keypoint"].repeat(2, 0)})
    with pytest.raises(InputError, match=r"have 0 \(keypoint\), 0 \(agent_pos\) rows"):
        policy.act({name: x[:0] for name, x in obs.items()})


DARK = np.array([[[0, 1, 1], [1, 0, 0]]], np.uint8)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.int64, np.uint64])
def test_a_dark_picture_of_whole_numbers_is_one_in_0_to_255(dtype: type):
    for picture in (torch.from_numpy(DARK.astype(dtype)), torch.zeros(1, 2, 3, dtype=torch.int32) + 255):
        pixels = as_pixels("cam", picture)
        assert pixels.dtype == torch.uint8 and torch.equal(pixels.int(), picture.int())


def test_pictures_of_true_and_false_are_black_and_white_and_other_numbers_are_refused():
    assert torch.equal(as_pixels("cam", torch.from_numpy(DARK == 1)), torch.from_numpy(255 * DARK))
    for wrong in (DARK / 255, DARK.astype(np.float32), -DARK.astype(np.int16), DARK.astype(np.uint16) * 256):
        with pytest.raises(InputError, match=r"'cam' holds numbers from .* give it as bytes"):
            as_pixels("cam", torch.from_numpy(wrong))


@pytest.mark.parametrize("of_many", [1.0, 255.0])
def test_a_picture_in_0_to_1_is_found_among_others_and_brightened_a_little(of_many: float):
    """Resizing and sharpening overshoot, and a batch may hold the pictures of two sources."""
    picture = torch.linspace(0, 1.03, 4 * 4 * 3).reshape(4, 4, 3)
    for wrong in (picture, torch.stack([of_many * picture.clamp(max=1), picture])[None]):
        with pytest.raises(InputError, match=r"holds numbers from 0 to 1\.03, and this policy sees pixels"):
            as_pixels("cam", wrong)
    dark = torch.stack([picture.round(), (200 * picture).clamp(max=255)])
    assert as_pixels("cam", dark) is dark
