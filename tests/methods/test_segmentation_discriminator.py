"""The segmentation discriminator and channel mixing of Lab2Pix-V2: what they add to losses and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lab2pix.methods import StepContext, build_method
from lab2pix.methods.segmentation_gan import class_weights, fake_loss, labelmix_loss, labelmix_mask, segmentation_loss
from lab2pix.nn.discriminators import num_levels
from tests.helpers.tiny import batch, generator_half, noise
from tests.methods.test_lab2pix_v2 import SPACE, tiny

PATCH = ("discriminator.kind=patch", "loss.perceptual=0", "loss.feature_matching=0", "loss.sharpness=0")
U_NET = ("segmentation_discriminator.widths=[2,3,4]", "segmentation_discriminator.last_width=2")


def build(*overrides: str):
    torch.manual_seed(0)
    method = build_method(tiny(*overrides), SPACE, pretrained=False)
    for network in method.networks.values():
        network.eval()
    return method


def gradients(method) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": parameter.grad.clone()
        for name, network in method.networks.items()
        for key, parameter in network.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.slow
def test_the_generator_learns_from_the_segmentation_of_its_images() -> None:
    method, data, z = build(*PATCH, *U_NET, "loss.segmentation=3", "train.init_gain=1"), batch(tiny()), noise()
    _, losses = generator_half(method, data, z)
    ours = gradients(method)
    loss, method.segmentation = method.segmentation, None
    _, without = generator_half(method, data, z)
    rest = gradients(method)
    assert set(losses) == {*without, "segmentation"}
    assert not any(name.startswith("segmentation_discriminator") for name in ours)
    generator = method.networks["generator"]
    generator.zero_grad()
    logits = loss.network(generator(method.sampling.condition(data), z))
    weights = class_weights(data.label, SPACE.num_channels, range(SPACE.num_classes, SPACE.num_channels))
    term = 3 * segmentation_loss(logits, data.label, weights)
    term.backward()
    torch.testing.assert_close(losses["segmentation"], term.detach())
    assert any(float(parameter.grad.abs().max()) > 0 for parameter in generator.parameters())
    for name, parameter in generator.named_parameters():
        key = f"generator.{name}"
        torch.testing.assert_close(ours[key] - rest[key], parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("labelmix", [0, 10])
def test_the_segmentation_discriminator_learns_photos_fakes_and_mixtures(labelmix: int) -> None:
    method, data = build(*PATCH, *U_NET, "loss.segmentation=3", f"loss.labelmix={labelmix}"), batch(tiny())
    context = StepContext(cache={})
    method.generator_backward(data, noise(), context)
    for network in method.networks.values():
        network.zero_grad()
    torch.manual_seed(5)
    losses = method.discriminator_backward(data, None, context)
    ours = gradients(method)
    assert set(losses) == {"real", "fake", "segmentation_real", "segmentation_fake"} | (
        {"labelmix"} if labelmix else set()
    )
    assert {name.partition(".")[0] for name in ours} == {"discriminator", "segmentation_discriminator"}
    network, fake = method.networks["segmentation_discriminator"], context.cache["outputs"].generated[0]
    network.zero_grad()
    of_real, of_fake = network(data.image), network(fake)
    weights = class_weights(data.label, SPACE.num_channels, range(SPACE.num_classes, SPACE.num_channels))
    total = 3 * (segmentation_loss(of_real, data.label, weights) + fake_loss(of_fake))
    if labelmix:
        torch.manual_seed(5)
        mask = labelmix_mask(data.label, context.random.uniform(SPACE.num_channels))
        mixed = network(torch.where(mask, data.image, fake))
        total = total + 3 * labelmix * labelmix_loss(mask, of_real, of_fake, mixed)
    total.backward()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(ours[f"segmentation_discriminator.{name}"], parameter.grad, atol=1e-6, rtol=1e-4)


def test_labelmix_takes_whole_classes_and_is_zero_for_consistent_logits() -> None:
    label = torch.tensor([[[0, 1], [1, 2]]])
    mask = labelmix_mask(label, torch.tensor([0.1, 0.7, 0.4]))
    assert mask.tolist() == [[[[True, False], [False, True]]]]
    real, fake = torch.randn(1, 4, 2, 2), torch.randn(1, 4, 2, 2)
    assert float(labelmix_loss(mask, real, fake, torch.where(mask, real, fake))) == 0
    assert float(labelmix_loss(mask, real, fake, torch.where(mask, real, fake) + 2)) == pytest.approx(4)


@pytest.mark.slow
def test_channel_mixing_turns_the_features_of_discriminators_alone() -> None:
    plain, mixed = build(), build("backbone.channel_mixing=true")
    again = build("backbone.channel_mixing=true", "seed=3")
    mixed.feature_extractors.networks.load_state_dict(plain.feature_extractors.networks.state_dict())
    data = batch(tiny())
    with torch.no_grad():
        before = plain.feature_extractors(data.image, levels=num_levels(0), perceptual=True)
        after = mixed.feature_extractors(data.image, levels=num_levels(0), perceptual=True)
    for one, other, weight, same in zip(
        before.discriminator, after.discriminator, mixed.feature_extractors.mixing,
        again.feature_extractors.mixing, strict=True,
    ):  # fmt: skip
        assert torch.equal(weight, same), "the same in each run, so that a resumed one goes on"
        matrix = weight[:, :, 0, 0]
        assert not torch.allclose(one, other)
        torch.testing.assert_close(torch.einsum("oc,nohw->nchw", matrix, other), one, atol=1e-4, rtol=1e-4)
        assert not weight.requires_grad
    assert all(torch.equal(*pair) for pair in zip(before.perceptual, after.perceptual, strict=True))


@pytest.mark.slow
def test_channel_mixing_changes_gradients_of_the_generator() -> None:
    found = []
    for mixing in ("false", "true"):
        method = build(f"backbone.channel_mixing={mixing}", "loss.perceptual=0", "train.init_gain=1")
        generator_half(method)
        found.append(gradients(method)["generator.to_image.weight"])
    assert not torch.allclose(*found)
