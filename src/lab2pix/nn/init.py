"""Weight initialization."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Init = Literal["normal", "xavier", "kaiming", "orthogonal"]

_POWER_ITERATIONS = 15
"""As many as `spectral_norm` itself runs when it is registered."""


def xavier_init(module: nn.Module, gain: float = 0.02) -> None:
    """Initialize all convolution and linear weights: Xavier normal, biases 0 (5.2; the official V2's gain is 0.02).

    Args:
        module: any network; changed in place.
        gain: scale of the weights.
    """
    _reinitialize(module, partial(nn.init.xavier_normal_, gain=gain))


def normal_init(module: nn.Module, std: float = 0.02) -> None:
    """Initialize all convolution and linear weights: normal, biases 0 (5.2; the official V1's deviation is 0.02).

    Args:
        module: any network; changed in place.
        std: standard deviation of the weights.
    """
    _reinitialize(module, partial(nn.init.normal_, std=std))


def init_weights(module: nn.Module, kind: Init = "normal", gain: float = 0.02, *, biases: bool = True) -> None:
    """Initialize all weights as the code of Pix2Pix, CycleGAN and SPADE, which also draws those of batch norms.

    Args:
        module: any network; changed in place.
        kind: distribution of convolution and linear weights; Kaiming's is normal, by fan in, without a gain.
        gain: standard deviation (`normal`) or gain of the weights; batch norm's weights are N(1, gain).
        biases: whether to set biases to 0; Pix2PixHD's convolutions keep those that PyTorch draws.
    """
    fills: dict[Init, Callable[[Tensor], Tensor]] = {
        "normal": partial(nn.init.normal_, std=gain),
        "xavier": partial(nn.init.xavier_normal_, gain=gain),
        "kaiming": nn.init.kaiming_normal_,
        "orthogonal": partial(nn.init.orthogonal_, gain=gain),
    }
    _reinitialize(module, fills[kind], biases=biases)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight, 1, gain)
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def _reinitialize(module: nn.Module, fill: Callable[[Tensor], Tensor], *, biases: bool = True) -> None:
    """Fill all weights.

    With spectral norm, the original weight is filled and its singular vectors are computed: those of the old weight
    would scale the first steps by a wrong norm.
    """
    for layer in module.modules():
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            continue
        if parametrize.is_parametrized(layer, "weight"):
            stack = cast(nn.ModuleDict, layer.parametrizations)["weight"]
            assert isinstance(stack, parametrize.ParametrizationList)
            weight = stack.original
            assert isinstance(weight, Tensor)
            fill(weight)
            _run_power_iterations(stack, weight)
        else:
            fill(layer.weight)
        if biases and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _run_power_iterations(stack: parametrize.ParametrizationList, weight: Tensor) -> None:
    """Run each parametrization's power iterations, which happen on every call in training mode."""
    for parametrization in stack:
        training = parametrization.training
        parametrization.train()
        for _ in range(_POWER_ITERATIONS):
            parametrization(weight)
        parametrization.train(training)
