from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parametrize

from lab2pix.nn.discriminators import (
    HierarchicalDiscriminator,
    MultiScaleDiscriminator,
    PatchDiscriminator,
    downsample,
)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_hierarchical_discriminator_returns_levels_and_features_in_order(levels: int) -> None:
    network = HierarchicalDiscriminator(6, (5, 7, 9), levels=levels, width=2, max_width=16)
    seen = [torch.randn(2, channels, 16 >> level, 8 >> level) for level, channels in enumerate((5, 7, 9))]
    output = network(torch.randn(2, 6, 128, 64), seen[:levels])
    assert [tuple(prediction.shape) for prediction in output.predictions] == [
        (2, 1, 16 >> level, 8 >> level) for level in range(levels)
    ]
    expected = [(2, 2, 64, 32), (2, 4, 32, 16), (2, 8, 16, 8), (2, 16, 16, 8)]
    expected += [shape for level in range(1, levels) for shape in [(2, 16, 16 >> level, 8 >> level)] * 2]
    assert [tuple(feature.shape) for feature in output.features] == expected


def test_hierarchical_discriminator_normalizes_all_but_first_and_last_layers() -> None:
    network = HierarchicalDiscriminator(6, (5, 7, 9), levels=3, width=2, max_width=16)
    free = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Conv2d) and not parametrize.is_parametrized(layer)
    ]
    assert free == ["trunk.0.0", "heads.0.1", "heads.1.1", "heads.2.1"]
    assert all(network.get_submodule(name).bias is not None for name in free)


def test_hierarchical_discriminator_does_not_change_its_inputs() -> None:
    network = HierarchicalDiscriminator(6, (5,), levels=1, width=2, max_width=8)
    x, seen = torch.randn(1, 6, 64, 64), torch.randn(1, 5, 8, 8)
    kept = x.clone(), seen.clone()
    network(x, [seen])
    assert torch.equal(x, kept[0])
    assert torch.equal(seen, kept[1])


def test_patch_discriminator_sizes_are_spades() -> None:
    network = PatchDiscriminator(6, width=4, max_width=16)
    output = network(torch.randn(2, 6, 64, 64), [])
    assert [tuple(feature.shape) for feature in output.features] == [
        (2, 4, 33, 33), (2, 8, 17, 17), (2, 16, 9, 9), (2, 16, 10, 10),
    ]  # fmt: skip
    assert [tuple(prediction.shape) for prediction in output.predictions] == [(2, 1, 11, 11)]


def test_multi_scale_discriminator_has_a_network_per_scale() -> None:
    network = MultiScaleDiscriminator([PatchDiscriminator(6, width=2, max_width=4) for _ in range(2)])
    x = torch.randn(1, 6, 64, 64)
    outputs = network([x, downsample(x)], [[], []])
    assert len(outputs) == 2
    assert outputs[1].predictions[0].shape[-1] < outputs[0].predictions[0].shape[-1]
    with pytest.raises(ValueError, match="zip"):
        network([x], [[], []])


@pytest.mark.parametrize("scales", [1, 2, 3])
def test_multi_scale_discriminator_has_a_level_less_per_scale(scales: int) -> None:
    network = MultiScaleDiscriminator.hierarchical(6, (5, 7, 9), scales=scales, width=2, max_width=8)
    inputs = [torch.randn(1, 6, 64 >> scale, 64 >> scale) for scale in range(scales)]
    features = [
        [
            torch.randn(1, width, 8 >> scale + level, 8 >> scale + level)
            for level, width in enumerate((5, 7, 9)[: 3 - scale])
        ]
        for scale in range(scales)
    ]
    assert [len(output.predictions) for output in network(inputs, features)] == [3, 2, 1][:scales]


def test_downsample_does_not_count_the_padding() -> None:
    assert torch.equal(downsample(torch.ones(1, 1, 8, 6)), torch.ones(1, 1, 4, 3))
    ramp = torch.arange(16.0).view(1, 1, 4, 4)
    assert downsample(ramp)[0, 0, 0, 0] == ramp[0, 0, :2, :2].mean()
    assert downsample(ramp)[0, 0, 1, 1] == ramp[0, 0, 1:4, 1:4].mean()
