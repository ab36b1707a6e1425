"""A moving average of the generator's weights, which draws steadier pictures than the last step's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from lab2pix.nn.fast._torch import lerp_all_

__all__ = ["ModelEma"]


class ModelEma:
    """A copy of a network whose parameters follow the original slowly and whose buffers are the original's.

    Args:
        network: what to follow.
        decay: how much of the average stays at each step; early steps keep less, so that the first weights fade.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step (counted from 0).

        Spectral norm keeps its unnormalised weight as the parameter: that one is averaged, and its two vectors are
        copied like the statistics of batch norm.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.network.parameters())
        originals: list[Tensor] = list(network.parameters())
        lerp_all_(averages, originals, 1 - decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
