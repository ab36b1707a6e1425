"""The functions that keep less against the plain ways that they stand for."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from lab2pix.nn import modulation
from lab2pix.nn.blocks import GenResBlk
from lab2pix.nn.checkpointing import checkpointed
from lab2pix.nn.fused import add_to_relu, fuses, instance_norm_act, normalise_and_modulate
from lab2pix.nn.layouts import as_matrix
from lab2pix.nn.spectral import SpectralConv2d, shared_weights, spectral_conv2d


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, dtype=dtype).requires_grad_()


def gradients(result: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weight = torch.sin(torch.arange(result.numel(), dtype=torch.float32)).view(result.shape)
    return list(torch.autograd.grad((result * weight).sum(), leaves))


@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_modulation_equals_the_plain_way(slope: float, layout: torch.memory_format, momentum: float | None) -> None:
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 5, 6, 7).add(1).to(memory_format=layout).requires_grad_(),
        *(torch.randn(2, 5, 6, 7).to(memory_format=layout).requires_grad_() for _ in range(2)),
    ]
    ours, plain = (nn.BatchNorm2d(5, affine=False, momentum=momentum) for _ in range(2))
    for _ in range(2):
        got = normalise_and_modulate(ours, inputs[0], inputs[1], inputs[2], slope)
        want = F.leaky_relu(plain(inputs[0]) * inputs[1] + inputs[2], slope)
        torch.testing.assert_close(got, want)
        assert got.is_contiguous(memory_format=layout)
        for mine, theirs in zip(gradients(got, inputs), gradients(want, inputs), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_of_a_channels_last_map(count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = (torch.randn(count, 5, 6, 7) * 3 + 1).to(dtype, memory_format=torch.channels_last)
    direction = torch.randn(count, 5, 6, 7).to(dtype)
    plain = x.double().contiguous().requires_grad_()
    want = F.leaky_relu(F.instance_norm(plain), 0.2)
    (slope,) = torch.autograd.grad(want, plain, direction.double())
    for order in (torch.contiguous_format, torch.channels_last):
        ours = x.detach().requires_grad_()
        got = instance_norm_act(ours, 1e-5, 0.2)
        assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
        (found,) = torch.autograd.grad(got, ours, direction.contiguous(memory_format=order))
        assert found.is_contiguous(memory_format=torch.channels_last)
        limit = 1e-5 if dtype == torch.float32 else 2e-2
        for mine, theirs in ((got, want), (found, slope)):
            assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < limit


def test_modulation_without_a_counter_or_statistics() -> None:
    norm = nn.BatchNorm2d(3, affine=False, momentum=0.0)
    norm.num_batches_tracked = None
    before = norm.running_mean.clone()
    normalise_and_modulate(norm, leaf(2, 3, 4, 4), leaf(2, 3, 4, 4), leaf(2, 3, 4, 4))
    assert torch.equal(norm.running_mean, before)
    bare = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    x, scale, shift = leaf(2, 3, 4, 4), leaf(2, 3, 4, 4), leaf(2, 3, 4, 4)
    torch.testing.assert_close(normalise_and_modulate(bare, x, scale, shift), bare(x) * scale + shift)


@pytest.mark.parametrize("slope", [0.2, 1.0])
def test_gradients_of_modulation_are_right(slope: float) -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(2, affine=False).double()
    inputs = tuple(leaf(2, 2, 3, 3, dtype=torch.float64) for _ in range(3))
    assert torch.autograd.gradcheck(lambda x, a, b: normalise_and_modulate(norm, x, a, b, slope), inputs)


def test_modulation_in_half_precision() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, affine=False)
    exact = [torch.randn(2, 4, 8, 8, requires_grad=True) for _ in range(3)]
    half = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    got, want = (normalise_and_modulate(norm, x, a, b, 0.2) for x, a, b in (half, exact))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.05)
    for mine, theirs in zip(gradients(got, half), gradients(want, exact), strict=True):
        assert mine.dtype == torch.bfloat16
        torch.testing.assert_close(mine.float(), theirs, rtol=0.1, atol=0.1)


def test_where_the_plain_way_is_taken() -> None:
    x, y = leaf(2, 3, 4, 4), leaf(2, 3, 4, 4)
    norm = nn.BatchNorm2d(3, affine=False)
    assert fuses(norm, x, y)
    assert not fuses(norm, x, y.bfloat16())
    assert not fuses(nn.BatchNorm2d(3), x, y)
    assert not fuses(nn.SyncBatchNorm(3, affine=False), x, y)
    assert not fuses(norm, leaf(1, 3, 1, 1), leaf(1, 3, 1, 1))
    with torch.no_grad():
        assert not fuses(norm, x, y)
    assert not fuses(norm.eval(), x, y)


def test_add_to_relu() -> None:
    torch.manual_seed(0)
    x, summand = leaf(2, 3, 4, 4), leaf(2, 3, 4, 4)
    got, want = add_to_relu(x * 1, summand), F.relu(x) + summand
    assert torch.equal(got, want)
    for mine, theirs in zip(gradients(got, [x, summand]), gradients(want, [x, summand]), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        assert torch.equal(add_to_relu(x * 1, summand), want)


def pair(kernel: int, stride: int, bias: bool) -> tuple[SpectralConv2d, nn.Conv2d]:
    """Return our convolution, and torch's own with the same weights and vectors."""
    torch.manual_seed(0)
    ours = spectral_conv2d(6, 8, kernel, stride=stride, padding=kernel // 2, bias=bias)
    plain = spectral_norm(nn.Conv2d(6, 8, kernel, stride=stride, padding=kernel // 2, bias=bias))
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize(("kernel", "stride", "bias"), [(3, 1, True), (3, 2, False), (1, 1, False), (4, 2, True)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_spectral_convolution_equals_torchs(kernel: int, stride: int, bias: bool, layout: torch.memory_format) -> None:
    ours, plain = (conv.to(memory_format=layout) for conv in pair(kernel, stride, bias))
    for side in (2, 24):  # the weight is larger than the result; smaller
        x = torch.randn(1, 6, side, side, requires_grad=True)
        assert ours._shortens(x, ours.parametrizations.weight.original) == (side == 2)
        got, want = ours(x), plain(x)
        torch.testing.assert_close(got, want)
        leaves = [[x, *conv.parameters()] for conv in (ours, plain)]
        for mine, theirs in zip(gradients(got, leaves[0]), gradients(want, leaves[1]), strict=True):
            torch.testing.assert_close(mine, theirs)
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_weight_is_a_matrix_without_a_copy(layout: torch.memory_format) -> None:
    weight = torch.randn(4, 3, 5, 2).to(memory_format=layout)
    matrix = as_matrix(weight)
    assert matrix.shape == (4, 30)
    assert matrix.data_ptr() == weight.data_ptr()


@pytest.mark.parametrize("bias", [True, False])
def test_spectral_convolution_under_autocast(bias: bool) -> None:
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


def test_spectral_convolution_twice_before_its_backward_pass() -> None:
    ours, plain = pair(3, 1, True)
    inputs = [torch.randn(1, 6, 2, 2) for _ in range(2)]
    for conv in (ours, plain):
        sum(conv(x).square().sum() for x in inputs).backward()
    torch.testing.assert_close(ours.parametrizations.weight.original.grad, plain.parametrizations.weight.original.grad)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("low", [False, True])
def test_passes_over_frozen_weights_share_one_power_iteration(layout: torch.memory_format, low: bool) -> None:
    ours, plain = (conv.to(memory_format=layout).requires_grad_(False) for conv in pair(3, 1, True))
    for _ in range(2):
        x, photo = torch.randn(1, 6, 2, 2, requires_grad=True), torch.randn(1, 6, 2, 2)
        with shared_weights(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            got = ours(x)
            assert ours._shortens(x, ours.parametrizations.weight.original)
            with torch.no_grad():
                seen = ours(photo)
        with parametrize.cached():
            want, expected = plain(x), plain(photo)
        found = [got, seen, *gradients(got.float(), [x])]
        for mine, theirs in zip(found, [want, expected, *gradients(want, [x])], strict=True):
            assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < (2e-2 if low else 1e-5)
        for name, value in plain.state_dict().items():  # moved once, by the first pass
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name)
    with parametrize.cached():
        assert not ours._shortens(x, ours.parametrizations.weight.original)


def test_spectral_convolution_leaves_torchs_way_to_others() -> None:
    conv, _ = pair(3, 1, True)
    x, weight = torch.randn(1, 6, 2, 2), conv.parametrizations.weight.original
    assert conv._shortens(x, weight)
    with torch.autocast("cpu", dtype=torch.float16):  # results of a weight that is not divided might not fit in
        assert not conv._shortens(x, weight)
        assert conv(x).dtype == torch.float16
    assert not conv._shortens(x.bfloat16(), weight)
    with torch.no_grad():
        assert not conv._shortens(x, weight)
    weight.requires_grad_(False)
    assert not conv._shortens(x, weight)
    weight.requires_grad_(True)
    assert not conv.eval()._shortens(x, weight)
    want = conv(x)
    parametrize.remove_parametrizations(conv, "weight")
    assert torch.equal(conv.train()(x), want)


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True])
def test_block_equals_its_plain_self(again: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    ours = GenResBlk(12, 6, 4, hidden=8).train()
    plain = copy.deepcopy(ours)
    x, label, feature = leaf(2, 12, 3, 3), torch.randn(2, 4, 3, 3), leaf(2, 8, 3, 3)
    got = checkpointed(ours, x, label, feature) if again else ours(x, label, feature)
    mine = gradients(got, [x, feature, *ours.parameters()])
    monkeypatch.setattr(modulation, "fuses", lambda *features: False)
    monkeypatch.setattr(modulation, "add_to_relu", lambda x, summand: F.relu(x) + summand)
    monkeypatch.setattr(SpectralConv2d, "_shortens", lambda *inputs: False)
    want = plain(x, label, feature)
    torch.testing.assert_close(got, want)
    for ours_, theirs in zip(mine, gradients(want, [x, feature, *plain.parameters()]), strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=1e-3, atol=1e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_gradients_of_a_sum_lie_in_memory_as_the_sum_does() -> None:
    x, summand = (torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_(), summand.requires_grad_()
    seen: list[torch.Tensor] = []
    before = x * 1
    before.register_hook(seen.append)
    add_to_relu(before, summand).square().sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
