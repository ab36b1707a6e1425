from __future__ import annotations

import math

import pytest
from torch import nn

from lab2pix.labels.space import LabelSpace
from lab2pix.methods import build_generator, build_method
from lab2pix.recipes import load_config
from tests.helpers.tiny import tiny as tiny_v1

SPACE = LabelSpace.load("scenes")
V2 = {"base": "v2-small", "generator": {"width": 8}, "train": {"init_gain": None}}


def config_of(method: str, *overrides: str):
    return load_config(V2, list(overrides)) if method == "lab2pix-v2" else tiny_v1(*overrides)


def sizes(network: nn.Module) -> dict[str, tuple[float, float]]:
    """Return deviation and Xavier's deviation at gain 1 of every large convolution, spectral norms taken off."""
    found = {}
    for name, weight in network.named_parameters():
        if weight.ndim == 4 and weight.numel() >= 2000:
            fans = (weight.shape[0] + weight.shape[1]) * weight[0, 0].numel()
            found[name] = (weight.std().item(), math.sqrt(2 / fans))
    assert len(found) >= 5
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lab2pix-v1", "lab2pix-v2"])
@pytest.mark.parametrize("gain", [0.3, 1.0])
def test_init_gain_sets_the_initial_weights_of_both_networks(method: str, gain: float) -> None:
    built = build_method(config_of(method, f"train.init_gain={gain}"), SPACE, pretrained=False)
    for network in (built.networks["discriminator"], build_generator(built.config, SPACE)):
        for name, (deviation, xavier) in sizes(network).items():
            assert deviation == pytest.approx(gain * xavier, rel=0.1), name


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lab2pix-v1", "lab2pix-v2"])
def test_without_init_gain_the_initial_weights_are_the_released_ones(method: str) -> None:
    built = build_method(config_of(method), SPACE, pretrained=False)
    for network in (built.networks["discriminator"], build_generator(built.config, SPACE)):
        for name, (deviation, xavier) in sizes(network).items():
            assert deviation == pytest.approx(0.02 if method == "lab2pix-v1" else 0.02 * xavier, rel=0.1), name
