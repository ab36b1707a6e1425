"""Exponential moving averages (EMA) of network weights, for sampling."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lab2pix.methods import Averaging
from lab2pix.nn.fast._torch import lerp_all_


class ModelEma:
    """Copy of a network with exponentially averaged weights."""

    def __init__(self, network: nn.Module, decay: float, settings: Averaging) -> None:
        self.decay, self.settings = decay, settings
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the average with the weights after a step (counted from 0).

        With spectral norm, the unnormalized weight is the parameter and is averaged; the power iteration vectors are
        buffers, as are the statistics of batch norm.
        """
        decay = min(self.decay, (1 + step) / (10 + step)) if self.settings.warmup else self.decay
        averages: list[Tensor] = list(self.network.parameters())
        originals: list[Tensor] = list(network.parameters())
        lerp_all_(averages, originals, 1 - decay)
        averaged = self.settings.buffers == "average"
        for average, original in zip(self.network.buffers(), network.buffers(), strict=True):
            # A copy into integers, the counters of batch norm, truncates.
            average.copy_(torch.lerp(average.float(), original.float(), 1 - decay) if averaged else original)
