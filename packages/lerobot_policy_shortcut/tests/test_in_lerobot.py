"""The policy in LeRobot itself; passed over where there is none."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("lerobot")

from lerobot.configs import FeatureType, PolicyFeature, PreTrainedConfig
from lerobot.policies import make_policy_config, make_pre_post_processors
from lerobot.policies.factory import get_policy_class
from lerobot.utils.import_utils import register_third_party_plugins

from lerobot_policy_shortcut import ShortcutConfig, ShortcutPolicy
from lerobot_policy_shortcut.convert import from_lerobot, main, to_lerobot
from lerobot_policy_shortcut.optimizer_shortcut import Joined, ShortcutSchedulerConfig
from shortcut_envs.pusht.physics import transform_points
from shortcut_policy import Field, Policy, load_policy, save_policy
from shortcut_policy.data import Normalizer
from shortcut_policy.data.normalizer import RunningStatistics
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import AnchoredShortcut
from shortcut_policy.paths import CONFIG_DIR

TINY = {"backbone_settings": {"down_dims": [16, 32], "embedding_dim": 16}, "device": "cpu"}
STATS = {
    key: {part: np.full(size, value) for part, value in (("min", -2), ("max", 3), ("mean", 0), ("std", 1))}
    for key, size in (("observation.state", 4), ("action", 2))
}


def make(**settings: object) -> ShortcutPolicy:
    config = ShortcutConfig(
        input_features={"observation.state": PolicyFeature(FeatureType.STATE, (4,))},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (2,))},
        **{**TINY, "training_steps": 10, **settings},
    )
    torch.manual_seed(0)
    return ShortcutPolicy(config, dataset_stats=STATS)


def batch(rows: int = 8) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = torch.rand(rows, 2, 4, generator=generator)
    return {"observation.state": state, "action": torch.rand(rows, 16, 2, generator=generator)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A policy of ours, untrained."""
    fields = {"keypoint": Field("keypoint", (9, 2)), "agent_pos": Field("state", (2,))}
    action = Field("action", (2,))
    policy = Policy.build(fields, action, backbone="unet_small", task="pusht")
    running = {}
    for name, field in {**fields, "action": action}.items():
        running[name] = RunningStatistics()
        running[name].update(np.random.default_rng(0).uniform(0, 512, (10, *field.shape)))
    policy.normalizer = Normalizer({**fields, "action": action}, running)
    save_policy(policy, tmp_path / "ours")
    return tmp_path / "ours"


def test_lerobot_finds_the_policy_by_its_name():
    register_third_party_plugins()
    assert get_policy_class("shortcut") is ShortcutPolicy
    assert isinstance(make_policy_config("shortcut", device="cpu"), ShortcutConfig)


def test_a_checkpoint_goes_there_and_back(checkpoint: Path, tmp_path: Path):
    to_lerobot(checkpoint, tmp_path / "theirs", gym_pusht=True)
    from_lerobot(tmp_path / "theirs", tmp_path / "back")
    ours, back = load_policy(checkpoint), load_policy(tmp_path / "back")
    for name, value in ours.state_dict().items():
        assert torch.equal(value, back.state_dict()[name])
    assert (ours.spec, ours.metadata) == (back.spec, back.metadata)
    for name in ("ours/policy.safetensors", "back/policy.safetensors"):
        assert (tmp_path / name).is_file()


