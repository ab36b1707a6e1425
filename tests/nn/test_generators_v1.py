"""Lab2Pix-V1's generator: outputs, widths and conditioning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.generators import GeneratorSettings, Lab2PixV1Generator


def build(channels: int = 3, **options: Any) -> Lab2PixV1Generator:
    defaults: dict[str, Any] = {
        "width": 2, "num_upsamples": 5, "start_size": (2, 2), "modulation_hidden": 4, "global_width": 2,
        "global_max_width": 8, "noise_dim": 8,
    }  # fmt: skip
    own = {name: options.pop(name) for name in ("encoder", "progressive", "coattention") if name in options}
    channels = 1 if own.get("encoder") == "sketch" else channels
    return Lab2PixV1Generator(channels, GeneratorSettings(**(defaults | options)), **own)


def onehot(height: int = 64, width: int = 64, channels: int = 3, count: int = 2) -> Tensor:
    ids = torch.randint(channels, (count, height, width))
    return F.one_hot(ids, channels).permute(0, 3, 1, 2).float()


def lines(height: int = 64, width: int = 64, count: int = 2) -> Tensor:
    return 1 - 2 * (torch.rand(count, 1, height, width) > 0.9).float()


def widths(generator: Lab2PixV1Generator) -> list[tuple[int, int]]:
    return [(block.conv_0.in_channels, block.conv_1.out_channels) for block in generator.blocks]


def published(**options: Any) -> Lab2PixV1Generator:
    """The paper's networks at 1/64 of their width."""
    return build(width=1, global_width=1, global_max_width=8, spectral_norm=False, **options)


# --- the images --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(
    height=st.integers(1, 2), width=st.integers(1, 3), num_upsamples=st.sampled_from([5, 6, 7]),
    channels=st.integers(2, 9), encoder=st.sampled_from(["semantic", "sketch"]), progressive=st.booleans(),
    coattention=st.booleans(), modulation=st.sampled_from(["dg-norm", "spade"]),
)  # fmt: skip
def test_v1_generator_accepts_every_multiple_of_its_stride(
    *, height: int, width: int, num_upsamples: int, channels: int, encoder: Any, progressive: bool, coattention: bool,
    modulation: Any,
) -> None:  # fmt: skip
    num_upsamples = 5 if encoder == "sketch" else num_upsamples
    generator = build(
        channels, num_upsamples=num_upsamples, start_size=(1, 2), encoder=encoder, progressive=progressive,
        coattention=coattention, modulation=modulation,
    ).eval()  # fmt: skip
    size = (height << num_upsamples, width << num_upsamples)
    condition = lines(*size, 1) if encoder == "sketch" else onehot(*size, channels, 1)
    with torch.no_grad():
        images = generator(condition, torch.randn(1, 8))
    assert [tuple(image.shape) for image in images] == [
        (1, 3, size[0] >> shift, size[1] >> shift) for shift in range(3 if progressive else 1)
    ]
    assert all(image.abs().max() <= 1 for image in images)


@torch.no_grad()
def test_v1_generator_one_image_is_the_largest_of_three() -> None:
    three, one = build().eval(), build(progressive=False).eval()
    state = three.state_dict()
    for part in ("weight", "bias"):
        state[f"to_image.0.{part}"] = state.pop(f"to_image.2.{part}")
        del state[f"to_image.1.{part}"]
    one.load_state_dict(state)
    condition, noise = onehot(), torch.randn(2, 8)
    assert torch.equal(one(condition, noise)[0], three(condition, noise)[0])


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["semantic", "sketch"])
def test_v1_generator_images_depend_on_noise_and_label(encoder: Any) -> None:
    generator = build(encoder=encoder).eval()
    condition, noise = (lines() if encoder == "sketch" else onehot()), torch.randn(2, 8)
    images = generator(condition, noise)
    for image, same, noisy, moved in zip(
        images,
        generator(condition, noise),
        generator(condition, -noise),
        generator(condition.roll(8, -1), noise),
        strict=True,
    ):
        assert torch.equal(image, same)
        assert not torch.allclose(image, noisy)
        assert not torch.allclose(image, moved)


@torch.no_grad()
def test_v1_generator_of_sketches_works_without_noise_as_released() -> None:
    generator, condition = build(encoder="sketch", input="label").eval(), lines()
    with_noise = generator(condition, torch.randn(2, 8))
    torch.testing.assert_close(generator(condition), with_noise, rtol=0, atol=0)
    assert generator.noise is None


# --- what it is made of (3.1) ------------------------------------------------------------------------------------


