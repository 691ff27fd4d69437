"""Encoders of cameras: their networks against published numbers, crops, points and what they refuse."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from shortcut_policy.data import Field, Normalizer
from shortcut_policy.encoders import ImageEncoder, LightConvolutions, ResNet18
from shortcut_policy.encoders.crops import YIQ, change_colours, random_crop
from shortcut_policy.encoders.spatial_softmax import SpatialSoftmax
from shortcut_policy.encoders.trunks import FrozenBatchNorm, Standardise
from shortcut_policy.encoders.weights import load_weights
from shortcut_policy.errors import InputError
from shortcut_policy.objectives import Draws
from shortcut_policy.policy import Policy
from shortcut_policy.recipes import recipe

SHAPES = {"camera": (24, 28, 3), "hand": (24, 28, 3), "state": (5,)}
LIGHT = partial(LightConvolutions, width=16, depth=1)


def draws(seed: int = 0, rank: int = 0, world: int = 1) -> Draws:
    return Draws(torch.Generator().manual_seed(seed), rank, world)


def pictures(rows: int = 4, steps: int = 2, shape=(24, 28, 3), seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, steps, *shape), generator=generator, dtype=torch.uint8)


def observations(rows: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shown = {name: pictures(rows, seed=i) for i, name in enumerate(("camera", "hand"))}
    return shown | {"state": torch.rand((rows, 2, 5), generator=generator)}


def as_seen(obs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: x / 127.5 - 1 if x.ndim == 5 else x for name, x in obs.items()}


def encoder(seed: int = 0, shapes=SHAPES, **settings) -> ImageEncoder:
    torch.manual_seed(seed)
    return ImageEncoder(shapes, 2, **({"trunk": LIGHT, "crop": 20} | settings))


OBS = {
    "camera": Field("camera", (24, 28, 3), normalize="image"),
    "state": Field("state", (5,), normalize="identity"),
}
ACTION = Field("action", (2,), normalize="identity")


def policy(backbone=None, obs=OBS, **settings) -> Policy:
    spec = recipe("encoder", "image_light", **({"crop": 20, "n_points": 8} | settings))
    unet = recipe("backbone", "unet_small", down_dims=[8, 16], embedding_dim=16)
    made = Policy.build(obs, ACTION, encoder=spec, backbone=backbone or unet)
    made.normalizer = Normalizer({**obs, "action": ACTION}, {})  # these fields need no statistics
    return made


def test_resnet18_is_the_published_one():
    net = ResNet18(3)
    # torchvision's resnet18 has 11,689,512 weights, 513,000 of them in its classifier.
    assert sum(p.numel() for p in net.parameters()) == 11_689_512 - 513_000
    # Two convolutions in each of eight blocks, the first one and three shortcuts; 16 channels a group.
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 20
    norms = [m for m in net.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 20 and all(m.num_channels // m.num_groups == 16 for m in norms)
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 76, 84)).shape == (2, 512, 3, 3)


def test_the_visual_encoder_of_diffusion_policy_has_its_size():
    made = encoder(shapes={"image": (96, 96, 3), "agent_pos": (2,)}, trunk=ResNet18, crop=84)
    trunk = 11_176_512
    assert sum(p.numel() for p in made.parameters()) == trunk + (512 * 32 + 32) + (64 * 64 + 64)
    assert made.cond_dim == 2 * (64 + 2)


def test_frozen_batch_statistics_are_those_of_a_pretrained_network():
    norm, frozen = nn.BatchNorm2d(4).eval(), FrozenBatchNorm(4)
    with torch.no_grad():
        for name, value in norm.state_dict().items():
            if name != "num_batches_tracked":
                value.copy_(torch.rand(4) + 0.5)
    frozen.load_state_dict({k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"})
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(frozen(x), norm(x))
    assert not list(frozen.parameters())


def test_colours_are_standardised_as_imagenet_has_them():
    white = Standardise(3)(torch.ones(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(
        white, (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    with pytest.raises(InputError, match="4 channels"):
        Standardise(4)


def test_a_spatial_softmax_finds_the_peak():
    softmax = SpatialSoftmax(1, 1)
    nn.init.constant_(softmax.maps.weight, 100.0)
    maps = torch.zeros(1, 1, 5, 9)
    maps[0, 0, 1, 6] = 1.0
    torch.testing.assert_close(softmax(maps), torch.tensor([[[0.5, -0.5]]]))


@pytest.mark.parametrize("shift", [0, 3])
def test_a_crop_is_a_part_of_the_picture_and_the_same_for_all_steps(shift: int):
    x = pictures(rows=16)
    x[:, 1] = x[:, 0]
    found = random_crop(x, (20, 20), shift, draws())
    assert found.shape == (16, 2, 20, 20, 3) and found.dtype == torch.uint8
    assert torch.equal(found[:, 0], found[:, 1])
    padded = np.pad(x[:, 0].numpy(), ((0, 0), (shift, shift), (shift, shift), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (20, 20), axis=(1, 2))
    places = set()
    for row, own in enumerate(windows):
        same = [
            (i, j)
            for i in range(own.shape[0])
            for j in range(own.shape[1])
            if np.array_equal(np.moveaxis(own[i, j], 0, -1), found[row, 0].numpy())
        ]
        assert same, "no part of the picture"
        places.add(same[0])
    assert len(places) > 8, "rows have crops of their own"


def test_a_crop_is_drawn_alike_for_any_number_of_processes():
    x = pictures(rows=8)
    alone = random_crop(x, (20, 20), 0, draws())
    for rank in range(2):
        assert torch.equal(random_crop(x[rank::2], (20, 20), 0, draws(0, rank, 2)), alone[rank::2])


def test_colours():
    x = pictures(rows=3)
    assert torch.equal(change_colours(x, 0, 0, 0, draws()), x.float())
    brighter = change_colours(x, 0.5, 0, 0, draws())
    factor = brighter[:, :1] / x[:, :1]
    rows = [own[own.isfinite() & (brighter[i, :1] < 255)] for i, own in enumerate(factor)]
    assert all(own.max() - own.min() < 1e-3 and 0.5 <= own.min() <= 1.5 for own in rows)
    grey = x[..., :1].expand_as(x)
    torch.testing.assert_close(change_colours(grey, 0, 0, 0.5, draws()), grey.float(), atol=1.5, rtol=0)
    turned = change_colours(x.clamp(100, 150), 0, 0, 0.5, draws())
    luma = torch.tensor(YIQ[0])
    torch.testing.assert_close(turned @ luma, x.clamp(100, 150).float() @ luma, atol=0.1, rtol=0)
    assert (turned - x.clamp(100, 150)).abs().max() > 5


def test_the_middle_counts_at_play_and_nothing_is_drawn():
    made, obs = encoder(), as_seen(observations())
    inner = {name: x[:, :, 2:22, 4:24] if x.ndim == 5 else x for name, x in obs.items()}
    torch.testing.assert_close(made(obs), made(inner))
    outer = {name: x.clone() for name, x in obs.items()}
    outer["camera"][:, :, :2] = 0
    torch.testing.assert_close(made(obs), made(outer))


def test_channels_first_and_last_are_the_same():
    last, obs = encoder(), observations()
    shapes = {name: (3, 24, 28) if len(shape) == 3 else shape for name, shape in SHAPES.items()}
    first = encoder(shapes=shapes)
    moved = {name: x.movedim(-1, 2) if x.ndim == 5 else x for name, x in obs.items()}
    torch.testing.assert_close(first(as_seen(moved)), last(as_seen(obs)))
    found, expected = first.augment(moved, draws()), last.augment(obs, draws())
    assert torch.equal(found["camera"], expected["camera"].movedim(-1, 2))


def test_every_camera_has_its_crop_and_the_numbers_stay():
    obs = observations()
    obs["hand"] = obs["camera"]
    found = encoder(brightness=0.2, hue=0.1, shift=2).augment(obs, draws())
    assert found["state"] is obs["state"] and found["camera"].shape == (4, 2, 20, 20, 3)
    assert not torch.equal(found["camera"], found["hand"])


@pytest.mark.parametrize("share", [False, True])
def test_shared_weights(share: bool):
    made, obs = encoder(share_weights=share), observations()
    obs["hand"] = obs["camera"]
    features = made(as_seen(obs))[:, : 2 * 2 * 64].unflatten(1, (2, 2 * 64))
    assert torch.equal(features[:, 0], features[:, 1]) == share
    assert len(made.networks) == 1 + (not share)


def test_points_are_in_pixels_of_the_picture():
    class Bright(nn.Module):
        out_channels = 1

        def __init__(self, in_channels: int) -> None:
            super().__init__()

        def forward(self, x):
            return nn.functional.avg_pool2d(x.mean(1, keepdim=True), 4)

    made = encoder(shapes={"camera": (24, 28, 3)}, trunk=Bright, n_points=1)
    nn.init.constant_(made.networks["camera"][1].maps.weight, 500.0)
    x = -torch.ones(1, 2, 24, 28, 3)
    # The crop begins 2 pixels from the top and 4 from the left: its third and second square of 4.
    x[:, :, 10:14, 8:12] = 1.0
    torch.testing.assert_close(
        made.points({"camera": x})["camera"], torch.tensor([9.5, 11.5]).expand(1, 2, 1, 2)
    )


def test_older_pictures_can_be_left_out():
    made, obs = encoder(picture_steps=1), as_seen(observations())
    assert made.cond_dim == 2 * 64 + 2 * 5
    other = {name: x.clone() for name, x in obs.items()}
    other["camera"][:, 0] = 0
    assert torch.equal(made(other), made(obs))
    other["camera"][:, 1] = 0
    assert not torch.equal(made(other), made(obs))
    assert made.augment(observations(), draws())["camera"].shape == (4, 1, 20, 20, 3)
    assert encoder(picture_steps=1, tokens=True).cond_tokens == 2 + 2
    with pytest.raises(InputError, match="picture_steps=3"):
        encoder(picture_steps=3)


def test_tokens_are_what_a_transformer_attends_to():
    tokens = encoder(tokens=True)
    assert tokens.cond_tokens == 2 * 3 and tokens.cond_dim == 6 * 64
    transformer = partial(recipe, "backbone", "dit", split_context=True)
    size = {"width": 16, "depth": 1, "heads": 2}
    made = policy(transformer(context_tokens=4, size=size), tokens=True)
    given = {"camera": pictures(3).numpy(), "state": np.zeros((3, 2, 5), np.float32)}
    assert made.act(given).shape == (3, 8, 2)
    with pytest.raises(InputError, match=r"context_tokens=5 tokens"):
        policy(transformer(context_tokens=5, size=size), tokens=True)


def test_the_encoder_runs_once_an_action_chunk(monkeypatch: pytest.MonkeyPatch):
    made, calls = policy(), []
    made.encoder.register_forward_hook(lambda *call: calls.append(1))
    made.act({"camera": pictures().numpy(), "state": np.zeros((4, 2, 5))}, steps=16)
    assert len(calls) == 1


def test_training_crops_and_play_does_not():
    made = policy().train()
    batch = {"obs": {"camera": pictures(), "state": torch.zeros(4, 2, 5)}, "action": torch.zeros(4, 16, 2)}

    def loss(seed: int) -> float:
        return made(**batch, ema=made, draws=draws(seed))[0].mean().item()

    seen = []
    made.encoder.register_forward_hook(lambda module, given, output: seen.append(given[0]["camera"].shape))
    assert loss(0) == loss(0) != loss(1)
    made.eval()
    loss(0)
    assert [shape[2:4] for shape in seen] == [(20, 20)] * 3 + [(24, 28)]


def test_noise_on_observations_leaves_pictures_alone():
    made = policy().train()
    made.obs_noise = 0.5
    seen = []
    made.encoder.register_forward_hook(lambda module, given, output: seen.append(given[0]))
    batch = {
        "obs": {"camera": pictures() * 0 + 255, "state": torch.zeros(4, 2, 5)},
        "action": torch.zeros(4, 16, 2),
    }
    made(**batch, ema=made, draws=draws())
    assert (seen[0]["camera"] == 1).all() and seen[0]["state"].std() > 0.3


def test_every_weight_is_trained_and_frozen_ones_are_not():
    batch = {"obs": {"camera": pictures(), "state": torch.zeros(4, 2, 5)}, "action": torch.zeros(4, 16, 2)}
    for frozen in (False, True):
        made = policy(frozen=frozen).train()
        made(**batch, ema=made, draws=draws())[0].mean().backward()
        trunk = list(made.encoder.trunks["camera"].parameters())
        head = [p for p in made.encoder.parameters() if id(p) not in set(map(id, trunk))]
        assert all((p.grad is not None) != frozen for p in trunk)
        # The bias of the points' maps moves none of them.
        assert sum(p.grad.abs().sum() > 0 for p in head) >= 3


def torchvision_names() -> dict[str, torch.Tensor]:
    """A state of torchvision's resnet18, by its names."""
    given = {name: torch.rand_like(x) for name, x in ResNet18(3).state_dict().items()}
    for name in [name for name in given if name.endswith("bn1.weight") or name.endswith("bn2.weight")]:
        stem = name.removesuffix("weight")
        size = given[name].shape
        given |= {f"{stem}running_mean": torch.rand(size), f"{stem}running_var": torch.rand(size)}
        given[f"{stem}num_batches_tracked"] = torch.tensor(7)
    for stem in [f"layer{i}.0.downsample.1." for i in (2, 3, 4)]:
        size = given[f"{stem}weight"].shape
        given |= {f"{stem}running_mean": torch.rand(size), f"{stem}running_var": torch.rand(size)}
    return given | {"fc.weight": torch.rand(1000, 512), "fc.bias": torch.rand(1000)}


