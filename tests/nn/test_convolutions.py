from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lab2pix.nn import convolutions, small_maps, winograd
from lab2pix.nn.backbones import VGG16
from lab2pix.nn.convolutions import Conv2d, FrozenConv2d
from lab2pix.nn.spectral import spectral_conv2d

LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every convolution that fits take the quick ways; return the names of those taken."""
    taken: list[str] = []
    monkeypatch.setattr(winograd, "_TILES", 0)
    monkeypatch.setattr(winograd, "_CHANNELS", 0)
    monkeypatch.setattr(winograd, "_CHANNELS_FIRST", 0)
    for module in (winograd, small_maps):
        name = module.__name__.rpartition(".")[2]
        plain = module.convolve
        monkeypatch.setattr(
            module, "convolve", lambda *given, plain=plain, name=name: taken.append(name) or plain(*given)
        )
    return taken


def step(conv: nn.Module, x: torch.Tensor, low: bool = False) -> list[torch.Tensor]:
    """Return a result and all gradients."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
        result = conv(x)
    wanted = [x, *(p for p in conv.parameters() if p.requires_grad)]
    return [result.detach().float(), *torch.autograd.grad(result.float().square().sum(), wanted)]


@pytest.mark.parametrize("order", LAYOUTS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_in_float32_is_torchs(order, bias, everywhere):
    torch.manual_seed(0)
    ours, theirs = Conv2d(6, 8, 3, padding=1, bias=bias), nn.Conv2d(6, 8, 3, padding=1, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, 9, 10)
    found = step(ours.to(memory_format=order), x.contiguous(memory_format=order))
    assert everywhere == ["winograd"]
    for mine, expected in zip(found, step(theirs, x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_in_a_low_type_is_torchs(order, dtype, everywhere, monkeypatch):
    monkeypatch.setattr(small_maps, "_WEIGHTS", 0)
    torch.manual_seed(0)
    conv = Conv2d(6, 8, 3, padding=1).to(memory_format=order)
    x = torch.randn(2, 6, 5, 4).to(dtype, memory_format=order)
    found = step(conv, x, low=True)
    assert everywhere == ["small_maps"]
    monkeypatch.setattr(convolutions, "quick_way", lambda *given, **named: None)
    for mine, expected in zip(found, step(conv, x, low=True), strict=True):
        assert mine.dtype == expected.dtype
        assert float((mine - expected).norm() / expected.norm()) < 1e-2


def test_the_same_step_gives_the_same_digits():
    torch.manual_seed(0)
    conv, x = Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last), torch.randn(3, 128, 40, 36)
    x = x.contiguous(memory_format=torch.channels_last)
    assert convolutions.quick_way(x, conv.weight, (1, 1), (1, 1)) is winograd
    assert all(torch.equal(first, again) for first, again in zip(step(conv, x), step(conv, x.clone()), strict=True))


def test_a_result_may_be_changed_in_place(everywhere):
    conv = Conv2d(3, 4, 3, padding=1)
    x = torch.randn(1, 3, 8, 8)
    plain = F.conv2d(x, conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(F.leaky_relu(conv(x), 0.2, inplace=True).add_(1), F.leaky_relu(plain, 0.2) + 1)
    assert everywhere


def test_evaluation_is_torchs_own_but_for_frozen_networks(everywhere):
    x = torch.randn(1, 3, 8, 8)
    Conv2d(3, 4, 3, padding=1).eval()(x)
    assert not everywhere
    FrozenConv2d(3, 4, 3, padding=1).eval()(x)
    assert everywhere == ["winograd"]


@pytest.mark.parametrize(
    "given",
    [
        {"groups": 3}, {"dilation": 2, "padding": 2}, {"padding_mode": "reflect", "padding": 1}, {"padding": "same"},
        {"stride": 2, "padding": 1}, {"padding": 0},
    ],
)  # fmt: skip
def test_other_convolutions_are_torchs(given, everywhere, monkeypatch):
    monkeypatch.setattr(small_maps, "_WEIGHTS", 0 if given.get("padding") == "same" or "groups" in given else 2**20)
    conv = Conv2d(3, 6, 3, **given)
    plain = nn.Conv2d(3, 6, 3, **given)
    plain.load_state_dict(conv.state_dict())
    x = torch.randn(1, 3, 12, 12)
    assert torch.equal(conv(x), plain(x))
    assert not everywhere


def test_types_that_do_not_fit_are_refused_as_by_torch(everywhere):
    with pytest.raises(RuntimeError, match="type"):
        Conv2d(3, 4, 3, padding=1)(torch.randn(1, 3, 8, 8).double())


@pytest.mark.slow
def test_a_program_is_made_of_torchs_convolutions(everywhere):
    conv = Conv2d(3, 4, 3, padding=1)
    x = torch.randn(1, 3, 8, 8)
    program = torch.compile(conv, backend="eager", fullgraph=True)
    torch.testing.assert_close(program(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
    assert not everywhere


def test_vgg_looks_the_quick_way(everywhere, monkeypatch):
    torch.manual_seed(0)
    network = VGG16()
    image = torch.randn(1, 3, 32, 32)
    found = network(image, levels=3, perceptual=True)
    assert "winograd" in everywhere
    monkeypatch.setattr(convolutions, "quick_way", lambda *given, **named: None)
    for mine, expected in zip(found.perceptual, network(image, perceptual=True).perceptual, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", LAYOUTS)
def test_spectral_convolutions_are_torchs(order, everywhere):
    torch.manual_seed(0)
    ours = spectral_conv2d(8, 8, 3, stride=1, padding=1, bias=True)
    theirs = torch.nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1))
    theirs.load_state_dict(ours.state_dict())
    ours.to(memory_format=order)
    x = torch.randn(1, 8, 6, 6)  # the weight is larger than the result
    for mine, expected in zip(step(ours, x), step(theirs, x), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
    for mine, expected in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, expected)
    assert everywhere == ["winograd"]


def test_a_double_condition_stays_one_under_autocast(everywhere, monkeypatch):
    monkeypatch.setattr(small_maps, "_WEIGHTS", 0)
    conv, x = Conv2d(3, 4, 3, padding=1).double(), torch.randn(1, 3, 8, 8).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(x).dtype == torch.float64


def test_shapes_can_be_asked_for_without_numbers():
    assert VGG16().to("meta")(torch.empty(1, 3, 64, 64, device="meta")).discriminator[0].shape == (1, 256, 8, 8)
