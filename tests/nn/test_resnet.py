from __future__ import annotations

import pytest
import torch
from torch import nn

from lab2pix.nn.resnet import ResNetBlock, ResNetGenerator


@pytest.mark.parametrize(("blocks", "parameters"), [(9, 11_378_179), (6, 7_837_699)])
def test_resnet_generator_published_has_so_many_parameters(blocks: int, parameters: int) -> None:
    with torch.device("meta"):
        network = ResNetGenerator(3, blocks=blocks)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_resnet_block_adds_its_input_and_nothing_after() -> None:
    block = ResNetBlock(2)
    for parameter in block.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(1, 2, 5, 5)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(("dropout", "second"), [(None, "5"), (0.5, "6")])
def test_resnet_block_with_dropout_shifts_the_second_convolution(dropout: float | None, second: str) -> None:
    assert f"conv_block.{second}.weight" in ResNetBlock(1, dropout=dropout).state_dict()


def test_features_are_the_outputs_of_layers_and_later_layers_do_not_run() -> None:
    network = ResNetGenerator(3, width=2, blocks=2, antialias_down=True)
    x, ran = torch.randn(1, 3, 16, 16), []
    for index, layer in enumerate(network.model):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    image, *others = network.features(x, [0, 4, 12])
    assert torch.equal(image, network.model[0](x))
    assert ran == [*range(13), 0]
    assert torch.equal(others[0], network.model[:5](x))
    assert torch.equal(others[1], network.model[:13](x))
