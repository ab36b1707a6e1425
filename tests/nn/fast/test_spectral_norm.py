"""Spectral norm of accelerated convolutions against PyTorch's."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lab2pix.nn.fast import accelerate
from lab2pix.nn.fast.spectral_norm import FastSpectralConv2d


def gradients(result: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weight = torch.sin(torch.arange(result.numel(), dtype=torch.float32)).view(result.shape)
    return list(torch.autograd.grad((result * weight).sum(), leaves))


def pair(kernel: int, stride: int, bias: bool) -> tuple[FastSpectralConv2d, nn.Conv2d]:
    """Return an accelerated convolution, and PyTorch's own with the same weights and vectors."""
    torch.manual_seed(0)
    plain = spectral_norm(nn.Conv2d(6, 8, kernel, stride=stride, padding=kernel // 2, bias=bias))
    fast = accelerate(copy.deepcopy(plain), torch.device("cpu"))
    assert isinstance(fast, FastSpectralConv2d)
    return fast, plain


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 1, True), (3, 2, False), (1, 1, False), (4, 2, True)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_spectral_conv_equals_torchs(kernel: int, stride: int, bias: bool, memory_format: torch.memory_format) -> None:
    ours, plain = (conv.to(memory_format=memory_format) for conv in pair(kernel, stride, bias))
    for side in (2, 24):  # the weight is larger than the output; smaller
        x = torch.randn(1, 6, side, side, requires_grad=True)
        assert ours._scales_output(x) == (side == 2)
        got, want = ours(x), plain(x)
        torch.testing.assert_close(got, want)
        leaves = [[x, *conv.parameters()] for conv in (ours, plain)]
        for mine, theirs in zip(gradients(got, leaves[0]), gradients(want, leaves[1]), strict=True):
            torch.testing.assert_close(mine, theirs)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("bias", [True, False])
def test_spectral_conv_under_autocast(bias: bool) -> None:
    """As near to the float32 way as torch's own, with the weight's gradient and vectors in float32."""
    ours, plain = pair(3, 1, bias)
    exact, _ = pair(3, 1, bias)
    x = torch.randn(1, 6, 2, 2, requires_grad=True)
    want, leaves = exact(x), [x, *exact.parameters()]
    expected = gradients(want, leaves)
    errors = []
    for conv in (ours, plain):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = conv(x)
        assert got.dtype == torch.bfloat16
        found = gradients(got.float(), [x, *conv.parameters()])
        assert {gradient.dtype for gradient in found} == {torch.float32}
        pairs = zip([got.float(), *found], [want, *expected], strict=True)
        errors.append([float((mine - exactly).detach().norm() / exactly.detach().norm()) for mine, exactly in pairs])
    assert max(errors[0]) < 2e-2
    assert max(errors[0]) < 2 * max(errors[1])
    for name, value in exact.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


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