def test_a_converted_policy_acts_as_ours_on_what_gym_pusht_observes(checkpoint: Path, tmp_path: Path):
    from lerobot_policy_shortcut.gym_pusht import CORNERS
    from shortcut_envs.pusht.physics import KEYPOINTS

    main([str(checkpoint), str(tmp_path / "theirs"), "--gym-pusht"])
    config = PreTrainedConfig.from_pretrained(
        tmp_path / "theirs", cli_overrides=["--sampling_steps=2", "--sampling_seed=0", "--first_episode=7"]
    )
    config.pretrained_path = tmp_path / "theirs"
    theirs = ShortcutPolicy.from_pretrained(tmp_path / "theirs", config=config)
    before, after = make_pre_post_processors(config, str(tmp_path / "theirs"))
    ours = [load_policy(checkpoint) for _ in range(2)]
    for row, policy in enumerate(ours):
        policy.reset(steps=2, seed=0, episode=7 + row)
    poses = np.array([(200.0, 300.0, 0.4), (111.0, 222.0, -2.0)])
    for _ in range(20):  # three chunks
        poses += np.random.default_rng(1).normal(size=3)
        agent = poses[:, :2] / 2
        corners = np.array([transform_points(CORNERS, pose).ravel() for pose in poses])
        seen = {
            "observation.environment_state": torch.tensor(corners).float(),
            "observation.state": torch.tensor(agent).float(),
        }
        actions = after(theirs.select_action(before(seen)))
        for row, policy in enumerate(ours):
            obs = {"keypoint": transform_points(KEYPOINTS, poses[row]), "agent_pos": agent[row]}
            wanted = policy.select_action({name: value.astype(np.float32) for name, value in obs.items()})
            np.testing.assert_allclose(actions[row].numpy(), wanted, atol=2e-2)


def test_a_robot_may_write_all_observations_into_the_same_arrays():
    copying, reusing = make(sampling_seed=0, n_action_steps=1), make(sampling_seed=0, n_action_steps=1)
    array = np.zeros((1, 4), np.float32)
    for step in range(4):
        array[:] = step / 2
        seen, kept = torch.from_numpy(array.copy()), torch.from_numpy(array)
        wanted = copying.select_action({"observation.state": seen})
        found = reusing.select_action({"observation.state": kept})
        torch.testing.assert_close(found, wanted)


def test_training_lowers_the_loss_and_averages_the_weights():
    policy, data = make(obs_noise=0.01), batch()
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    schedule = policy.config.get_scheduler_preset().build(optimizer, 200)
    losses = []
    for step in range(60):
        policy.train()
        loss, told = policy.forward(data)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        policy.update()
        losses.append(loss.item())
        assert policy.updates == step + 1 and not policy.ema.training
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])
    assert all(isinstance(value, float) for value in told.values())
    rows, _ = policy.forward(data, reduction="none")
    assert rows.shape == (8,)


def test_the_schedule_tells_how_long_the_training_is():
    policy = make(training_steps=None)
    with pytest.raises(InputError, match=r"--policy.training_steps"):
        policy.forward(batch())
    optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
    policy.config.get_scheduler_preset().build(optimizer, 123)
    assert policy.config.training_steps == 123
    policy.forward(batch())


def test_another_training_begins_from_the_averaged_weights(tmp_path: Path):
    first = make()
    first.forward(batch())
    first.update()
    with torch.no_grad():
        for parameter in first.policy.parameters():
            parameter.add_(1)
    first.save_pretrained(tmp_path / "first")
    config = PreTrainedConfig.from_pretrained(tmp_path / "first")
    second = ShortcutPolicy.from_pretrained(tmp_path / "first", config=config)
    assert second.updates == 1 and config.training_steps == 10
    # One that goes on has its schedule from a file.
    optimizer = config.get_optimizer_preset().build(second.get_optim_params())
    ShortcutSchedulerConfig(num_warmup_steps=1).build(optimizer, 20)
    second.forward(batch())
    assert second.updates == 1 and config.training_steps == 10
    config.get_scheduler_preset().build(optimizer, 20)
    second.forward(batch())
    assert second.updates == 0 and config.training_steps == 20
    for trained, averaged in zip(second.policy.parameters(), first.averaged.parameters(), strict=True):
        assert torch.equal(trained, averaged)