def test_v1_generator_has_the_papers_semantic_widths_and_scales() -> None:
    assert GeneratorSettings().width == 64
    seven = published(num_upsamples=7, start_size=(2, 4))
    assert widths(seven) == [(16, 16)] * 3 + [(16, 8), (8, 4), (4, 2), (2, 1)]
    assert seven.block_scales == [0, 1, 2, 3, 4, 5, 6]  # each is followed by an enlargement: 2x4 becomes 256x512
    assert [block.merge.in_channels for block in seven.coattention] == [8, 4, 2]
    assert [block.merge.out_channels for block in seven.coattention] == [4, 2, 1]
    assert [head.in_channels for head in seven.to_image] == [4, 2, 1]
    assert seven.noise.out_features == 16 * 2 * 4
    assert [conv.out_channels for conv in seven.global_encoder.down] == [1, 2, 4, 8, 8, 8, 8, 8]
    assert published(num_upsamples=6, start_size=(4, 4)).block_scales == [0, 0, 1, 2, 3, 4, 5]
    assert published(num_upsamples=5, start_size=(8, 8)).block_scales == [0, 0, 0, 1, 2, 3, 4]


def test_v1_generator_has_the_papers_sketch_widths_and_scales() -> None:
    sketch = published(start_size=(8, 8), encoder="sketch")
    assert widths(sketch) == [(32, 16), (16, 8), (8, 4), (4, 2), (2, 1)]
    assert sketch.block_scales == [0, 1, 2, 3, 4]
    assert widths(published(start_size=(8, 8), encoder="sketch", input="label"))[0] == (16, 16)


def test_v1_generator_lacks_parts_that_are_off() -> None:
    spade = build(modulation="spade", progressive=False, coattention=False)
    assert spade.global_encoder is None
    assert len(spade.coattention) == 0
    assert len(spade.to_image) == 1
    assert build().sketch is None


@torch.no_grad()
def test_v1_generator_concatenates_noise_and_sketch() -> None:
    generator, condition, noise = build(encoder="sketch").eval(), lines(), torch.randn(2, 8)
    started: list[Tensor] = []
    generator.blocks[0].register_forward_pre_hook(lambda module, given: started.append(given[0]))
    generator(condition, noise)
    torch.testing.assert_close(
        started[0], torch.cat([generator.noise(noise, (2, 2)), generator.sketch(condition)], dim=1)
    )


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["semantic", "sketch"])
def test_v1_generator_resizes_classes_by_nearest_neighbor_and_averages_lines(encoder: Any) -> None:
    generator = build(encoder=encoder).eval()
    condition = lines() if encoder == "sketch" else onehot()
    given: list[Tensor] = []
    for block in generator.blocks:
        block.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1]))
    generator(condition, torch.randn(2, 8))
    assert [label.shape[-1] for label in given] == [2 << scale for scale in generator.block_scales]
    for label in given:
        factor = 64 // label.shape[-1]
        expected = F.avg_pool2d(condition, factor) if encoder == "sketch" else condition[..., ::factor, ::factor]
        torch.testing.assert_close(label, expected)


@torch.no_grad()
def test_v1_generator_draws_and_passes_on_the_output_of_coattention() -> None:
    generator = build().eval()
    entered: list[tuple[Tensor, ...]] = []
    left: list[Tensor] = []
    heads: list[Tensor] = []
    into_blocks: list[Tensor] = []

    def mixed(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        entered.append(given)
        left.append(result)

    for mixer in generator.coattention:
        mixer.register_forward_hook(mixed)
    for head in generator.to_image:
        head.register_forward_pre_hook(lambda module, given: heads.append(given[0]))
    for block in generator.blocks[-3:]:
        block.register_forward_pre_hook(lambda module, given: into_blocks.append(given[0]))
    generator(onehot(), torch.randn(2, 8))
    for (previous, current, label), block_input, size in zip(entered, into_blocks, (16, 32, 64), strict=True):
        assert torch.equal(previous, block_input)
        assert previous.shape[-1] == size // 2
        assert current.shape[-1] == label.shape[-1] == size
    assert all(torch.equal(result, seen) for result, seen in zip(left, heads, strict=True))
    assert all(torch.equal(result, seen) for result, seen in zip(left[:2], into_blocks[1:], strict=True))


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "sketch", "num_upsamples": 6}, "sketch encoder halves five times.*not 6"),
        ({"input": "label"}, "semantic label encoder starts from noise"),
    ],
)
def test_v1_generator_refuses_impossible_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_v1_generator_asks_for_noise() -> None:
    with pytest.raises(ConfigError, match=r"noise.*8"):
        build()(onehot())
