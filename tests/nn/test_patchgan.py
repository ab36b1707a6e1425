from __future__ import annotations

import pytest
import torch
from torch import nn

from lab2pix.nn.patchgan import PatchGAN, PixelGAN


def field_of_view(network: nn.Module, side: int) -> int:
    """Return how many columns of the input one logit depends on."""
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    x = torch.rand(1, 1, side, side, requires_grad=True)
    logits = network(x)
    logits[0, 0, logits.shape[-2] // 2, logits.shape[-1] // 2].backward()
    assert x.grad is not None
    return int((x.grad.abs().sum((0, 1, 2)) > 0).sum())


@pytest.mark.parametrize(("layers", "expected"), [(1, 16), (2, 34), (3, 70)])
def test_patchgan_sees_patches(layers: int, expected: int) -> None:
    assert field_of_view(PatchGAN(1, width=1, layers=layers, norm="none"), 128) == expected


def test_pixelgan_sees_pixels() -> None:
    assert field_of_view(PixelGAN(1, width=1, norm="none"), 8) == 1


@pytest.mark.parametrize(("layers", "side"), [(1, 126), (2, 62), (3, 30), (4, 14)])
def test_patchgan_answers_a_logit_per_patch(layers: int, side: int) -> None:
    assert PatchGAN(2, width=1, layers=layers)(torch.zeros(1, 2, 256, 256)).shape == (1, 1, side, side)


def test_patchgan_published_has_so_many_parameters() -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in PatchGAN(6).parameters()) == 2_768_705
        assert sum(parameter.numel() for parameter in PatchGAN(3, norm="instance").parameters()) == 2_764_737


def test_patchgan_widths_stop_at_8() -> None:
    network = PatchGAN(1, width=1, layers=5)
    assert [layer.out_channels for layer in network.model if isinstance(layer, nn.Conv2d)] == [1, 2, 4, 8, 8, 8, 1]
