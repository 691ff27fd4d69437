"""Cameras in LeRobot itself: training, checkpoints of either kind, actions; passed over without it."""

import json
import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("lerobot")

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.envs.utils import preprocess_observation
from lerobot.policies import make_pre_post_processors
from lerobot.scripts import lerobot_eval, lerobot_train

from lerobot_policy_shortcut import ShortcutConfig, ShortcutPolicy
from lerobot_policy_shortcut.convert import from_lerobot, main
from shortcut_policy import Field, Policy, load_policy, recipe, save_policy
from shortcut_policy.data import Normalizer
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.errors import InputError

#: Written by LeRobot: a video of 32 x 32, pictures of 16 x 8, and numbers.
SQUARES = Path(__file__).resolve().parents[3] / "tests/fixtures/lerobot_v3"
TOP, HAND, STATE = "observation.images.top", "observation.images.hand", "observation.state"
#: What observes the top camera alone.
TOP_ALONE = {
    STATE: {"type": "STATE", "shape": [3]},
    TOP: {"type": "VISUAL", "shape": [3, 32, 32]},
}
SMALL = {"down_dims": [16, 32], "embedding_dim": 16}
UPDATES = 6


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """A command of LeRobot's in this process."""

    def run(module, **options: object) -> None:
        given = [
            f"--{key}={value if isinstance(value, str) else json.dumps(value)}"
            for key, value in options.items()
        ]
        monkeypatch.setattr(sys, "argv", [module.__name__, *given])
        logging.disable(logging.INFO)
        try:
            module.main()
        finally:
            logging.disable(logging.NOTSET)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return run


def settings(output: Path, **changes: object) -> dict[str, object]:
    """Options of a short training on `SQUARES`."""
    return {
        "policy.type": "shortcut",
        "policy.push_to_hub": False,
        "policy.device": "cpu",
        "policy.backbone_settings": SMALL,
        "dataset.repo_id": "local/squares",
        "dataset.root": str(SQUARES),
        "batch_size": 4,
        "steps": UPDATES,
        "save_freq": UPDATES // 2,
        "num_workers": 0,
        "seed": 0,
        "output_dir": str(output),
        **changes,
    }


def saved(output: Path, updates: int) -> Path:
    return output / f"checkpoints/{updates:06d}/pretrained_model"


def loaded(folder: Path, *changes: str):
    """A policy of LeRobot's folder, and what comes before and after it."""
    config = PreTrainedConfig.from_pretrained(folder, cli_overrides=list(changes))
    config.pretrained_path = folder
    policy = ShortcutPolicy.from_pretrained(folder, config=config)
    return policy, *make_pre_post_processors(config, str(folder))