@pytest.mark.parametrize("norm", ["group", "frozen_batch"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_torchvision(norm: str, prefix: str, tmp_path):
    given, path = torchvision_names(), tmp_path / "resnet18.pth"
    torch.save({"state_dict": {prefix + name: x for name, x in given.items()}}, path)
    made = encoder(trunk=partial(ResNet18, norm=norm))
    load_weights(made, path)
    for trunk in made.trunks.values():
        assert torch.equal(trunk.layer4[1].conv2.weight, given["layer4.1.conv2.weight"])
        assert torch.equal(trunk.bn1.weight, given["bn1.weight"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda given: given.pop("layer1.0.conv1.weight"), "has no weight layer1.0.conv1.weight"),
        (lambda given: given.update(extra=torch.zeros(1)), "has the weight extra, which is not known"),
        (lambda given: given.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}), "conv1.weight has shape"),
    ],
)
def test_weights_that_do_not_fit(change, sentence: str, tmp_path):
    given, path = torchvision_names(), tmp_path / "resnet18.pth"
    change(given)
    torch.save(given, path)
    with pytest.raises(InputError, match=sentence):
        load_weights(encoder(trunk=ResNet18), path)


def test_files_that_hold_no_weights(tmp_path):
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"nothing")
    listed = tmp_path / "listed.pth"
    torch.save([torch.zeros(1)], listed)
    for path, sentence in (
        (damaged, "cannot be read"),
        (listed, "no tensors by name"),
        (tmp_path / "no", "does not exist"),
    ):
        with pytest.raises(InputError, match=sentence):
            load_weights(encoder(), path)


