from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lab2pix.errors import ConfigError
from lab2pix.nn.backbones import VGG19, EfficientNetLite0
from lab2pix.nn.segmentation import FPNHead, ICNet


def small(num_classes: int = 3, in_channels: int = 3) -> ICNet:
    return ICNet(num_classes, in_channels=in_channels, width=4, blocks=(1, 1, 1, 1))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(8, 70), width=st.integers(8, 70), channels=st.integers(1, 4), num_classes=st.integers(1, 5)
)  # fmt: skip
def test_icnet_logits_have_the_size_of_the_image(height: int, width: int, channels: int, num_classes: int) -> None:
    logits = small(num_classes, channels)(torch.randn(2, channels, height, width))
    assert logits.shape == (2, num_classes, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(4, 6), (7, 64), (64, 7)])
def test_icnet_refuses_an_image_that_is_too_small(height: int, width: int) -> None:
    message = f"ICNet needs images of at least 8x8 pixels, not {height}x{width}; choose a larger size"
    with pytest.raises(ConfigError, match=message):
        small()(torch.zeros(1, 3, height, width))


def sizes_of(network: ICNet, image: Tensor) -> dict[str, tuple[int, ...]]:
    """What each part of the network returns for an image, without the batch."""
    sizes: dict[str, tuple[int, ...]] = {}
    for name, part in network.named_children():
        part.register_forward_hook(lambda _part, _input, output, name=name: sizes.update({name: output.shape[1:]}))
    network(image)
    return {name: tuple(size) for name, size in sizes.items()}


def test_icnet_branches_run_at_their_resolutions() -> None:
    sizes = sizes_of(ICNet(5, width=2, blocks=(2, 2, 1, 1)), torch.randn(1, 3, 128, 192))
    assert sizes == {
        "medium": (16, 8, 12),
        "low": (16, 4, 6),
        "high": (4, 16, 24),
        "fuse_medium": (8, 8, 12),
        "fuse_high": (8, 16, 24),
        "classifier": (5, 32, 48),
    }


def test_icnet_default_size_is_the_papers() -> None:
    parameters = sum(parameter.numel() for parameter in ICNet(19).parameters())
    assert 6e6 < parameters < 8e6


def dilations(part: nn.Module) -> list[int]:
    """The dilations of its 3x3 convolutions in order; a bottleneck has one of them."""
    convs = [layer for layer in part.modules() if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3)]
    return [conv.dilation[0] for conv in convs]


def test_icnet_stages_have_their_blocks_and_dilations() -> None:
    network = ICNet(2, width=2, blocks=(3, 4, 6, 2))
    assert dilations(network.medium) == [1] * 3 + [1] * (3 + 1)
    assert dilations(network.low) == [1] * 3 + [2] * 6 + [4] * 2
    assert dilations(network.high) == [1] * 3
    assert dilations(network.fuse_medium) == dilations(network.fuse_high) == [2]


@pytest.mark.parametrize("size", [(1, 1), (4, 6), (12, 12)])
def test_icnet_pyramid_pooling_adds_means_of_bins(size: tuple[int, int]) -> None:
    pooling, x = small().low[3], torch.randn(2, 5, *size)
    assert not list(pooling.parameters())
    expected = x.clone()
    for bins in (1, 2, 3, 6):
        expected += F.interpolate(F.adaptive_avg_pool2d(x, bins), size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(pooling(x), expected)


def test_icnet_cascade_fusion_matches_its_equation() -> None:
    fusion, coarse, fine = small().fuse_medium, torch.randn(2, 32, 3, 2), torch.randn(2, 32, 5, 4)
    (conv, norm), (fine_conv, fine_norm) = fusion.coarse, fusion.fine
    assert conv.bias is None
    enlarged = F.interpolate(coarse, (5, 4), mode="bilinear", align_corners=False)
    wide = F.conv2d(enlarged, conv.weight, padding=2, dilation=2)
    torch.testing.assert_close(fusion(coarse, fine), F.relu(norm(wide) + fine_norm(fine_conv(fine))))


def test_icnet_medium_branch_gets_the_image_halved() -> None:
    network, image = small(), torch.randn(1, 3, 32, 48)
    seen: list[Tensor] = []
    network.medium.register_forward_hook(lambda _part, inputs, _output: seen.append(inputs[0]))
    network(image)
    torch.testing.assert_close(seen[0], F.avg_pool2d(image, 2))
    network(image[..., :31, :45])
    assert seen[1].shape[-2:] == (16, 23)


@pytest.mark.parametrize("size", [64, 16, 8])
@pytest.mark.parametrize("width", [4, 8])
def test_icnet_gets_gradients_from_one_image(size: int, width: int) -> None:
    network = ICNet(3, width=width, blocks=(1, 2, 1, 1)).train()
    image = torch.randn(1, 3, size, size, requires_grad=True)
    F.cross_entropy(network(image), torch.randint(3, (1, size, size))).backward()
    for name, tensor in [("image", image), *network.named_parameters()]:
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.abs().max() > 0, name


def test_icnet_images_of_a_batch_are_independent() -> None:
    network, images = small().train(), torch.randn(3, 3, 24, 40)
    apart = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), apart, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(network.eval()(images), apart, rtol=1e-4, atol=1e-4)


def test_icnet_logits_are_float32_or_finer() -> None:
    network, image = small(), torch.randn(1, 3, 32, 32)
    expected = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    assert logits.dtype == torch.float32
    assert F.cosine_similarity(logits.flatten(), expected.flatten(), dim=0) > 0.99
    assert network.double()(image.double()).dtype == torch.float64


def backbone_features(backbone, sizes, seed=0):
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
def test_fpn_head_logits_have_the_size_of_the_finest_feature(backbone, sizes):
    head = FPNHead(backbone.perceptual_channels, 5)
    seen = [feature.requires_grad_() for feature in backbone_features(backbone, sizes)]
    logits = head(seen)
    assert logits.shape == (2, 5, *sizes[0])
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(feature.grad.abs().sum() > 0 for feature in seen)
    assert all(parameter.grad is not None for parameter in head.parameters())
