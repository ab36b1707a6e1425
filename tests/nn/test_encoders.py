from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab2pix.nn.encoders import GlobalEncoder, NoiseEncoder, SketchEncoder


@settings(max_examples=10, deadline=None)
@given(
    num_upsamples=st.integers(1, 5), height=st.integers(1, 2), width=st.integers(1, 3), channels=st.integers(1, 5),
    out_channels=st.integers(1, 4),
)  # fmt: skip
def test_global_encoder_returns_a_feature_per_scale_smallest_first(
    num_upsamples: int, height: int, width: int, channels: int, out_channels: int
) -> None:
    encoder = GlobalEncoder(channels, num_upsamples=num_upsamples, width=2, max_width=6, out_channels=out_channels)
    features = encoder(torch.rand(1, channels, height << num_upsamples, width << num_upsamples))
    assert [feature.shape for feature in features] == [
        (1, out_channels, height << scale, width << scale) for scale in range(num_upsamples + 1)
    ]


def test_global_encoder_matches_eq2_as_released() -> None:
    encoder, label = (
        GlobalEncoder(3, num_upsamples=3, width=2, max_width=8, out_channels=4).eval(),
        torch.rand(2, 3, 16, 24),
    )
    x = label
    for conv in encoder.down:
        x = F.leaky_relu(conv(x), 0.2)
    for scale, (feature, conv) in enumerate(zip(encoder(label), encoder.scales, strict=True)):
        enlarged = F.interpolate(x, scale_factor=2.0**scale, mode="nearest")
        torch.testing.assert_close(feature, F.relu(conv(enlarged)))


def test_bilinear_global_features_have_no_edges_of_blocks() -> None:
    label, rows = torch.rand(1, 3, 64, 64), {}
    for upsample in ("nearest", "bilinear"):
        torch.manual_seed(1)
        encoder = GlobalEncoder(3, num_upsamples=4, width=4, max_width=8, out_channels=4, upsample=upsample).eval()
        features = encoder(label)
        assert [feature.shape[-1] for feature in features] == [4, 8, 16, 32, 64]
        rows[upsample] = features[-1].diff(dim=-1).abs().amax((0, 1, 2)), features[0]
    torch.testing.assert_close(rows["nearest"][1], rows["bilinear"][1])
    assert rows["nearest"][0][18:29].eq(0).all()  # a block has 16 pixels, of which the inner ones are equal
    assert rows["nearest"][0].max() > 4 * rows["bilinear"][0].max()


def test_global_encoder_widths_double_up_to_the_maximum() -> None:
    encoder = GlobalEncoder(5, num_upsamples=4, width=3, max_width=10, out_channels=7)
    assert [conv.out_channels for conv in encoder.down] == [3, 6, 10, 10, 10]
    assert [conv.stride for conv in encoder.down] == [(1, 1)] + [(2, 2)] * 4


def test_global_encoder_receptive_field_is_the_whole_map() -> None:
    encoder = GlobalEncoder(2, num_upsamples=5, width=4, max_width=8, out_channels=32).eval()
    label = torch.rand(1, 2, 32, 32, requires_grad=True)
    for feature in encoder(label):
        (reach,) = torch.autograd.grad(feature.sum(), label, retain_graph=True)
        assert (reach.abs().sum(1) > 0).float().mean() == pytest.approx(1, abs=0.05)


def test_global_encoder_returns_as_many_scales_as_requested() -> None:
    label = torch.rand(1, 2, 32, 64)
    encoder = GlobalEncoder(2, num_upsamples=5, width=2, max_width=4, out_channels=3, outputs=5)
    assert [feature.shape[-2:] for feature in encoder(label)] == [(1 << scale, 2 << scale) for scale in range(5)]
    assert len(encoder.scales) == 5


def test_noise_encoder_returns_a_map_of_any_size() -> None:
    encoder, noise = NoiseEncoder(8, 5, (2, 4)), torch.randn(3, 8)
    assert encoder(noise).shape == (3, 5, 2, 4)
    assert torch.equal(encoder(noise), F.linear(noise, encoder.weight, encoder.bias).view(3, 5, 2, 4))
    assert torch.equal(encoder(noise, (2, 4)), encoder(noise))
    larger = F.interpolate(encoder(noise), size=(4, 6), mode="bilinear", align_corners=False)
    assert torch.equal(encoder(noise, (4, 6)), larger)


def test_sketch_encoder_layers_are_the_papers() -> None:
    encoder = SketchEncoder(1, 4)
    convolutions = [layer for layer in encoder if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [4, 8, 16, 32, 64, 64]
    assert [conv.kernel_size for conv in convolutions] == [(5, 5)] + [(3, 3)] * 5
    assert [conv.stride for conv in convolutions] == [(1, 1)] + [(2, 2)] * 5
    assert [type(layer) for layer in encoder] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 6
    feature = encoder(torch.randn(2, 1, 64, 96))
    assert feature.shape == (2, 64, 2, 3)
    assert feature.min() == 0
