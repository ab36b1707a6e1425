from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.attention import LSCA


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(2, 6, 4, 5), torch.randn(2, 4, 8, 10), torch.rand(2, 3, 8, 10)


def merged_by(block: LSCA, previous: Tensor) -> Tensor:
    """h' of Fig. 5: upsampled, convolved, ReLU."""
    doubled = previous.repeat_interleave(2, 2).repeat_interleave(2, 3)
    return F.relu(block.merge(doubled))


@torch.no_grad()
def test_lsca_matches_eq7() -> None:
    block, (previous, current, label) = LSCA(6, 4, 3), inputs()
    merged = merged_by(block, previous)

    def norm(x: Tensor) -> Tensor:
        deviation = (x.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        return (x - x.mean((0, 2, 3), keepdim=True)) / deviation

    guide = norm(F.relu(block.label(label)))
    attention = torch.sigmoid(block.attention(torch.cat([norm(merged), norm(current), guide], 1)))
    expected = merged * attention + current * (1 - attention)
    torch.testing.assert_close(block(previous, current, label), expected)


@torch.no_grad()
def test_lsca_has_one_attention_map_for_all_channels() -> None:
    block, (previous, current, label) = LSCA(6, 4, 3), inputs()
    merged, result = merged_by(block, previous), block(previous, current, label)
    share = (result - current) / (merged - current)
    assert block.attention.out_channels == 1
    torch.testing.assert_close(share, share[:, :1].expand_as(share), atol=1e-3, rtol=1e-3)
    assert share.min() > 0
    assert share.max() < 1
    assert share.std() > 0.01  # it differs from pixel to pixel


@torch.no_grad()
def test_lsca_hand_computed() -> None:
    block, (previous, current, label) = LSCA(6, 4, 3), inputs()
    for parameter in block.parameters():
        parameter.zero_()
    block.merge.bias.fill_(3.0)
    torch.testing.assert_close(block(previous, current, label), 0.5 * 3.0 + 0.5 * current)  # A = sigmoid(0)
    block.merge.bias.fill_(-3.0)
    torch.testing.assert_close(block(previous, current, label), 0.5 * current)  # ReLU before the mixture
    block.merge.bias.fill_(3.0)
    for bias, expected in ((30.0, torch.full_like(current, 3.0)), (-30.0, current)):
        block.attention.bias.fill_(bias)
        torch.testing.assert_close(block(previous, current, label), expected)


@torch.no_grad()
def test_lsca_attention_depends_on_every_input() -> None:
    block, given = LSCA(6, 4, 3), inputs()
    seen: list[Tensor] = []
    block.attention.register_forward_hook(lambda *event: seen.append(event[-1]))
    block(*given)
    for index in range(3):
        changed = [tensor.flip(0) if place == index else tensor for place, tensor in enumerate(given)]
        block(*changed)
    assert not any(torch.allclose(seen[0], other) for other in seen[1:])


def test_lsca_norms_are_affine_and_convolutions_without_spectral_norm() -> None:
    block = LSCA(6, 4, 3)
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.affine for norm in norms] == [True] * 3
    assert not any(nn.utils.parametrize.is_parametrized(module) for module in block.modules())


def test_lsca_keeps_the_dtype_of_its_features_under_autocast() -> None:
    block, (previous, current, label) = LSCA(6, 4, 3), inputs()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = block(previous.bfloat16(), current.bfloat16(), label)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), block(previous, current, label), atol=0.05, rtol=0.05)
