from __future__ import annotations

import torch

from lab2pix.nn.local_enhancer import LocalEnhancer
from lab2pix.nn.resnet import ResNetGenerator


def test_local_enhancer_keeps_the_size_and_has_the_global_generators_weights() -> None:
    network = LocalEnhancer(5, width=2, blocks=1, downsamplings=1, enhancers=2, enhancer_blocks=1)
    assert network(torch.randn(1, 5, 16, 24)).shape == (1, 3, 16, 24)
    alone = ResNetGenerator(5, width=8, blocks=1, downsamplings=1, bias=True)
    own = {name: weight.shape for name, weight in network.state_dict().items()}
    shared = {name: weight.shape for name, weight in alone.state_dict().items() if not name.startswith("model.12.")}
    assert shared.items() <= own.items()
    assert {name.partition(".")[0] for name in own} == {"model", "model1_1", "model1_2", "model2_1", "model2_2"}
    assert {name for name in own if name.startswith("model.")} == set(shared)


def test_resnet_generator_of_any_number_of_halvings_keeps_the_size() -> None:
    for downsamplings in (0, 1, 3):
        network = ResNetGenerator(2, 4, width=2, blocks=0, downsamplings=downsamplings)
        assert network(torch.randn(1, 2, 16, 24)).shape == (1, 4, 16, 24)