@pytest.mark.parametrize(
    ("shapes", "settings", "sentence"),
    [
        ({"state": (5,)}, {}, "encoder=lowdim"),
        ({"camera": (24, 28, 5)}, {}, "no picture"),
        (SHAPES, {"crop": 25}, "smaller crop"),
        (SHAPES, {"crop": [20]}, "height and width"),
        (SHAPES, {"pool": "max"}, "encoder.pool"),
        (SHAPES, {"hue": 0.6}, "encoder.hue"),
        (SHAPES, {"n_points": 0}, "encoder.n_points"),
        ({"camera": (24, 28, 3), "depth": (24, 28, 1)}, {"share_weights": True}, "equal channels"),
    ],
)
def test_what_is_refused(shapes, settings, sentence: str):
    with pytest.raises(InputError, match=sentence):
        encoder(shapes=shapes, **settings)


@pytest.mark.parametrize(("name", "millions"), [("image_light", 0.03), ("image_resnet18", 11.2)])
def test_recipes_with_cameras(name: str, millions: float):
    obs = {"image": Field("img", (96, 96, 3), normalize="image")}
    made = Policy.build(obs, ACTION, encoder=name, backbone="unet_small").encoder
    assert made.cond_dim == 2 * 64
    assert sum(p.numel() for p in made.parameters()) / 1e6 == pytest.approx(millions, rel=0.2)


def test_any_network_of_timm():
    pytest.importorskip("timm", reason="an extra of this library", exc_type=Exception)
    trunk = {"name": "vit_tiny_patch16_224", "options": {"dynamic_img_size": True, "patch_size": 14}}
    target = {"_target_": "shortcut_policy.encoders.TimmTrunk", "_partial_": True}
    made = policy(trunk=target | trunk, pool="average", crop=14)
    given = {"camera": pictures(2).numpy(), "state": np.zeros((2, 2, 5), np.float32)}
    assert made.act(given).shape == (2, 8, 2)
