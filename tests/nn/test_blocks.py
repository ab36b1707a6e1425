from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

from lab2pix.nn.blocks import ConvNormAct, GenResBlk, MiniInception


@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 2), (2, 4)])
def test_genresblk_matches_eq6(before: int, after: int) -> None:
    block = GenResBlk(before, after, 3, hidden=5).eval()
    x, label, feature = torch.randn(2, before, 8, 8), torch.rand(2, 3, 8, 8), torch.rand(2, 5, 8, 8)
    original = x.clone()
    residual = block.conv_0(F.leaky_relu(block.norm_0(x, label, feature), 0.2))
    assert residual.shape[1] == min(before, after)
    residual = block.conv_1(F.leaky_relu(block.norm_1(residual, label, feature), 0.2))
    shortcut = x if before == after else block.conv_s(block.norm_s(x, label, None))
    torch.testing.assert_close(block(x, label, feature), shortcut + residual)
    assert torch.equal(x, original)


def test_genresblk_learns_a_shortcut_only_where_widths_differ() -> None:
    assert GenResBlk(4, 4, 3).conv_s is None
    shortcut = GenResBlk(4, 2, 3).conv_s
    assert shortcut is not None
    assert shortcut.kernel_size == (1, 1)
    assert shortcut.bias is None


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_genresblk_spectral_norm_is_optional(spectral_norm: bool) -> None:
    block = GenResBlk(4, 2, 3, spectral_norm=spectral_norm)
    for conv in (block.conv_0, block.conv_1, block.conv_s):
        assert conv is not None
        assert parametrize.is_parametrized(conv) == spectral_norm


def test_convnormact_has_spectral_norm_and_no_bias() -> None:
    layer = ConvNormAct(2, 3, 3, stride=2)
    assert parametrize.is_parametrized(layer[0], "weight")
    assert layer[0].bias is None
    assert not list(layer[1].parameters())
    result = layer(torch.randn(2, 2, 16, 16) + 5)
    assert result.shape == (2, 3, 8, 8)


@pytest.mark.parametrize("stride", [1, 2])
def test_mini_inception_adds_three_branches(stride: int) -> None:
    block, x = MiniInception(3, 4, stride=stride), torch.randn(2, 3, 16, 16)
    block.eval()
    branches = [block.pool_branch(x), block.conv3_branch(x), block.conv5_branch(x)]
    assert [branch.shape for branch in branches] == [(2, 4, 16 // stride, 16 // stride)] * 3
    torch.testing.assert_close(block(x), branches[0] + branches[1] + branches[2])
    kernels = [
        [layer.kernel_size[0] for layer in branch.modules() if isinstance(layer, nn.Conv2d)]
        for branch in (block.pool_branch, block.conv3_branch, block.conv5_branch)
    ]
    assert kernels == [[1], [1, 3], [1, 3, 3]]


def test_convnormact_refuses_single_values_in_every_memory_format() -> None:
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer = ConvNormAct(4, 3, 3).to(memory_format=memory_format)
        with pytest.raises(ValueError, match="more than 1 spatial element"):
            layer(torch.randn(2, 4, 1, 1).contiguous(memory_format=memory_format))
