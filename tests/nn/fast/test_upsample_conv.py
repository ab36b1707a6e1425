from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lab2pix.nn.fast.upsample_conv import upsample2x_conv3x3, upsample_conv3x3_relu


@settings(deadline=None, max_examples=60)
@given(
    factor=st.sampled_from([None, 1, 2, 3, 4, 8]),
    height=st.integers(1, 5),
    width=st.integers(1, 5),
    channels=st.integers(1, 5),
    biased=st.booleans(),
    order=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    seed=st.integers(0, 1000),
)
def test_upsample_conv_equals_convolving_the_upsampled_map(factor, height, width, channels, biased, order, seed):
    """With a factor `upsample_conv3x3_relu`, without one `upsample2x_conv3x3`."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(2, channels, height, width, generator=generator).double().requires_grad_()
    weight = torch.randn(6, channels, 3, 3, generator=generator).double().requires_grad_()
    bias = torch.randn(6, generator=generator).double().requires_grad_() if biased else None
    leaves = [small, weight, *([bias] if biased else [])]

    plain = F.conv2d(F.interpolate(small, scale_factor=factor or 2), weight, bias, padding=1)
    inputs = small.contiguous(memory_format=order), weight, bias
    if factor is None:
        ours = upsample2x_conv3x3(*inputs)
    else:
        ours, plain = upsample_conv3x3_relu(*inputs, factor), F.relu(plain)
    torch.testing.assert_close(ours, plain)

    direction = torch.randn(plain.shape, generator=generator)
    found, wanted = (torch.autograd.grad((result * direction).sum(), leaves) for result in (ours, plain))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("function", [upsample2x_conv3x3, lambda *given: upsample_conv3x3_relu(*given, 4)])
def test_upsample_conv_keeps_the_memory_format(function):
    small, weight = torch.randn(1, 4, 3, 3), torch.randn(5, 4, 3, 3)
    assert function(small, weight, None).is_contiguous()
    last = [tensor.contiguous(memory_format=torch.channels_last) for tensor in (small, weight)]
    assert function(*last, None).is_contiguous(memory_format=torch.channels_last)


def test_upsample2x_conv3x3_merges_taps_in_the_weights_type_under_autocast():
    small, weight = torch.randn(1, 4, 3, 3).bfloat16(), torch.randn(5, 4, 3, 3)
    corner = torch.zeros_like(small)
    corner[:, :, 1, 1] = 1
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = upsample2x_conv3x3(corner, weight, None)
    # The inner taps of a block of two add up in float32, and are rounded once.
    summed = weight[:, :, 1:, 1:].sum((2, 3)).bfloat16().float().sum(1)
    assert ours.dtype == torch.bfloat16
    torch.testing.assert_close(ours[0, :, 2, 2].float(), summed.bfloat16().float(), atol=0, rtol=2**-7)
