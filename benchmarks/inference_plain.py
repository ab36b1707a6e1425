"""Generators drawing plainly: with the package's weights, the way that SPADE and the released code compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from lab2pix.nn.coattention import LSCA
from lab2pix.nn.modulation import SPADE
from torch import Tensor, nn
from train_step_plain import plain_conv3x3_of_enlarged

from lab2pix.nn import encoders

__all__ = ["plainly"]


@contextmanager
def plainly(generator: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Let a generator compute plainly within; it changes classes, not only this object."""
    if not wanted:
        yield
        return
    norm, mix, distinct = SPADE.forward, LSCA.forward, encoders.conv3x3_of_enlarged
    label: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        label[:] = [inputs[0]]

    def resized(x: Tensor) -> Tensor:
        return F.interpolate(label[0], size=x.shape[-2:], mode="nearest")

    def modulate(
        self: SPADE, x: Tensor, _: Tensor, global_feature: Tensor | None = None, *, slope: float = 1.0
    ) -> Tensor:
        hidden = F.relu(self.shared(resized(x)))
        if global_feature is not None:
            hidden = hidden + global_feature
        modulated = self.norm(x) * (1 + self.gamma(hidden)) + self.beta(hidden)
        return modulated if slope == 1 else F.leaky_relu(modulated, slope)

    def attend(self: LSCA, previous: Tensor, current: Tensor, _: Tensor) -> Tensor:
        merged = F.relu(self.merge(F.interpolate(previous, scale_factor=2.0, mode="nearest")))
        guide = self.norm_label(F.relu(self.label(resized(current))))
        seen = torch.cat([self.norm_previous(merged), self.norm_current(current), guide], 1)
        attention = torch.sigmoid(self.attention(seen))
        return merged * attention + current * (1 - attention)

    handle = generator.register_forward_pre_hook(keep)
    SPADE.forward, LSCA.forward = modulate, attend  # type: ignore[assignment, method-assign]
    encoders.conv3x3_of_enlarged = plain_conv3x3_of_enlarged
    try:
        yield
    finally:
        handle.remove()
        SPADE.forward, LSCA.forward = norm, mix  # type: ignore[method-assign]
        encoders.conv3x3_of_enlarged = distinct
