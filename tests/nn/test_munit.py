"""MUNIT's networks: shapes, norms, padding and shared modules."""

from __future__ import annotations

import pytest
import torch

from lab2pix.nn.caffe_vgg import CaffeVGG16
from lab2pix.nn.munit import MUNITDiscriminator, MUNITGenerator, MUNITSettings, adain
from lab2pix.nn.normalization import ImageLayerNorm

SMALL = MUNITSettings(width=2, mlp_width=4, style_dim=3, num_downsamples=2, blocks=2, style_downsamples=3)


def test_style_comes_from_noise_or_from_an_image_of_any_size() -> None:
    generator = MUNITGenerator.build(4, 3, SMALL)
    x, style = torch.randn(2, 4, 16, 24), torch.rand(2, 3, 40, 16)
    code = generator.enc_style(style)
    assert code.shape == (2, 3)
    by_code = generator(x, code)
    assert by_code.shape == (2, 3, 16, 24)
    assert torch.equal(generator(x, None, style=style), by_code)
    assert not torch.equal(generator(x, code + 1), by_code)


def test_translator_shares_the_modules_of_both_generators() -> None:
    source, target = MUNITGenerator.build(4, 4, SMALL), MUNITGenerator.build(3, 3, SMALL)
    translator = MUNITGenerator.translator(source, target)
    assert translator.enc_content is source.enc_content
    assert (translator.enc_style, translator.mlp, translator.dec) == (target.enc_style, target.mlp, target.dec)
    assert translator.state_dict().keys() == MUNITGenerator.build(4, 3, SMALL).state_dict().keys()


def test_parameters_of_adaptive_norms_are_bias_then_weight() -> None:
    x, bias, weight = torch.randn(2, 3, 5, 4), torch.randn(2, 3), torch.randn(2, 3)
    y = adain(x, bias, weight)
    assert torch.allclose(y.mean((2, 3)), bias, atol=1e-5)
    assert torch.allclose(y.var((2, 3), unbiased=False), weight.square(), atol=1e-3)
    generator = MUNITGenerator.build(3, 3, SMALL)
    last = generator.mlp.model[2].fc
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.arange(last.bias.numel()))
    parameters = generator.mlp(torch.randn(1, 3))
    assert parameters.shape == (1, 2, 2, 2, 8)
    assert parameters[0, 1, 0, :, 0].tolist() == [32.0, 40.0]  # second block, first norm: bias, weight


def test_layer_norm_has_the_unbiased_deviation_and_an_epsilon_outside_of_the_root() -> None:
    norm, x = ImageLayerNorm(2), torch.randn(3, 2, 2, 2) * torch.tensor([1.0, 1e-4, 5.0]).view(3, 1, 1, 1)
    with torch.no_grad():
        norm.beta.normal_()
    assert bool((norm.gamma >= 0).all()) and bool((norm.gamma < 1).all())
    flat = x.flatten(1)
    deviation = ((flat - flat.mean(1, keepdim=True)).square().sum(1, keepdim=True) / 7).sqrt()
    normalized = ((flat - flat.mean(1, keepdim=True)) / (deviation + 1e-5)).view_as(x)
    assert torch.allclose(norm(x), normalized * norm.gamma.view(2, 1, 1) + norm.beta.view(2, 1, 1), atol=1e-5)


def test_discriminator_sees_halved_images_without_their_padding() -> None:
    discriminator = MUNITDiscriminator(3, width=2, layers=2, scales=3)
    logits = discriminator(torch.full((1, 3, 32, 32), 0.7))
    assert [tuple(scale.shape) for scale in logits] == [(1, 1, 8, 8), (1, 1, 4, 4), (1, 1, 2, 2)]
    assert all(float(scale.detach().std()) < 1e-6 for scale in logits)


@pytest.mark.parametrize(("norm", "names"), [("layer", {"gamma", "beta"}), ("instance", set())])
def test_discriminator_normalizes_from_its_second_layer_on(norm: str, names: set[str]) -> None:
    discriminator = MUNITDiscriminator(3, width=2, layers=3, scales=1, norm=norm)  # type: ignore[arg-type]
    found = {name for name in discriminator.state_dict() if ".norm." in name}
    assert found == {f"cnns.0.{layer}.norm.{name}" for layer in (1, 2) for name in names}
    first = [type(block.norm).__name__ for block in discriminator.cnns[0][:3]]
    assert first[0] == "Identity" and "Identity" not in first[1:]


def test_caffe_vgg_reads_a_classifier_and_sees_bgr_pixels() -> None:
    network = CaffeVGG16()
    numbers = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    convs = [layer for layer in network.layers if isinstance(layer, torch.nn.Conv2d)]
    state = {}
    for number, conv in zip(numbers, convs, strict=True):
        state[f"features.{number}.weight"] = torch.randn_like(conv.weight) / conv.weight[0].numel() ** 0.5
        state[f"features.{number}.bias"] = torch.randn_like(conv.bias)
    network.load_weights(state | {"classifier.6.bias": torch.zeros(1000)})
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    x = torch.stack([(image[:, 2 - c] + 1) / 2 * 255 - (103.939, 116.779, 123.680)[c] for c in range(3)], 1)
    for index, number in enumerate(numbers):
        if index in (2, 4, 7):
            x = torch.nn.functional.max_pool2d(x, 2)
        weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
        x = torch.nn.functional.conv2d(x, weight, bias, padding=1).relu()
    feature = network.train()(image)
    assert feature.shape == (1, 512, 4, 4)
    assert torch.allclose(feature, x, rtol=1e-4, atol=1e-3)
    assert not network.training and not any(weight.requires_grad for weight in network.parameters())
    del state["features.28.weight"]
    with pytest.raises((KeyError, RuntimeError)):
        network.load_weights(state)
