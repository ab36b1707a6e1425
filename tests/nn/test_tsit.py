from __future__ import annotations

import pytest
import torch

from lab2pix.errors import ConfigError
from lab2pix.nn.tsit import FeatureStream, TSITGenerator, TSITSettings, fadain


def test_stream_halves_by_every_second_pixel_and_doubles_widths() -> None:
    stream = FeatureStream(3, [2, 4, 8]).eval()
    features = stream(torch.randn(1, 3, 8, 16))
    assert [tuple(feature.shape[1:]) for feature in features] == [(2, 8, 16), (4, 4, 8), (8, 2, 4)]
    stream.blocks[0] = torch.nn.Conv2d(3, 2, 1)
    x = torch.randn(1, 3, 8, 16)
    changed = x.clone()
    changed[..., 1::2, :] += 1
    changed[..., 1::2] += 1
    assert torch.equal(stream(x)[1], stream(changed)[1])


def test_fadain_gives_mean_and_deviation_of_the_style() -> None:
    x, style = torch.randn(2, 3, 4, 4), 2 + 3 * torch.randn(2, 3, 5, 6)
    adapted = fadain(x, style)
    assert torch.allclose(adapted.mean((2, 3)), style.mean((2, 3)), atol=1e-4)
    assert torch.allclose(adapted.std((2, 3)), style.std((2, 3)), rtol=1e-3)
    assert torch.allclose(fadain(x, style, 0.25), 0.25 * adapted + 0.75 * x, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 3, 5])
def test_generator_of_any_depth_keeps_the_size(depth: int) -> None:
    size = (2**depth, 2 ** (depth + 1))
    network = TSITGenerator(5, TSITSettings(width=2, num_upsamples=depth))
    assert len(network.blocks) == depth
    assert network(torch.randn(1, 5, *size)).shape == (1, 3, *size)
    assert network.fc.out_channels == 2 * min(2**depth, 16)


def test_generator_names_what_it_lacks() -> None:
    condition, style = torch.randn(1, 3, 8, 16), torch.randn(1, 3, 8, 16)
    with pytest.raises(ConfigError, match="has a style stream; give a style image"):
        TSITGenerator(3, TSITSettings(width=2, num_upsamples=3, style_stream=True, input="noise-map"))(condition)
    with pytest.raises(ConfigError, match="no image encoder; leave the style image out"):
        TSITGenerator(3, TSITSettings(width=2, num_upsamples=3))(condition, style=style)
    with pytest.raises(ConfigError, match="starts from noise; pass noise"):
        TSITGenerator(3, TSITSettings(width=2, num_upsamples=3, input="noise"))(condition)
