from __future__ import annotations

import pytest
import torch

from lab2pix.nn.backbones import VGG19, EfficientNetLite0
from lab2pix.nn.reader import FeatureReader


def features(backbone, sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    channels = backbone.perceptual_channels
    return [torch.randn(2, count, *size, generator=generator) for count, size in zip(channels, sizes, strict=True)]


@pytest.mark.parametrize(
    ("backbone", "sizes"),
    [
        (EfficientNetLite0, [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]),
        (VGG19, [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]),
        (EfficientNetLite0, [(33, 41), (17, 21), (9, 11), (5, 6), (3, 3)]),  # sides that do not halve evenly
    ],
)
def test_logits_have_the_size_of_the_finest_feature_and_every_feature_counts(backbone, sizes):
    torch.manual_seed(0)
    reader = FeatureReader(backbone.perceptual_channels, 5)
    seen = [feature.requires_grad_() for feature in features(backbone, sizes)]
    logits = reader(seen)
    assert logits.shape == (2, 5, *sizes[0])
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(feature.grad.abs().sum() > 0 for feature in seen)
    assert all(parameter.grad is not None for parameter in reader.parameters())


def test_pictures_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    reader = FeatureReader(EfficientNetLite0.perceptual_channels, 3, width=8)
    seen = features(EfficientNetLite0, [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)])
    together = reader(seen)
    for place in range(2):
        alone = reader([feature[place : place + 1] for feature in seen])
        torch.testing.assert_close(alone, together[place : place + 1])
