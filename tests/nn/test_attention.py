from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.attention import LSCA


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
    assert attention.shape[1] == 1  # one map for all channels


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