def test_objective_and_warm_up_are_those_of_our_own_training():
    policy = make()
    ours = yaml.safe_load((CONFIG_DIR / "train.yaml").read_text("utf-8"))["defaults"]
    assert {"objective": policy.config.objective} in ours
    assert type(policy.policy.objective) is AnchoredShortcut
    for updates, warmup in ((1400, 100), (70_000, 500)):
        scheduler = policy.config.get_scheduler_preset()
        optimizer = policy.config.get_optimizer_preset().build(policy.get_optim_params())
        rates = scheduler.build(optimizer, updates).lr_lambdas[0]
        assert (rates(0), rates(warmup // 2), rates(warmup)) == (0, 0.5, 1)
        # What is stored says the rule, not the number: a longer training has a longer warm-up.
        assert scheduler.num_warmup_steps is None
    given = make(scheduler_warmup_steps=7).config.get_scheduler_preset()
    assert given.build(optimizer, 1400).lr_lambdas[0](7) == 1


def test_an_optimizer_goes_on_from_its_state():
    def advance(policy: ShortcutPolicy, optimizer: Joined, seed: int) -> None:
        torch.manual_seed(seed)
        policy.forward(batch())[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        policy.update()

    first, second = make(), make()
    preset = first.config.get_optimizer_preset()
    one, other = (preset.build(policy.get_optim_params()) for policy in (first, second))
    assert len(one.parts) == 2
    advance(first, one, 0)
    state = deepcopy(one.state_dict())
    assert all(value.is_contiguous() for entry in state["state"].values() for value in entry.values())
    second.load_state_dict(first.state_dict())
    other.load_state_dict(state)
    for policy, optimizer in ((first, one), (second, other)):
        advance(policy, optimizer, 1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_policy_that_lerobot_trained_is_one_of_ours(tmp_path: Path):
    policy = make()
    policy.forward(batch())[0].backward()
    policy.update()
    policy.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs/train_config.json").write_text(json.dumps({"dataset": {"repo_id": "user/reach"}}))
    main([str(tmp_path / "theirs"), str(tmp_path / "ours")])
    ours = load_policy(tmp_path / "ours")
    assert ours.metadata["train_steps"] == 1 and ours.metadata["task"]["name"] == "reach"
    generator = torch.Generator().manual_seed(0)
    found = ours.act({"state": batch()["observation.state"]}, 1, generator)
    torch.manual_seed(0)
    assert found.shape == policy.predict_action_chunk(batch()).shape == (8, 8, 2)


def test_a_configuration_that_names_code_is_refused(checkpoint: Path, tmp_path: Path):
    to_lerobot(checkpoint, tmp_path / "theirs")
    file = tmp_path / "theirs/config.json"
    found = json.loads(file.read_text())
    found["specification"]["encoder"]["_target_"] = "antigravity.Encoder"
    file.write_text(json.dumps(found))
    with pytest.raises(InputError, match="antigravity"):
        ShortcutPolicy.from_pretrained(tmp_path / "theirs")
    assert "antigravity" not in sys.modules


def test_weights_that_do_not_fit_are_refused(checkpoint: Path, tmp_path: Path):
    to_lerobot(checkpoint, tmp_path / "theirs")
    make().save_pretrained(tmp_path / "other")
    (tmp_path / "other/model.safetensors").replace(tmp_path / "theirs/model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors cannot be loaded"):
        ShortcutPolicy.from_pretrained(tmp_path / "theirs")


def test_settings_that_cannot_be_are_refused(checkpoint: Path, tmp_path: Path, capsys):
    with pytest.raises(InputError, match="objective=nonsense"):
        make(objective="nonsense")
    with pytest.raises(InputError, match="phases with a teacher"):
        make(objective="progressive_distillation").forward(batch())
    with pytest.raises(InputError, match=r"observation.state is missing"):
        make().select_action({"observation.image": torch.zeros(1, 3, 8, 8)})
    to_lerobot(checkpoint, tmp_path / "theirs")
    for arguments, sentence in (
        ([str(tmp_path / "none"), "x"], "there is no checkpoint"),
        ([str(checkpoint), str(tmp_path / "theirs")], "is there already"),
        ([str(checkpoint), str(tmp_path / "new"), "--name", "keypoint"], "must be NAME=KEY"),
        ([str(tmp_path / "theirs"), str(tmp_path / "new"), "--gym-pusht"], "for checkpoints of shortcut"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{sentence}"):
            main(arguments)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match=r"--policy.horizon=8 cannot be changed"):
        config = PreTrainedConfig.from_pretrained(tmp_path / "theirs", cli_overrides=["--horizon=8"])
        ShortcutPolicy.from_pretrained(tmp_path / "theirs", config=config)


def test_the_command_has_help():
    done = subprocess.run(
        [sys.executable, "-m", "lerobot_policy_shortcut.convert", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--gym-pusht" in done.stdout
