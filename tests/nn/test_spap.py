"""Spatial pyramid with cascaded attention."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lab2pix.nn.spap import PyramidAttention


def test_pyramid_starts_as_the_identity_and_learns_gamma() -> None:
    pyramid = PyramidAttention(4)
    x = torch.randn(2, 4, 9, 8)
    result = pyramid(x)
    assert torch.equal(result, x)
    result.square().sum().backward()
    assert pyramid.gamma.grad is not None and float(pyramid.gamma.grad) != 0
    nn.init.constant_(pyramid.gamma, 0.5)
    torch.testing.assert_close(pyramid(x), x + 0.5 * pyramid.cascade(x))


@pytest.mark.parametrize(("order", "kernels"), [("coarse-to-fine", [3, 3, 1]), ("fine-to-coarse", [1, 3, 3])])
@pytest.mark.parametrize(("attention", "shape"), [("pixel", (2, 1, 9, 8)), ("channel", (2, 4, 1, 1))])
def test_pyramid_fuses_levels_in_order(order, kernels, attention, shape) -> None:
    pyramid = PyramidAttention(4, dilations=(2, 1), order=order, attention=attention)
    assert [level[0].kernel_size[0] for level in pyramid.levels] == kernels
    x = torch.randn(2, 4, 9, 8)
    levels = [level(x) for level in pyramid.levels]
    shares = pyramid.gates[0](levels[0], levels[1])
    assert shares.shape == shape and 0 < float(shares.detach().min()) < float(shares.detach().max()) < 1
    z = shares * levels[0] + (1 - shares) * levels[1]
    shares = pyramid.gates[1](z, levels[2])
    torch.testing.assert_close(pyramid.cascade(x), shares * z + (1 - shares) * levels[2])


def test_pyramid_sees_as_far_as_its_largest_dilation() -> None:
    pyramid = PyramidAttention(2, norm="none")
    nn.init.ones_(pyramid.gamma)
    x = torch.randn(1, 2, 21, 21, requires_grad=True)
    pyramid(x)[0, :, 10, 10].sum().backward()
    assert x.grad is not None
    rows = x.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    assert int(rows.min()) <= 10 - 7 and int(rows.max()) >= 10 + 7
