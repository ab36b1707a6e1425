"""Generator of two stages and its fusion block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lab2pix.nn.resnet import ResNetGenerator
from lab2pix.nn.scan import AdaptiveFusion, StackedGenerator


@pytest.fixture
def generator() -> StackedGenerator:
    coarse, refine = ResNetGenerator(5, width=2, blocks=1), ResNetGenerator(8, width=2, blocks=1)
    return StackedGenerator(coarse, refine, AdaptiveFusion(11, width=3))


def set_share(generator: StackedGenerator, logit: float) -> None:
    conv = generator.fusion.layers[-2]
    assert isinstance(conv, nn.Conv2d) and conv.bias is not None
    nn.init.zeros_(conv.weight)
    nn.init.constant_(conv.bias, logit)


def test_fusion_gives_one_channel_between_0_and_1() -> None:
    share = AdaptiveFusion(4, width=3)(torch.randn(2, 1, 8, 6) * 9, torch.randn(2, 3, 8, 6))
    assert share.shape == (2, 1, 8, 6)
    assert 0 < float(share.detach().min()) < float(share.detach().max()) < 1


@pytest.mark.parametrize(("stages", "logit"), [(1, 0.0), (2, -200.0)])
def test_generator_without_share_enlarges_the_first_stage(
    generator: StackedGenerator, stages: int, logit: float
) -> None:
    x = torch.randn(2, 5, 16, 24)
    set_share(generator, logit)
    generator.stages.fill_(stages)
    small = generator.coarse(F.avg_pool2d(x, 2))
    expected = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(generator(x), expected)


def test_generator_with_full_share_is_the_second_stage(generator: StackedGenerator) -> None:
    x = torch.randn(2, 5, 16, 24)
    set_share(generator, 200.0)
    generator.stages.fill_(2)
    y1 = F.interpolate(generator.coarse(F.avg_pool2d(x, 2)), scale_factor=2.0)
    torch.testing.assert_close(generator(x), generator.refine(torch.cat([x, y1], dim=1)))
