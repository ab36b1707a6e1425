from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lab2pix.nn import small_maps
from lab2pix.nn.convolutions import convolve, convolve_backward
from lab2pix.nn.spectral import spectral_conv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3), channels=st.integers(2, 4), out_channels=st.integers(2, 5), height=st.integers(1, 7),
    width=st.integers(1, 7), kernel=st.sampled_from([(2, 2), (3, 3), (4, 4), (5, 5), (3, 2)]),
    stride=st.sampled_from([(1, 1), (2, 2), (1, 2)]), order=st.sampled_from(LAYOUTS), seed=st.integers(0, 1000),
)  # fmt: skip
def test_products_are_convolutions(
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
        patch.setattr(small_maps, "_WEIGHTS", 0)
        patch.setattr(F, "conv2d", None)  # products alone
        ours = convolve(x, weight, stride, padding)
        found = convolve_backward(direction, x, weight, stride, padding, (True, True))
        assert convolve_backward(direction, x, weight, stride, padding, (False, False)) == (None, None)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert ours.is_contiguous(memory_format=order)


@pytest.mark.parametrize(("side", "channels", "as_product"), [(16, 512, True), (17, 512, False), (4, 64, False)])
def test_large_weights_over_small_maps_are_products(
    side: int, channels: int, as_product: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    columns = small_maps._columns
    monkeypatch.setattr(small_maps, "_columns", lambda *given: called.append(1) or columns(*given))
    x, weight = torch.randn(1, channels, side, side), torch.randn(channels, channels, 3, 3)
    convolve(x, weight, (1, 1), (1, 1))
    assert bool(called) == as_product


@pytest.mark.parametrize("order", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_spectral_convolution_learns_the_same(
    order: torch.memory_format, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradients = []
    for weights in (0, 2**60):  # as products; never
        monkeypatch.setattr(small_maps, "_WEIGHTS", weights)
        torch.manual_seed(0)
        conv = spectral_conv2d(6, 8, 3, stride=1, padding=1, bias=True).to(memory_format=order)
        x = torch.randn(2, 6, 3, 3, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            result = conv(x)
        assert result.dtype == dtype
        gradients.append(
            [result.detach().float(), *torch.autograd.grad(result.float().square().sum(), [x, *conv.parameters()])]
        )
    for mine, theirs in zip(*gradients, strict=True):
        assert mine.dtype == theirs.dtype and mine.stride() == theirs.stride()
        limit = 1e-5 if dtype == torch.float32 else 3e-2
        assert float((mine - theirs).norm() / theirs.norm()) < limit
