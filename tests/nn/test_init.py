from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from lab2pix.nn.init import Init, init_weights, normal_init, xavier_init


def test_xavier_init_fills_weights_and_zeroes_biases() -> None:
    network = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Flatten(), nn.Linear(128, 256))
    xavier_init(network, gain=0.5)
    for layer, fans in ((network[0], 96 * 9), (network[2], 384)):
        assert layer.weight.std().item() == pytest.approx(0.5 * math.sqrt(2 / fans), rel=0.05)
        assert layer.weight.mean().abs() < 1e-3
        assert not layer.bias.any()


@pytest.mark.parametrize(("given", "deviation"), [({}, 0.02), ({"std": 0.5}, 0.5)])
def test_normal_init_fills_weights_and_zeroes_biases(given: dict[str, float], deviation: float) -> None:
    network = nn.Sequential(nn.Conv2d(32, 64, 3), nn.Flatten(), nn.Linear(128, 256))
    normal_init(network, **given)
    for layer in (network[0], network[2]):
        assert layer.weight.std().item() == pytest.approx(deviation, rel=0.02)
        assert layer.weight.mean().abs() < 0.02 * deviation
        assert not layer.bias.any()


@pytest.mark.parametrize("initialize", [xavier_init, normal_init])
def test_init_keeps_norms(initialize: Callable[[nn.Module], None]) -> None:
    norm = nn.BatchNorm2d(4)
    initialize(norm)
    assert torch.equal(norm.weight, torch.ones(4))


@pytest.mark.parametrize("initialize", [xavier_init, normal_init])
@pytest.mark.parametrize("training", [True, False])
def test_init_finds_the_singular_vectors_of_the_new_weight(
    training: bool, initialize: Callable[[nn.Module], None]
) -> None:
    layer = spectral_norm(nn.Conv2d(4, 8, 3)).train(training)
    initialize(layer)
    assert layer.parametrizations.weight.original.std() < 0.03
    assert layer.parametrizations.weight[0].training == training
    layer.eval()
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.1)


def test_init_depends_on_the_seed_alone() -> None:
    weights = []
    for _ in range(2):
        layer = nn.Linear(3, 3)
        torch.manual_seed(7)
        xavier_init(layer)
        weights.append(layer.weight)
    assert torch.equal(*weights)


@pytest.mark.parametrize(
    ("kind", "deviation"),
    [
        ("normal", 0.02),
        ("xavier", 0.02 * math.sqrt(2 / 1600)),
        ("kaiming", math.sqrt(2 / 1024)),
        ("orthogonal", 0.02 / 32),
    ],
)
def test_init_weights_draws_all_kinds(kind: Init, deviation: float) -> None:
    network = nn.Sequential(nn.Conv2d(64, 36, 4), nn.ConvTranspose2d(36, 64, 4), nn.BatchNorm2d(64))
    init_weights(network, kind)
    assert network[0].weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert not network[0].bias.any() and not network[1].bias.any() and not network[2].bias.any()
    assert network[1].weight.abs().max() < 10 * deviation
    assert network[2].weight.mean().item() == pytest.approx(1, abs=0.01)
    assert network[2].weight.std().item() == pytest.approx(0.02, rel=0.3)
