from __future__ import annotations

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lab2pix.nn.fast import winograd

ONE = (1, 1)
MEMORY_FORMATS = [torch.contiguous_format, torch.channels_last]


def test_winograd_matrices_make_an_exact_convolution():
    result, weight, seen = (
        [[Fraction(value).limit_denominator(100) for value in row] for row in matrix]
        for matrix in (winograd._OUTPUT, winograd._WEIGHT, winograd._INPUT)
    )

    def times(matrix, vector):
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    taps, pixels = [Fraction(n) for n in (3, -7, 2)], [Fraction(n) for n in (5, 1, -4, 8, 0, 9)]
    products = [a * b for a, b in zip(times(weight, taps), times(seen, pixels), strict=True)]
    assert times(result, products) == [sum(taps[k] * pixels[i + k] for k in range(3)) for i in range(4)]


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3), channels=st.integers(1, 5), outs=st.integers(1, 6), height=st.integers(1, 13),
    width=st.integers(1, 13), orders=st.tuples(*[st.sampled_from(MEMORY_FORMATS)] * 3),
    memory=st.sampled_from([1, 3000, 10**7]), seed=st.integers(0, 1000),
)  # fmt: skip
def test_winograd_outputs_and_gradients_are_a_convolutions(
    *, count: int, channels: int, outs: int, height: int, width: int, orders: tuple[torch.memory_format, ...],
    memory: int, seed: int,
) -> None:  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    shapes = ((count, channels, height, width), (outs, channels, 3, 3), (count, outs, height, width))
    x, weight, direction = (
        torch.randn(shape, generator=random).double().contiguous(memory_format=memory_format)
        for shape, memory_format in zip(shapes, orders, strict=True)
    )
    wanted = torch.ops.aten.convolution_backward(
        direction, x, weight, None, ONE, ONE, ONE, False, (0, 0), 1, [True, True, False]
    )[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_MAX_BYTES", memory)  # in how many parts
        ours = winograd.convolve(x, weight, ONE, ONE)
        found = winograd.backward(direction, x, weight, ONE, ONE, (True, True))
        assert winograd.backward(direction, x, weight, ONE, ONE, (False, False)) == (None, None)
    torch.testing.assert_close(ours, F.conv2d(x, weight, padding=1))
    torch.testing.assert_close(found, wanted)
    assert found[1] is not None and found[1].is_contiguous(memory_format=orders[1])


@pytest.mark.parametrize("memory_format", MEMORY_FORMATS)
def test_winograd_rounding_is_small(memory_format):
    x = torch.randn(2, 256, 24, 24).contiguous(memory_format=memory_format)
    weight = (torch.randn(192, 256, 3, 3) / 48).contiguous(memory_format=memory_format)
    direction = torch.randn(2, 192, 24, 24).contiguous(memory_format=memory_format)

    def exact(*given: torch.Tensor) -> list[torch.Tensor]:
        a, b, c = (tensor.double() for tensor in given)
        flags = (None, ONE, ONE, ONE, False, (0, 0), 1, [True, True, False])
        return [F.conv2d(b, c, padding=1), *torch.ops.aten.convolution_backward(a, b, c, *flags)[:2]]

    ours = [winograd.convolve(x, weight, ONE, ONE), *winograd.backward(direction, x, weight, ONE, ONE, (True, True))]
    for mine, wanted in zip(ours, exact(direction, x, weight), strict=True):
        assert mine.dtype == torch.float32
        assert float((mine - wanted).norm() / wanted.norm()) < 5e-6
        assert float((mine - wanted).abs().max() / wanted.abs().max()) < 2e-5


@pytest.mark.parametrize(
    ("change", "faster"),
    [
        ({}, True), ({"kernel": 1}, False), ({"stride": (2, 2)}, False), ({"padding": (0, 0)}, False),
        ({"dtype": torch.bfloat16}, False), ({"channels": 32}, False), ({"side": 16}, False),
    ],
)  # fmt: skip
def test_winograd_is_used_only_for_large_fp32_3x3(change, faster):
    case = {"kernel": 3, "stride": ONE, "padding": ONE, "dtype": torch.float32, "channels": 256, "side": 32} | change
    x = torch.empty(1, case["channels"], case["side"], case["side"], memory_format=torch.channels_last)
    weight = torch.empty(256, case["channels"], case["kernel"], case["kernel"])
    assert winograd.is_faster(x, weight, case["stride"], case["padding"], case["dtype"]) == faster


def test_winograd_needs_more_channels_for_contiguous_maps():
    weight = torch.empty(128, 128, 3, 3)
    for memory_format, expected in zip(MEMORY_FORMATS, (False, True), strict=True):
        x = torch.empty(1, 128, 64, 64).contiguous(memory_format=memory_format)
        assert winograd.is_faster(x, weight, ONE, ONE, torch.float32) == expected
