from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lab2pix.nn.fast import im2col
from lab2pix.nn.fast.conv import convolve, convolve_backward

MEMORY_FORMATS = [torch.contiguous_format, torch.channels_last]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3), channels=st.integers(2, 4), out_channels=st.integers(2, 5), height=st.integers(1, 7),
    width=st.integers(1, 7), kernel=st.sampled_from([(2, 2), (3, 3), (4, 4), (5, 5), (3, 2)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2)]), order=st.sampled_from(MEMORY_FORMATS), seed=st.integers(0, 1000),
)  # fmt: skip
def test_im2col_products_are_convolutions(
    *, count: int, channels: int, out_channels: int, height: int, width: int, kernel: tuple[int, int],
    stride: tuple[int, int], order: torch.memory_format, seed: int,
) -> None:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    padding = (kernel[0] // 2, kernel[1] // 2)
    x = torch.randn(count, channels, height, width, generator=random).double().contiguous(memory_format=order)
    weight = torch.randn(out_channels, channels, *kernel, generator=random).double().contiguous(memory_format=order)
    plain = F.conv2d(x, weight, None, stride, padding)
    direction = torch.randn(plain.shape, generator=random).double()
    wanted = torch.ops.aten.convolution_backward(
        direction, x, weight, None, stride, padding, (1, 1), False, (0, 0), 1, [True, True, False]
    )[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(im2col, "_MIN_WEIGHTS", 0)
        patch.setattr(F, "conv2d", None)  # products alone
        ours = convolve(x, weight, stride, padding)
        found = convolve_backward(direction, x, weight, stride, padding, (True, True))
        assert convolve_backward(direction, x, weight, stride, padding, (False, False)) == (None, None)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(found, wanted)
    assert ours.is_contiguous(memory_format=order)


@pytest.mark.parametrize(("side", "channels", "as_product"), [(16, 512, True), (17, 512, False), (4, 64, False)])
def test_im2col_is_used_for_large_weights_and_small_maps(
    side: int, channels: int, as_product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    columns = im2col._im2col
    monkeypatch.setattr(im2col, "_im2col", lambda *given: called.append(1) or columns(*given))
    x, weight = torch.randn(1, channels, side, side), torch.randn(channels, channels, 3, 3)
    convolve(x, weight, (1, 1), (1, 1))
    assert bool(called) == as_product
