"""SPADE: its step, style mode, sizes and schedule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lab2pix.batch import Batch
from lab2pix.errors import ConfigError
from lab2pix.labels.space import LabelSpace
from lab2pix.losses import kl_divergence
from lab2pix.methods import Progress, StepContext, late_epoch_decay
from lab2pix.methods.multiscale_gan import adversarial_mean
from lab2pix.methods.spade import SPADE
from lab2pix.nn.discriminators import ScaleOutput
from lab2pix.nn.fast import fuse
from tests.helpers.methods import narrow_method

NARROW = (
    *("data.size=[64,64]", "generator.width=2", "generator.modulation_hidden=2", "discriminator.width=2"),
    *("train.batch_size=2", "discriminator.scales=2"),
)
STYLE = ("generator.input=style", "generator.noise_dim=4")


def build(*settings: str) -> SPADE:
    return narrow_method("spade-small", *NARROW, *settings)


def batch(seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 14, (2, 8, 8), generator=random).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(label, torch.rand(2, 3, 64, 64, generator=random) * 2 - 1)


def images_of(network: nn.Module) -> list[Tensor]:
    kept: list[Tensor] = []
    network.register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    return kept


@pytest.mark.slow
def test_discriminator_learns_from_images_of_the_updated_generator_and_new_noise() -> None:
    method, noise = build(*STYLE, "loss.perceptual=0"), torch.zeros(2, 4)
    drawn = images_of(method.networks["generator"])
    generator = method.networks["generator"]
    norm = generator.blocks[0].norm_0.norm
    context = StepContext()
    method.generator_backward(batch(), noise, context)
    assert all(parameter.grad is None for parameter in method.networks["discriminator"].parameters())
    method.discriminator_backward(batch(), noise, context)
    assert not torch.equal(drawn[0], drawn[1])  # other noise
    assert int(norm.num_batches_tracked) == 2  # in train mode both times
    torch.manual_seed(1)
    method.discriminator_backward(batch(), noise, context)
    with torch.no_grad():
        generator.to_image.bias.add_(1)
    torch.manual_seed(1)
    method.discriminator_backward(batch(), noise, context)
    assert (drawn[3] - drawn[2]).mean() > 0.1  # the weights of now


@pytest.mark.slow
def test_style_mode_trains_the_image_encoder_with_the_generator() -> None:
    method = build(*STYLE, "loss.perceptual=0")
    losses = method.generator_backward(batch(), torch.randn(2, 4), StepContext())
    assert set(losses) == {"kl_divergence", "adversarial", "feature_matching"}
    encoder = method.networks["generator"].image_encoder
    assert all(float(parameter.grad.norm()) > 0 for parameter in encoder.parameters())
    assert method.sampling.style == "optional"
    assert build().sampling.style == build("generator.input=noise", "generator.noise_dim=4").sampling.style == "none"
    with pytest.raises(ConfigError, match="no image encoder"):
        build().networks["generator"](torch.zeros(1, 14, 64, 64), style=torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
def test_perceptual_loss_has_a_gradient_and_scores() -> None:
    method = build()
    method.to(torch.device("cpu"))
    losses = method.generator_backward(batch(), None, StepContext())
    assert set(losses) == {"adversarial", "feature_matching", "perceptual"}
    assert set(method.validation_scores(batch(), torch.zeros(2, 3, 64, 64))) == {*method.score_names}
    same = method.validation_scores(batch(), batch().image)
    assert same["l1"] == 0 and same["perceptual"] < 1e-5
    assert method.feature_networks() == {"efficientnet-lite0": "backbone.perceptual"}


@pytest.mark.parametrize("form", ["hinge", "vanilla", "lsgan", "wgangp"])
def test_adversarial_loss_is_the_mean_over_scales(form: str) -> None:
    one, two = torch.tensor([[2.0, -2.0]]), torch.tensor([[0.5]])
    outputs = [ScaleOutput([one], []), ScaleOutput([two], [])]

    def of(predictions: Tensor) -> Tensor:
        return {
            "hinge": torch.relu(1 + predictions),
            "vanilla": nn.functional.binary_cross_entropy_with_logits(
                predictions, torch.zeros_like(predictions), reduction="none"
            ),
            "lsgan": predictions**2,
            "wgangp": predictions,
        }[form].mean()

    assert adversarial_mean(outputs, "fake", form) == pytest.approx(float((of(one) + of(two)) / 2))


def test_kl_divergence_is_that_of_normal_distributions() -> None:
    mean, log_variance = torch.tensor([[0.5, -1.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [-1.0, 0.3]])
    own = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(own, torch.distributions.Normal(0.0, 1.0)).sum()
    assert kl_divergence(mean, log_variance) == pytest.approx(float(expected), rel=1e-6)


def test_rate_falls_after_the_first_epoch_of_its_last_half() -> None:
    schedule = late_epoch_decay(0.5)
    factors = [schedule(Progress(step, 10 * 4, 8, 2)) for step in range(0, 40, 4)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    constant = late_epoch_decay(0)
    assert constant(Progress(39, 40, 8, 2)) == 1
    method = build()
    assert {name: spec.lr for name, spec in method.optimizers.items()} == {"generator": 1e-3, "discriminator": 1e-3}


def test_sampling_refuses_sizes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="multiples of 32"):
        build().sampling.check_size(10, 64)


def test_style_image_is_encoded_at_256_pixels() -> None:
    encoder = build(*STYLE).networks["generator"].image_encoder.eval()
    image = batch().image
    resized = nn.functional.interpolate(image, size=(256, 256), mode="bilinear")
    torch.testing.assert_close(encoder(image), encoder(resized), rtol=0, atol=0)
    mean, log_variance = encoder(image)
    noise = torch.randn(2, 4)
    assert torch.allclose(encoder.sample(image, noise), mean + log_variance.exp().sqrt() * noise)
    assert torch.equal(encoder.sample(image, None), mean)


@pytest.mark.slow
def test_fused_generator_takes_style_images() -> None:
    generator = build(*STYLE).networks["generator"].eval()
    condition = LabelSpace.load("scenes").one_hot(batch().label)
    with torch.no_grad():
        expected = generator(condition, torch.zeros(2, 4), batch().image)
        assert (fuse(generator)(condition, torch.zeros(2, 4), batch().image) - expected).abs().max() <= 1e-4
    with pytest.raises(ConfigError, match="no image encoder"):
        fuse(build().networks["generator"].eval())(condition, style=batch().image)
