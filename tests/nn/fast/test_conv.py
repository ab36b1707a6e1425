from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lab2pix.nn.backbones import VGG16
from lab2pix.nn.fast import accelerate, conv, im2col, winograd
from lab2pix.nn.fast.conv import EvalConv2d, FastConv2d


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every possible convolution run by Winograd's algorithm; return the names of the kernels that ran."""
    taken: list[str] = []
    for name in ("_MIN_TILES", "_MIN_CHANNELS", "_MIN_CHANNELS_CONTIGUOUS"):
        monkeypatch.setattr(winograd, name, 0)
    for module in (winograd, im2col):
        name, plain = module.__name__.rpartition(".")[2], module.convolve
        monkeypatch.setattr(
            module, "convolve", lambda *given, plain=plain, name=name: taken.append(name) or plain(*given)
        )
    return taken


def step(network: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Return an output and all gradients."""
    x = x.detach().requires_grad_()
    result = network(x)
    wanted = [x, *(p for p in network.parameters() if p.requires_grad)]
    return [result.detach(), *torch.autograd.grad(result.square().sum(), wanted)]


def test_fast_conv_is_deterministic():
    network, x = FastConv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last), torch.randn(3, 128, 40, 36)
    x = x.contiguous(memory_format=torch.channels_last)
    assert conv.select_kernel(x, network.weight, (1, 1), (1, 1)) is winograd
    assert all(
        torch.equal(first, again) for first, again in zip(step(network, x), step(network, x.clone()), strict=True)
    )


def test_fast_conv_output_may_be_changed_in_place(everywhere):
    network, x = FastConv2d(3, 4, 3, padding=1), torch.randn(1, 3, 8, 8)
    plain = F.conv2d(x, network.weight, network.bias, padding=1)
    torch.testing.assert_close(F.leaky_relu(network(x), 0.2, inplace=True).add_(1), F.leaky_relu(plain, 0.2) + 1)
    assert everywhere


def test_fast_conv_is_plain_in_evaluation_but_for_frozen_backbones(everywhere):
    x = torch.randn(1, 3, 8, 8)
    FastConv2d(3, 4, 3, padding=1).eval()(x)
    assert not everywhere
    EvalConv2d(3, 4, 3, padding=1).eval()(x)
    assert everywhere == ["winograd"]


@pytest.mark.parametrize(
    "given",
    [
        {"groups": 3}, {"dilation": 2, "padding": 2}, {"padding_mode": "reflect", "padding": 1}, {"padding": "same"},
        {"stride": 2, "padding": 1}, {"padding": 0},
    ],
)  # fmt: skip
def test_fast_conv_of_other_kinds_is_torchs(given, everywhere, monkeypatch):
    monkeypatch.setattr(im2col, "_MIN_WEIGHTS", 0 if given.get("padding") == "same" or "groups" in given else 2**20)
    fast, plain = FastConv2d(3, 6, 3, **given), nn.Conv2d(3, 6, 3, **given)
    plain.load_state_dict(fast.state_dict())
    x = torch.randn(1, 3, 12, 12)
    assert torch.equal(fast(x), plain(x))
    assert not everywhere


def test_fast_conv_refuses_types_that_do_not_fit_as_torch(everywhere):
    with pytest.raises(RuntimeError, match="type"):
        FastConv2d(3, 4, 3, padding=1)(torch.randn(1, 3, 8, 8).double())


def test_fast_conv_keeps_double_precision_under_autocast(everywhere, monkeypatch):
    monkeypatch.setattr(im2col, "_MIN_WEIGHTS", 0)
    network, x = FastConv2d(3, 4, 3, padding=1).double(), torch.randn(1, 3, 8, 8).double()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(x).dtype == torch.float64


def test_fast_conv_has_shapes_without_numbers():
    network = accelerate(VGG16().to("meta"), torch.device("cpu"))
    assert network(torch.empty(1, 3, 64, 64, device="meta")).discriminator[0].shape == (1, 256, 8, 8)