@pytest.mark.parametrize("cameras", [1, 2])
def test_a_training_with_cameras_goes_on_bit_for_bit_and_its_policy_is_one_of_ours(
    cameras: int, command, tmp_path: Path
):
    output = tmp_path / "run"
    observed = {"policy.input_features": TOP_ALONE} if cameras == 1 else {}
    command(lerobot_train, **settings(output, **observed))
    wanted = load_file(saved(output, UPDATES) / "model.safetensors")
    shutil.rmtree(saved(output, UPDATES).parent)
    half = saved(output, UPDATES // 2)
    command(lerobot_train, config_path=str(half / "train_config.json"), resume=True)
    found = load_file(saved(output, UPDATES) / "model.safetensors")
    assert any(
        not torch.equal(found[name], value) for name, value in load_file(half / "model.safetensors").items()
    )
    assert {name for name, value in wanted.items() if not torch.equal(found[name], value)} == set()

    from_lerobot(saved(output, UPDATES), tmp_path / "ours")
    ours = load_policy(tmp_path / "ours")
    assert ours.metadata["train_steps"] == UPDATES
    assert len(ours.cameras) == cameras and ours.encoder.cameras
    # Cameras of different sizes have no crop in common.
    assert ours.encoder.sizes["images_top"] == ((28, 28) if cameras == 1 else (32, 32))
    theirs, before, after = loaded(saved(output, UPDATES), "--sampling_seed=0", "--sampling_steps=2")
    ours.reset(2, seed=0, episode=0)
    data = LeRobotDataset("local/squares", root=SQUARES)
    for row in range(12):  # an episode as it was recorded: two chunks
        frame = {key: value for key, value in data[row].items() if key.startswith("observation.")}
        obs = {"state": frame[STATE].numpy()}
        for key in (TOP, HAND)[:cameras]:
            obs[key.removeprefix("observation.").replace(".", "_")] = pixels(frame[key])
        given = after(theirs.select_action(before(frame)))
        np.testing.assert_allclose(given[0].numpy(), ours.select_action(obs), rtol=1e-5, atol=1e-6)


def pixels(picture: torch.Tensor) -> np.ndarray:
    """The bytes (H, W, C) of a picture (C, H, W) in 0..1."""
    return np.rint(picture.numpy() * 255).astype(np.uint8).transpose(1, 2, 0)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A policy of ours, untrained, with two cameras, one of which has its channels first."""
    fields = {
        "image": Field("image", (96, 96, 3), normalize="image"),
        "wrist": Field("wrist", (3, 48, 64), normalize="image"),
        "agent_pos": Field("state", (2,)),
    }
    action = Field("action", (2,))
    policy = Policy.build(
        fields,
        action,
        backbone=recipe("backbone", "unet", **SMALL),
        encoder=recipe("encoder", "image_light", crop=40),
        task="pusht",
    )
    running = {name: RunningStatistics() for name in ("agent_pos", "action")}
    for statistics in running.values():
        statistics.update(np.random.default_rng(0).uniform(0, 512, (10, 2)))
    policy.normalizer = Normalizer({**fields, "action": action}, running)
    save_policy(policy, tmp_path / "ours")
    return tmp_path / "ours"


def test_a_checkpoint_with_pictures_goes_there_and_back(checkpoint: Path, tmp_path: Path):
    names = {"image": "observation.image", "agent_pos": STATE}
    main(
        [str(checkpoint), str(tmp_path / "theirs"), *(f"--name={name}={key}" for name, key in names.items())]
    )
    main([str(tmp_path / "theirs"), str(tmp_path / "back")])
    ours, back = load_policy(checkpoint), load_policy(tmp_path / "back")
    assert (ours.spec, ours.metadata) == (back.spec, back.metadata)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, back.state_dict()[name])
    theirs, before, after = loaded(tmp_path / "theirs", "--sampling_seed=3", "--sampling_steps=4")
    assert theirs.config.input_features["observation.wrist"] == PolicyFeature(FeatureType.VISUAL, (3, 48, 64))
    rows = [load_policy(checkpoint) for _ in range(2)]
    for row, policy in enumerate(rows):
        policy.reset(steps=4, seed=3, episode=row)
    random = np.random.default_rng(1)
    for _ in range(20):  # three chunks
        image = random.integers(0, 256, (2, 96, 96, 3), np.uint8)
        wrist = random.integers(0, 256, (2, 48, 64, 3), np.uint8)
        place = random.uniform(0, 512, (2, 2)).astype(np.float32)
        seen = preprocess_observation({"pixels": image, "agent_pos": place})
        seen["observation.wrist"] = preprocess_observation({"pixels": wrist})["observation.image"]
        actions = after(theirs.select_action(before(seen)))
        for row, policy in enumerate(rows):
            obs = {"image": image[row], "wrist": wrist[row].transpose(2, 0, 1), "agent_pos": place[row]}
            np.testing.assert_allclose(actions[row].numpy(), policy.select_action(obs), rtol=1e-5, atol=1e-3)


def test_a_training_sees_another_crop_and_play_the_middle_one():
    config = ShortcutConfig(
        input_features={"observation.image": PolicyFeature(FeatureType.VISUAL, (3, 32, 32))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        backbone_settings=SMALL,
        device="cpu",
        training_steps=10,
    )
    statistics = {
        part: np.full(2, value) for part, value in (("min", -1), ("max", 1), ("mean", 0), ("std", 1))
    }
    policy = ShortcutPolicy(config, dataset_stats={"action": statistics})
    policy.training_seed.fill_(0)  # both batches meet the same noise
    picture = torch.rand(8, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    framed = picture.clone()
    framed[..., 2:-2, 2:-2] = 0
    framed = picture - framed  # the middle 28 x 28 alone
    action = torch.zeros(8, 16, 2)
    losses = {}
    for training in (True, False):
        policy.train(training)
        both = [
            policy.forward({"observation.image": x, "action": action}, "none")[0] for x in (picture, framed)
        ]
        losses[training] = torch.equal(*both)
    assert losses == {True: False, False: True}


def test_pictures_of_another_size_and_depth_are_refused(command, tmp_path: Path):
    folder = tmp_path / "depth"
    axes = ["height", "width", "channels"]
    features = {
        "observation.images.depth": {
            "dtype": "image", "shape": (32, 32, 1), "names": axes, "info": {"is_depth_map": True},
        },
        STATE: {"dtype": "float32", "shape": (3,), "names": None},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    }  # fmt: skip
    data = LeRobotDataset.create("local/depth", fps=10, features=features, root=folder, use_videos=False)
    for _ in range(12):
        depth = np.full((32, 32, 1), 700, np.uint16)
        frame = {"observation.images.depth": depth, STATE: np.zeros(3, np.float32), "task": "see"}
        data.add_frame({**frame, "action": np.zeros(2, np.float32)})
    data.save_episode()
    data.finalize()
    given = settings(tmp_path / "run", **{"dataset.root": str(folder), "dataset.repo_id": "local/depth"})
    with pytest.raises(InputError, match=r"observation.images.depth is a depth camera"):
        command(lerobot_train, **given)
    given["policy.input_features"] = {STATE: TOP_ALONE[STATE]}
    command(lerobot_train, **given, **{"log_freq": 0})
    assert saved(tmp_path / "run", UPDATES).is_dir()


def test_gym_pusht_is_played_from_pixels(checkpoint: Path, command, tmp_path: Path, monkeypatch):
    pytest.importorskip("gym_pusht")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    fields = {"image": Field("image", (96, 96, 3), normalize="image"), "agent_pos": Field("state", (2,))}
    policy = Policy.build(
        fields, Field("action", (2,)), backbone=recipe("backbone", "unet", **SMALL), encoder="image_light"
    )
    given = load_policy(checkpoint).normalizer.state_dict()
    policy.load_state_dict(
        {f"normalizer.{key}": value for key, value in given.items() if "wrist" not in key}, strict=False
    )
    save_policy(policy, tmp_path / "pixels")
    names = ["--name=image=observation.image", f"--name=agent_pos={STATE}"]
    main([str(tmp_path / "pixels"), str(tmp_path / "theirs"), *names])
    options = {
        "policy.path": str(tmp_path / "theirs"),
        "policy.device": "cpu",
        "policy.sampling_seed": 0,
        "env.type": "pusht",
        "env.obs_type": "pixels_agent_pos",
        "env.episode_length": 20,
        "eval.use_async_envs": False,
        "eval.n_episodes": 2,
        "eval.batch_size": 2,
        "seed": 0,
    }
    command(lerobot_eval, **options, output_dir=str(tmp_path / "eval"))
    (task,) = json.loads((tmp_path / "eval/eval_info.json").read_text())["per_task"]
    assert len(task["metrics"]["max_rewards"]) == 2
    options["env.obs_type"] = "environment_state_agent_pos"
    with pytest.raises(
        InputError, match=r"observation.image is missing among .*observation.environment_state"
    ):
        command(lerobot_eval, **options, output_dir=str(tmp_path / "other"))
