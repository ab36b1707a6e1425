"""Memory-saving autograd functions against plain computations."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lab2pix.nn.fast.autograd import batch_norm_modulate, can_fuse, instance_norm_leaky_relu, relu_add_
from lab2pix.nn.fast.memory_format import as_matrix


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def gradients(result: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    weight = torch.sin(torch.arange(result.numel(), dtype=torch.float32)).view(result.shape)
    return list(torch.autograd.grad((result * weight).sum(), leaves))


@pytest.mark.parametrize("slope", [0.2, 1.0])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
def test_batch_norm_modulate_equals_plain(
    slope: float, memory_format: torch.memory_format, momentum: float | None
) -> None:
    torch.manual_seed(0)
    inputs = [
        torch.randn(2, 5, 6, 7).add(1).to(memory_format=memory_format).requires_grad_(),
        *(torch.randn(2, 5, 6, 7).to(memory_format=memory_format).requires_grad_() for _ in range(2)),
    ]
    ours, plain = (nn.BatchNorm2d(5, affine=False, momentum=momentum) for _ in range(2))
    for _ in range(2):
        got = batch_norm_modulate(ours, inputs[0], inputs[1], inputs[2], slope)
        want = F.leaky_relu(plain(inputs[0]) * inputs[1] + inputs[2], slope)
        torch.testing.assert_close(got, want)
        assert got.is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(gradients(got, inputs), gradients(want, inputs), rtol=1e-4, atol=1e-5)
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_instance_norm_leaky_relu_of_a_channels_last_map(count: int, dtype: torch.dtype) -> None:
    x = (torch.randn(count, 5, 6, 7) * 3 + 1).to(dtype, memory_format=torch.channels_last)
    direction = torch.randn(count, 5, 6, 7).to(dtype)
    plain = x.double().contiguous().requires_grad_()
    want = F.leaky_relu(F.instance_norm(plain), 0.2)
    (slope,) = torch.autograd.grad(want, plain, direction.double())
    for order in (torch.contiguous_format, torch.channels_last):
        ours = x.detach().requires_grad_()
        got = instance_norm_leaky_relu(ours, 1e-5, 0.2)
        assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
        (found,) = torch.autograd.grad(got, ours, direction.contiguous(memory_format=order))
        assert found.is_contiguous(memory_format=torch.channels_last)
        limit = 1e-5 if dtype == torch.float32 else 2e-2
        for mine, theirs in ((got, want), (found, slope)):
            assert float((mine - theirs).detach().norm() / theirs.detach().norm()) < limit


def test_batch_norm_modulate_without_a_counter_or_statistics() -> None:
    norm = nn.BatchNorm2d(3, affine=False, momentum=0.0)
    norm.num_batches_tracked = None
    before = norm.running_mean.clone()
    batch_norm_modulate(norm, leaf(2, 3, 4, 4), leaf(2, 3, 4, 4), leaf(2, 3, 4, 4))
    assert torch.equal(norm.running_mean, before)
    bare = nn.BatchNorm2d(3, affine=False, track_running_stats=False)
    x, scale, shift = leaf(2, 3, 4, 4), leaf(2, 3, 4, 4), leaf(2, 3, 4, 4)
    torch.testing.assert_close(batch_norm_modulate(bare, x, scale, shift), bare(x) * scale + shift)


def test_can_fuse_only_a_training_step_through_a_plain_batch_norm() -> None:
    x, y = leaf(2, 3, 4, 4), leaf(2, 3, 4, 4)
    norm = nn.BatchNorm2d(3, affine=False)
    assert can_fuse(norm, x, y)
    assert not can_fuse(norm, x, y.bfloat16())
    assert not can_fuse(nn.BatchNorm2d(3), x, y)
    assert not can_fuse(nn.SyncBatchNorm(3, affine=False), x, y)
    assert not can_fuse(norm, leaf(1, 3, 1, 1), leaf(1, 3, 1, 1))
    with torch.no_grad():
        assert not can_fuse(norm, x, y)
    assert not can_fuse(norm.eval(), x, y)


def test_relu_add_equals_plain() -> None:
    x, summand = leaf(2, 3, 4, 4), leaf(2, 3, 4, 4)
    got, want = relu_add_(x * 1, summand), F.relu(x) + summand
    assert torch.equal(got, want)
    torch.testing.assert_close(gradients(got, [x, summand]), gradients(want, [x, summand]), rtol=0, atol=0)
    with torch.no_grad():
        assert torch.equal(relu_add_(x * 1, summand), want)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_as_matrix_is_a_view(memory_format: torch.memory_format) -> None:
    weight = torch.randn(4, 3, 5, 2).to(memory_format=memory_format)
    matrix = as_matrix(weight)
    assert matrix.shape == (4, 30)
    assert matrix.data_ptr() == weight.data_ptr()


def test_relu_add_gradient_keeps_the_memory_format() -> None:
    x, summand = (torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last) for _ in range(2))
    x.requires_grad_(), summand.requires_grad_()
    seen: list[torch.Tensor] = []
    before = x * 1
    before.register_hook(seen.append)
    relu_add_(before, summand).square().sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
