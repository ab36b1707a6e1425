"""Networks of CC-FPSE against plain formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lab2pix.errors import ConfigError
from lab2pix.nn.cc_fpse import CCFPSEGenerator, FPSEDiscriminator, depthwise_conv
from lab2pix.nn.fast import fuse
from lab2pix.nn.generators import GeneratorSettings


def settings(**changes: object) -> GeneratorSettings:
    given = {"width": 2, "modulation": "spade", "modulation_hidden": 3, "input": "label", "start_size": (2, 2)}
    return GeneratorSettings(**{**given, **changes})  # type: ignore[arg-type]


def test_depthwise_convolution_has_a_kernel_per_pixel() -> None:
    x, kernels = torch.randn(2, 3, 5, 4), torch.randn(2, 27, 5, 4)
    patches = F.unfold(x, 3, padding=1).view(2, 3, 9, 5, 4)
    assert torch.allclose(depthwise_conv(x, kernels), (patches * kernels.view(2, 3, 9, 5, 4)).sum(2), atol=1e-6)
    same = torch.randn(3, 1, 3, 3)
    constant = same.view(1, 27, 1, 1).expand(2, -1, 5, 4)
    assert torch.allclose(depthwise_conv(x, constant), F.conv2d(x, same, padding=1, groups=3), atol=1e-6)


def test_every_part_of_the_generator_depends_on_the_label_map() -> None:
    generator = CCFPSEGenerator(4, settings(num_upsamples=6, start_size=(1, 2))).eval()
    condition = torch.randn(1, 4, 64, 128, requires_grad=True)
    image = generator(condition)
    assert image.shape == (1, 3, 64, 128)
    image.sum().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())
    assert condition.grad.abs().sum() > 0


def test_generator_refuses_seven_upsamplings_and_is_not_fused() -> None:
    with pytest.raises(ConfigError, match="5 or 6 times"):
        CCFPSEGenerator(4, settings(num_upsamples=7))
    with pytest.raises(ConfigError, match="CCFPSEGenerator cannot be fused"):
        fuse(CCFPSEGenerator(4, settings()).eval())


def test_discriminator_pools_embedded_labels() -> None:
    discriminator = FPSEDiscriminator(5, width=2).eval()
    image, label = torch.randn(2, 3, 64, 96), torch.randn(2, 5, 64, 96)
    output = discriminator(image, label)
    assert [tuple(one.shape) for one in output.predictions] == [(2, 1, 16, 24), (2, 1, 8, 12), (2, 1, 4, 6)]
    assert [one.shape[1] for one in output.features] == [4, 8, 16, 16]
    # The prediction is linear in the embedding of the label map, pooled after it.
    other = discriminator(image, torch.zeros_like(label))
    finals: list[torch.Tensor] = []
    hooks = [final.register_forward_hook(lambda m, i, o: finals.append(o)) for final in discriminator.final]
    discriminator(image, label)
    assert len(hooks) == 3
    for level, (h, with_label, without) in enumerate(zip(finals, output.predictions, other.predictions, strict=True)):
        embedded = F.avg_pool2d(discriminator.embedding(label), 4 << level)
        bias = discriminator.embedding.bias.view(1, -1, 1, 1)
        expected = ((embedded - bias) * discriminator.semantics(h)).sum(1, keepdim=True)
        assert torch.allclose(with_label - without, expected, atol=1e-5)
