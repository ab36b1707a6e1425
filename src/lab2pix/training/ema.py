"""Exponential moving averages of networks' weights, which sample more steadily than the last step's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lab2pix.methods import Averaging
from lab2pix.nn.fast._torch import lerp_all_

__all__ = ["ModelEma"]


class ModelEma:
    """A copy of a network whose weights follow the original slowly.

    Args:
        network: what to follow.
        decay: how much of the average stays at each step.
        settings: what becomes of buffers, and whether early steps keep less.
    """

    def __init__(self, network: nn.Module, decay: float, settings: Averaging) -> None:
        self.decay, self.settings = decay, settings
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step (counted from 0).

        Spectral norm keeps its unnormalized weight as the parameter: that one is averaged, and its two vectors are
        buffers like the statistics of batch norm.
        """
        decay = min(self.decay, (1 + step) / (10 + step)) if self.settings.warmup else self.decay
        averages: list[Tensor] = list(self.network.parameters())
        originals: list[Tensor] = list(network.parameters())
        lerp_all_(averages, originals, 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            if self.settings.buffers == "average" and mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)
