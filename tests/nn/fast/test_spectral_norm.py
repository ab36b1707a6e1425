"""Spectral norm of accelerated convolutions against PyTorch's."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lab2pix.nn.fast import accelerate
from lab2pix.nn.fast.spectral_norm import FastSpectralConv2d


def pair(kernel: int, stride: int, bias: bool) -> tuple[FastSpectralConv2d, nn.Conv2d]:
    """Return an accelerated convolution, and PyTorch's own with the same weights and vectors."""
    torch.manual_seed(0)
    plain = spectral_norm(nn.Conv2d(6, 8, kernel, stride=stride, padding=kernel // 2, bias=bias))
    fast = accelerate(copy.deepcopy(plain), torch.device("cpu"))
    assert isinstance(fast, FastSpectralConv2d)
    return fast, plain


def test_spectral_conv_twice_before_its_backward_pass() -> None:
    ours, plain = pair(3, 1, True)
    inputs = [torch.randn(1, 6, 2, 2) for _ in range(2)]
    for conv in (ours, plain):
        sum(conv(x).square().sum() for x in inputs).backward()
    torch.testing.assert_close(ours.parametrizations.weight.original.grad, plain.parametrizations.weight.original.grad)


def test_spectral_conv_divides_the_output_only_in_training_steps() -> None:
    conv, _ = pair(3, 1, True)
    x, weight = torch.randn(1, 6, 2, 2), conv.parametrizations.weight.original
    assert conv._scales_output(x)
    with torch.autocast("cpu", dtype=torch.float16):  # the undivided output may overflow
        assert not conv._scales_output(x)
        assert conv(x).dtype == torch.float16
    assert not conv._scales_output(x.bfloat16())
    with torch.no_grad():
        assert not conv._scales_output(x)
    weight.requires_grad_(False)
    assert not conv._scales_output(x)
    weight.requires_grad_(True)
    assert not conv.eval()._scales_output(x)
