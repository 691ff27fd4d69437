"""What translates between LeRobot and this library; needs no LeRobot."""

import numpy as np
import pytest
import torch

from lerobot_policy_shortcut import gym_pusht, translation
from shortcut_envs.pusht.physics import BAR, KEYPOINTS, STEM, transform_points
from shortcut_policy.data import Field
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.errors import InputError

NAMES = {"observation.state": "state", "observation.images.top": "images_top"}


def test_keys_become_names_and_names_keys():
    assert translation.our_names(NAMES) == NAMES
    with pytest.raises(InputError, match="have no names of their own"):
        translation.our_names(["observation.a.b", "observation.a_b"])
    shapes = {"goal": (2,), "state": (4,)}
    keys = translation.lerobot_keys(shapes, {"goal": "observation.environment_state"})
    assert keys == {"goal": "observation.environment_state", "state": "observation.state"}


@pytest.mark.parametrize(
    ("given", "gym", "sentence"),
    [
        ({"gaol": "observation.state"}, False, r"--name=gaol=...: this policy observes goal, state"),
        ({"goal": "observation.state"}, False, "must be a key of its own"),
        ({"goal": "goal"}, False, "begins with observation., such as observation.state"),
        ({}, True, r"observe keypoint \[9, 2\], agent_pos \[2\].*this one observes goal \[2\], state \[4\]"),
    ],
)
def test_names_that_do_not_fit_are_refused(given, gym, sentence):
    with pytest.raises(InputError, match=sentence):
        translation.lerobot_keys({"goal": (2,), "state": (4,)}, given, gym)


def test_gym_pushts_corners_hold_our_keypoints():
    corners = {tuple(point) for point in gym_pusht.CORNERS}
    assert corners == {*BAR, *STEM}
    matrix = gym_pusht.keypoints_from_corners()
    rng = np.random.default_rng(0)
    for pose in rng.uniform([0, 0, -7], [512, 512, 7], (50, 3)):
        found = matrix @ transform_points(gym_pusht.CORNERS, pose).ravel()
        np.testing.assert_allclose(found, transform_points(KEYPOINTS, pose).ravel(), atol=1e-9)


def test_fields_have_pictures_with_their_channels_last():
    shapes = {"observation.state": (4,), "observation.images.top": (3, 48, 64)}
    fields = translation.make_fields(shapes, ["observation.images.top"], NAMES)
    assert fields["state"] == Field("observation.state", (4,))
    assert fields["images_top"] == Field("observation.images.top", (48, 64, 3), normalize="image")


def test_scaling_is_that_of_our_own_statistics():
    rows = np.random.default_rng(0).normal([3, -2, 7], [1, 5, 0], (50, 3))
    running = RunningStatistics()
    running.update(rows)
    told = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": torch.tensor(rows.std(0))}
    for scaling in ("limits", "gaussian"):
        fields = {"state": Field("observation.state", (3,), normalize=scaling)}
        made = translation.fit_normalizer(fields, {"state": "observation.state"}, {"observation.state": told})
        own = type(made)(fields, {"state": running})
        for name, value in own.state_dict().items():
            torch.testing.assert_close(made.state_dict()[name], value)
        assert made.state_dict()["state_scale"][2] == 0


