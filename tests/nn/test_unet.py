from __future__ import annotations

import pytest
import torch
from torch import nn

from lab2pix.nn.unet import UNetGenerator


def layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, kind)]


def test_unet_published_has_8_levels_of_at_most_8_widths() -> None:
    with torch.device("meta"):
        network = UNetGenerator(3, width=64)
    assert [down.conv.out_channels for down in network.down] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [up.conv.in_channels for up in network.up] == [128, 256, 512, 1024, 1024, 1024, 1024, 512]
    assert [up.conv.out_channels for up in network.up] == [3, 64, 128, 256, 512, 512, 512, 512]
    assert sum(parameter.numel() for parameter in network.parameters()) == 54_413_955


@pytest.mark.parametrize(("levels", "expected"), [(8, [4, 5, 6]), (7, [4, 5]), (5, []), (3, [])])
def test_unet_drops_out_between_level_4_and_the_innermost(levels: int, expected: list[int]) -> None:
    network = UNetGenerator(3, width=1, levels=levels)
    assert [level for level, up in enumerate(network.up) if layers(up, nn.Dropout)] == expected
    assert all(isinstance(network.up[level][-1], nn.Dropout) for level in expected)


def test_unet_keeps_the_size_and_skips_past_the_innermost() -> None:
    network = UNetGenerator(2, 4, width=2, levels=3, norm="none")
    image = network(torch.randn(1, 2, 16, 24))
    assert image.shape == (1, 4, 16, 24)
    assert image.abs().max() <= 1
    nn.init.zeros_(network.up[-1].conv.weight)
    first, second = (network(torch.randn(1, 2, 16, 24)) for _ in range(2))
    assert not torch.equal(first, second)


def test_unet_draws_noise_by_dropout_in_train_mode_only() -> None:
    network = UNetGenerator(3, width=1, levels=6, norm="instance")
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
