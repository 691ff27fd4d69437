"""Random numbers that samples begin with."""

import pytest
import torch

from shortcut_policy.objectives.base import normal_noise

CPU = torch.device("cpu")


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("seeds", [(0,), (3, 1, 2)])
def test_noise_is_what_diffusers_draws(seeds) -> None:
    """Published numbers rest on its bits."""
    from diffusers.utils.torch_utils import randn_tensor

    shape = (3, 16, 2)
    own, theirs = (seeded(*seeds) if len(seeds) > 1 else seeded(*seeds)[0] for _ in range(2))
    assert torch.equal(normal_noise(shape, own, CPU), randn_tensor(shape, generator=theirs, device=CPU))


def test_without_a_generator_it_is_the_global_one() -> None:
    torch.manual_seed(4)
    expected = torch.randn(2, 5)
    torch.manual_seed(4)
    assert torch.equal(normal_noise((2, 5), None, CPU), expected)