@pytest.mark.parametrize(
    ("statistics", "sentence"),
    [
        ({}, "no statistics of observation.state"),
        ({"observation.state": dict.fromkeys(("min", "max", "mean", "std"), np.zeros(2))}, "are 2 numbers"),
        ({"observation.state": dict.fromkeys(("min", "max", "mean", "std"), np.full(3, np.nan))}, "hold NaN"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(statistics, sentence):
    fields = {"state": Field("observation.state", (3,))}
    with pytest.raises(InputError, match=sentence):
        translation.fit_normalizer(fields, {"state": "observation.state"}, statistics)


def test_elements_that_hardly_vary_are_named_and_actions_that_do_not_are_refused(capsys):
    fields = {"state": Field("observation.state", (2,)), "action": Field("action", (1,))}
    keys = {"state": "observation.state", "action": "action"}
    told = {"min": [0.0, 0.0], "max": [1.0, 5e-5], "mean": [0.5, 0.0], "std": [0.3, 1e-5]}
    action = {part: values[:1] for part, values in told.items()}
    translation.fit_normalizer(fields, keys, {"observation.state": told, "action": action})
    said = "observation.state of the data set: element [1] varies by 5e-05 only"
    assert said in capsys.readouterr().err
    action = {part: values[1:] for part, values in told.items()}
    with pytest.raises(InputError, match="and so do all of them: give its field less"):
        translation.fit_normalizer(fields, keys, {"observation.state": told, "action": action})


def test_batches_are_told_in_our_words():
    pixels = torch.randint(0, 256, (2, 2, 3, 4, 5), dtype=torch.uint8)
    batch = {"observation.state": torch.arange(16.0).reshape(2, 2, 4), "task": ["a", "b"]}
    batch["observation.images.top"] = pixels / 255
    shapes = {"state": (2, 2), "images_top": (4, 5, 3)}
    found = translation.observations(batch, NAMES, shapes, {"images_top"}, n_obs_steps=2)
    assert torch.equal(found["state"], batch["observation.state"].reshape(2, 2, 2, 2))
    assert torch.equal(found["images_top"], pixels.movedim(2, -1))
    with pytest.raises(InputError, match=r"observation.images.top is missing among observation.state"):
        translation.observations({"observation.state": 0}, NAMES, shapes, {"images_top"}, n_obs_steps=2)
    with pytest.raises(InputError, match=r"observation.state has shape \(2, 2, 4\), but .* sees 3 steps"):
        translation.observations(batch, NAMES, shapes, {"images_top"}, n_obs_steps=3)


@pytest.mark.parametrize("wrong", [200.0, -1.0, torch.nan])
def test_pictures_in_other_units_are_refused(wrong):
    names, pictures = {"observation.images.top": "images_top"}, torch.full((2, 3, 4, 5), 0.5)
    pictures[1, 0, 2, 2] = wrong
    with pytest.raises(
        InputError, match=r"images.top holds numbers from .*, and LeRobot's pictures are floats"
    ):
        translation.observations(
            {"observation.images.top": pictures},
            names,
            {"images_top": (4, 5, 3)},
            {"images_top"},
            n_obs_steps=1,
        )


def test_pictures_of_other_whole_numbers_keep_their_pixels():
    names, pixels = {"observation.images.top": "images_top"}, torch.arange(120).reshape(2, 3, 4, 5)
    given = {"observation.images.top": pixels}
    found = translation.observations(given, names, {"images_top": (3, 4, 5)}, {"images_top"}, n_obs_steps=1)
    assert torch.equal(found["images_top"][:, 0], pixels.to(torch.uint8))


@pytest.mark.parametrize("shape", [(4, 5, 3), (3, 4, 5)])
@pytest.mark.parametrize("kind", ["0..1", "bytes"])
def test_pictures_keep_their_pixels_wherever_the_policy_has_its_channels(shape, kind):
    pixels = torch.arange(2 * 2 * 3 * 4 * 5).reshape(2, 2, 3, 4, 5).to(torch.uint8)
    seen = pixels if kind == "bytes" else pixels / 255
    names = {"observation.images.top": "images_top"}
    batch = {"observation.images.top": seen}
    found = translation.observations(batch, names, {"images_top": shape}, {"images_top"}, n_obs_steps=2)
    wanted = pixels if shape[0] == 3 else pixels.movedim(2, -1)
    assert torch.equal(found["images_top"], wanted)
    one = {"observation.images.top": seen[:, 0]}
    found = translation.observations(one, names, {"images_top": shape}, {"images_top"}, n_obs_steps=1)
    assert torch.equal(found["images_top"], wanted[:, :1])
    turned = {"observation.images.top": seen.mT}
    with pytest.raises(InputError, match=r"\(2, 2, 3, 5, 4\), but this policy sees 2 steps of \(3, 4, 5\)"):
        translation.observations(turned, names, {"images_top": shape}, {"images_top"}, n_obs_steps=2)


@pytest.mark.parametrize(
    ("pictures", "crop"),
    [
        ([(3, 96, 96)], [84, 84]),
        ([(3, 480, 640), (3, 480, 640)], [420, 560]),
        ([(3, 96, 96), (3, 32, 32)], None),
        ([(3, 4, 96)], None),
    ],
)
def test_the_usual_crop_leaves_an_eighth_of_a_picture(pictures, crop):
    assert translation.usual_crop(pictures) == crop


def test_depth_cameras_are_refused():
    translation.check_no_depth(["observation.images.depth"], ["observation.state"])
    with pytest.raises(InputError, match=r"observation.images.depth is a depth camera"):
        translation.check_no_depth(["observation.images.depth"], [*NAMES, "observation.images.depth"])


SPEC = {"objective": {"_target_": "a.Shortcut"}, "backbone": {"_target_": "a.ConditionalUnet1D"}}


def test_what_is_known_of_a_policy_comes_back_as_it_was():
    known = {"method": "mine", "objective": "shortcut", "backbone": "conditional_unet1d", "seed": 3}
    assert translation.metadata_of(SPEC, known, 0, {"seed": 1000}) == known


def test_a_training_in_lerobot_is_told():
    training = {"dataset": {"repo_id": "user/reach"}, "seed": 1000, "batch_size": 8}
    found = translation.metadata_of(SPEC, {}, 500, training)
    assert found["task"] == {"name": "reach", "env": None} and found["dataset"] == "user/reach"
    assert (found["train_steps"], found["seed"], found["trained_by"]) == (500, 1000, "lerobot")
    assert found["method"] == "shortcut" and "init_from" not in found
    known = {"method": "mine", "seed": 3, "task": {"name": "pusht", "env": None}}
    found = translation.metadata_of(SPEC, known, 500, training)
    assert found["init_from"] == known and found["seed"] == 1000 and found["task"]["name"] == "pusht"
