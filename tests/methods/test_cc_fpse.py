"""CC-FPSE: sizes, presets and losses of its own; the step is SPADE's."""

from __future__ import annotations

import pytest
import torch

from lab2pix.methods import StepContext
from tests.helpers.methods import narrow_method, training_inputs

NARROW = (
    *("data.size=[64,64]", "generator.width=2", "generator.predictor_width=2", "discriminator.width=2"),
    *("train.batch_size=2", "loss.perceptual=0"),
)


def test_losses_are_means_over_predictions_and_layers() -> None:
    method = narrow_method("cc-fpse-small", *NARROW, "loss.feature_matching=20")
    discriminator = method.networks["discriminator"].eval()
    data, _ = training_inputs(method)
    condition = method.sampling.condition(data)
    with torch.no_grad():
        fake, _ = method.draw(data, condition, None)
    generator = method.networks["generator"]
    generator.register_forward_hook(lambda module, inputs, output: fake)
    losses = method.generator_losses(data, None, StepContext())
    with torch.no_grad():
        ours, theirs = discriminator(fake, condition), discriminator(data.image, condition)
    expected = -sum(float(one.mean()) for one in ours.predictions) / 3
    assert float(losses["adversarial"].detach()) == pytest.approx(expected, rel=1e-4, abs=1e-7)
    distances = [float((a - b).abs().mean()) for a, b in zip(ours.features, theirs.features, strict=True)]
    assert float(losses["feature_matching"].detach()) == pytest.approx(20 * sum(distances) / 4, rel=1e-4)
