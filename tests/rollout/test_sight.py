"""What films of policies with cameras show."""

import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
from gymnasium import spaces

from shortcut_policy.data import Field, Normalizer
from shortcut_policy.errors import InputError
from shortcut_policy.policy import Policy
from shortcut_policy.recipes import recipe
from shortcut_policy.rollout.play import rollout
from shortcut_policy.rollout.recorder import EpisodeRecorder
from shortcut_policy.rollout.sight import Sight
from shortcut_policy.serving.protocol import Options
from shortcut_policy.serving.sessions import Session

ACTION = Field("action", (2,), normalize="identity")


class Scene(gymnasium.Env):
    """A camera of 24 x 32 and a scene of 48 x 64."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Dict({"camera": spaces.Box(0, 255, (24, 32, 3), np.uint8)})
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return self._observe(), {}

    def step(self, action):
        self.steps += 1
        return self._observe(), 0.0, self.steps == 3, False, {"is_success": False}

    def render(self):
        return np.full((48, 64, 3), 200, np.uint8)

    def _observe(self):
        return {"camera": np.full((24, 32, 3), 100, np.uint8)}


def policy(shape=(24, 32, 3), **settings) -> Policy:
    obs = {"camera": Field("camera", shape, normalize="image")}
    spec = recipe("encoder", "image_light", **({"crop": 16, "n_points": 4} | settings))
    backbone = recipe("backbone", "unet_small", down_dims=[8, 16], embedding_dim=16)
    made = Policy.build(obs, ACTION, encoder=spec, backbone=backbone)
    made.normalizer = Normalizer({**obs, "action": ACTION}, {})
    return made


@pytest.mark.parametrize("shape", [(24, 32, 3), (3, 24, 32), (24, 32, 1)])
def test_the_picture_the_crop_and_the_points(shape):
    seen = Sight(policy(shape))({"camera": np.full(shape, 100, np.uint8)}, 48)
    assert seen.shape == (48, 64, 3) and seen.dtype == np.uint8
    colours = {tuple(colour) for colour in seen.reshape(-1, 3).tolist()}
    assert {(100, 100, 100), (90, 90, 90)} <= colours
    assert any(max(colour) - min(colour) == 255 for colour in colours), "no point"
    # The crop of 16 begins 4 pixels from the top and 8 from the left, twice as large here.
    assert tuple(seen[8, 40]) == tuple(seen[30, 16]) == (90, 90, 90)


def test_encoders_without_points_show_the_picture():
    seen = Sight(policy(pool="average"))({"camera": np.full((24, 32, 3), 100, np.uint8)}, 48)
    assert {tuple(colour) for colour in seen.reshape(-1, 3).tolist()} == {(100, 100, 100), (90, 90, 90)}


def test_a_film_has_both(tmp_path):
    env = EpisodeRecorder(Scene(), tmp_path, [7], [], Sight(policy()))
    env.reset(seed=7)
    for _ in range(3):
        env.step(np.zeros(2))
    frames = [frame for frame in imageio.get_reader(tmp_path / "episode_7.mp4")]
    assert len(frames) == 4 and frames[0].shape == (48, 128, 3)
    assert abs(frames[0][:, :64].mean() - 200) < 3 and frames[0][:, 64:].mean() < 150


@pytest.mark.parametrize(
    ("picture", "numbers"),
    [
        (np.full((24, 32, 3), 0.5), "0.5 to 0.5"),
        (np.full((24, 32, 3), 256.0), "256"),
        (np.full((24, 32, 3), -1), "-1"),
    ],
)
def test_pictures_in_other_units_are_refused(picture, numbers):
    made = policy()
    for call in (
        lambda: made.act({"camera": np.stack([picture] * 2)[None]}),
        lambda: made.select_action({"camera": picture}),
    ):
        with pytest.raises(InputError, match=rf"'camera' holds numbers from .*{numbers}.*as bytes"):
            call()
    bright = np.full((24, 32, 3), 200.0)
    assert np.allclose(
        made.select_action({"camera": bright}), policy().select_action({"camera": bright.astype(np.uint8)})
    )


DARK = np.tile(np.array([0, 1], np.uint8), (24, 16))[..., None].repeat(3, axis=2)


def test_a_dark_camera_ends_no_rollout():
    class Night(Scene):
        def _observe(self):
            return {"camera": DARK}

    assert [one.error for one in rollout(policy(), Night, range(2))] == ["", ""]


@pytest.mark.parametrize("dtype", [np.int64, np.uint16])
def test_a_server_takes_dark_pictures_of_whole_numbers(dtype):
    asked = Session(policy(), steps=1, largest_steps=8, seed=0).ask({"camera": DARK.astype(dtype)}, Options())
    assert asked.obs["camera"].dtype == np.uint8 and np.array_equal(asked.obs["camera"], [DARK, DARK])


def test_a_picture_turned_around_is_taken():
    picture = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    expected = policy().select_action({"camera": picture[..., ::-1].copy()})
    assert np.array_equal(policy().select_action({"camera": picture[..., ::-1]}), expected)
