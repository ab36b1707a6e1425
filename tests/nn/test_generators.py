from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.evaluation.metrics.image import checkerboard_ratio, gradients_by_parity
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV2Generator
from lab2pix.nn.init import xavier_init


def build(**options: Any) -> Lab2PixV2Generator:
    defaults: dict[str, Any] = {
        "width": 2, "start_size": (2, 2), "modulation_hidden": 4, "global_width": 2, "global_max_width": 8,
        "noise_dim": 8,
    }  # fmt: skip
    return Lab2PixV2Generator(3, GeneratorSettings(**(defaults | options)))


def onehot(height: int = 64, width: int = 64, channels: int = 3, count: int = 2) -> Tensor:
    ids = torch.randint(channels, (count, height, width))
    return nn.functional.one_hot(ids, channels).permute(0, 3, 1, 2).float()


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    height=st.integers(1, 2), width=st.integers(1, 3), upsamples=st.sampled_from([5, 6, 7]), channels=st.integers(2, 9),
    start=st.sampled_from(["noise", "label"]), modulation=st.sampled_from(["dg-norm", "spade"]),
)  # fmt: skip
def test_v2_generator_accepts_every_multiple_of_its_stride(
    *, height: int, width: int, upsamples: int, channels: int, start: Any, modulation: Any
) -> None:
    settings = GeneratorSettings(
        width=2, num_upsamples=upsamples, start_size=(1, 2), modulation=modulation, modulation_hidden=2,
        global_width=2, global_max_width=4, input=start, noise_dim=4,
    )  # fmt: skip
    generator = Lab2PixV2Generator(channels, settings).eval()
    size = (height << upsamples, width << upsamples)
    with torch.no_grad():
        image = generator(onehot(*size, channels, 1), torch.randn(1, 4))
    assert image.shape == (1, 3, *size)
    assert image.abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(("size", "nearest"), [((10, 250), "32x256"), ((80, 81), "64x96")])
def test_v2_generator_names_the_nearest_valid_size(size: tuple[int, int], nearest: str) -> None:
    with pytest.raises(ConfigError, match=rf"{size[0]}x{size[1]}.*multiple of 32.*{nearest}"):
        build()(onehot(*size), torch.randn(2, 8))


def test_generator_settings_refuse_impossible_sizes_and_upsamplings() -> None:
    with pytest.raises(ConfigError, match="smaller than 32"):
        build(start_size=(0, 2))
    with pytest.raises(ConfigError, match="5, 6 or 7"):
        build(num_upsamples=4)


def test_v2_generator_needs_noise_only_as_its_input() -> None:
    with pytest.raises(ConfigError, match=r"noise.*8"):
        build()(onehot())
    generator, condition = build(input="label").eval(), onehot()
    assert torch.equal(generator(condition), generator(condition, torch.randn(2, 8)))


@pytest.mark.slow
def test_v2_generator_has_the_papers_widths_and_scales() -> None:
    with torch.device("meta"):
        five = Lab2PixV2Generator(35)
        seven = Lab2PixV2Generator(35, GeneratorSettings(num_upsamples=7, start_size=(4, 8)))
    shapes = [(block.conv_0.in_channels, block.conv_1.out_channels) for block in five.blocks]
    assert shapes == [(1024, 1024)] * 3 + [(1024, 512), (512, 256), (256, 128), (128, 64)]
    assert five.block_scales == (0, 1, 1, 2, 3, 4, 5)
    assert five.stride == 32
    assert seven.block_scales == (0, 1, 2, 3, 4, 5, 6, 7)
    assert seven.to_image.in_channels == 32
    assert [conv.out_channels for conv in five.global_encoder.down] == [64, 128, 256, 512, 512, 512]
    assert build(modulation="spade").global_encoder is None


@pytest.mark.parametrize("modulation", ["dg-norm", "spade"])
def test_v2_generator_takes_several_noises_per_label_map(modulation: str) -> None:
    generator, condition, noise = build(modulation=modulation).eval(), onehot(), torch.randn(6, 8)
    with torch.no_grad():
        assert torch.equal(generator(condition, noise), generator(condition.repeat(3, 1, 1, 1), noise))


def test_bilinear_upsampling_leaves_less_of_a_checkerboard() -> None:
    ratios = []
    for upsample in ("nearest", "bilinear"):
        torch.manual_seed(0)
        settings = GeneratorSettings(
            width=8, start_size=(2, 2), modulation_hidden=8, global_width=4, noise_dim=4, upsample=upsample
        )
        generator = Lab2PixV2Generator(3, settings)
        xavier_init(generator, 1.0)
        with torch.no_grad():
            image = generator(torch.ones(4, 3, 64, 64), torch.randn(4, 4))
        assert image.shape == (4, 3, 64, 64)
        ratios.append(checkerboard_ratio(gradients_by_parity(image)))
    assert ratios[1] > ratios[0] + 0.1
