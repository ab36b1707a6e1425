"""CC-FPSE: sizes, presets and losses of its own; the step is SPADE's."""

from __future__ import annotations

import pytest
import torch

from lab2pix.batch import Batch
from lab2pix.labels.space import LabelSpace
from lab2pix.methods import StepContext, build_method
from lab2pix.methods.cc_fpse import CCFPSE
from lab2pix.recipes import load_config

NARROW = (
    *("data.size=[64,64]", "generator.width=2", "generator.predictor_width=2", "discriminator.width=2"),
    *("train.batch_size=2", "loss.perceptual=0"),
)


def build(*settings: str) -> CCFPSE:
    torch.manual_seed(0)
    method = build_method(load_config("cc-fpse-small", [*NARROW, *settings]), LabelSpace.load("scenes"))
    assert isinstance(method, CCFPSE)
    return method


def batch() -> Batch:
    random = torch.Generator().manual_seed(0)
    label = torch.randint(0, 14, (2, 8, 8), generator=random).repeat_interleave(8, 1).repeat_interleave(8, 2)
    return Batch(label, torch.rand(2, 3, 64, 64, generator=random) * 2 - 1)


def test_losses_are_means_over_predictions_and_layers() -> None:
    method = build("loss.feature_matching=20")
    discriminator = method.networks["discriminator"].eval()
    data = batch()
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
